"""The LightningModule: what a training step and an evaluation step are."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lightning import LightningModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from vivit_train.config import check_warmup
from vivit_train.data.batch import ClipBatch
from vivit_train.data.datamodule import VideoDataModule
from vivit_train.data.sampler import limited
from vivit_train.describe.memory import types_of
from vivit_train.errors import UserError
from vivit_train.io.terminal import say
from vivit_train.launch.sharding import Sharded
from vivit_train.losses import loss_of
from vivit_train.metrics import Scores, scores_for
from vivit_train.model.kernels import force_kernel, settle_kernel
from vivit_train.model.vivit import ViViT
from vivit_train.optim import (
    build_optimizer,
    check_restored,
    freeze,
    hyper_parameters,
    scaled_lr,
    schedule_of_class,
    set_hyper_parameters,
    warmup_cosine,
)


class VivitModule(LightningModule):
    """Trains and evaluates a ViViT.

    Everything that the constructor takes is plain (numbers, strings, lists, dicts) and goes into
    the checkpoint, which thereby says by itself what it needs: `vivit_train.load` reads it.

    Args:
        model: Arguments of `ViViT`, ``num_classes`` included.
        class_names: The classes in the order of the head's rows.
        processor: Settings of the image processor that the model is trained with.
        sampling: What it is trained with: `Sampling.contract`, ``eval_views`` and ``video_rate``,
            the videos' frames per second.
        optim: Optimiser, schedule and label smoothing, as in ``configs/optim``.
        config: The whole resolved configuration of the run.
        heads: Name and number of classes of each head, in the order of ``class_names``, where a
            video has several classes (EPIC-Kitchens: nouns, verbs); empty: one head.
        multi_label: Whether a video has any number of the classes: of each the logit's sigmoid.

    Attributes:
        class_weights: Float ``[K]``, of the classes in the training loss; ``None``: 1 each.
        attention_kernel: What was asked for: ``auto``, or see `force_kernel`.
        kernel_used: The kernel of the first batch that was trained on or tested.
        gradient_norm: Of all gradients of this step, before clipping; ``None``: not yet computed.
    """

    def __init__(
        self,
        model: dict[str, Any],
        class_names: list[str],
        processor: dict[str, Any],
        sampling: dict[str, Any],
        optim: dict[str, Any],
        config: dict[str, Any],
        heads: dict[str, int],
        multi_label: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.model = ViViT(**model)
        self.class_names = class_names
        self.optim = optim
        self.heads = heads
        self.multi_label = multi_label
        self.accuracy: Scores | None = None
        self.is_compiled = False
        self.attention_kernel = "auto"
        self.kernel_used: str | None = None
        self.gradient_norm: Tensor | None = None
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", None, persistent=False)
        self._frozen: list[nn.Module] = []
        self._hyper_parameters: list[dict[str, Any]] = []
        self._total_steps = 0
        self._chunk_size = 0

    def freeze_parts(self, what: str | Sequence[str] | None, lora_rank: int | None = None) -> None:
        """Trains only a part of the model from here on; see `vivit_train.optim.freeze`."""
        self._frozen = freeze(self.model, what, lora_rank)
        self.train(self.training)

    def compile_blocks(self) -> None:
        """Compiles the model block by block, at the first batch; see `ViViT.compile_blocks`."""
        self.is_compiled = True
        self.model.compile_blocks()

    def force_kernel(self, kernel: str) -> None:
        """Has one kernel compute all attention; see `vivit_train.model.kernels.force_kernel`."""
        self.attention_kernel = kernel
        force_kernel(self.model, kernel)

    def on_train_batch_start(self, batch: ClipBatch, batch_idx: int) -> None:
        """Finds out which attention kernel the run has, and whether it can be deterministic."""
        if batch.clips.device.type == "cuda":
            check_deterministic(self.model, batch.clips)
        self._settle_kernel(batch)

    def on_test_batch_start(
        self, batch: ClipBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Finds out which attention kernel the test has, where nothing was trained."""
        self._settle_kernel(batch)

    def _settle_kernel(self, batch: ClipBatch) -> None:
        if self.kernel_used is not None:
            return
        dtype, autocast = types_of(str(self.trainer.precision))
        self.kernel_used = settle_kernel(
            self.model, batch.clips, autocast or dtype, self.attention_kernel
        )
        if self.trainer.is_global_zero and self.device.type == "cuda":
            say(f"attention is computed by the kernel {self.kernel_used} (model.attention_kernel)")

    def configure_model(self) -> None:
        """Shards the model, with its weights loaded and before it has an optimiser."""
        if isinstance(self.trainer.strategy, Sharded):
            self.trainer.strategy.shard(self.model)

    def train(self, mode: bool = True) -> "VivitModule":
        """Training mode, but for what is frozen; or evaluation mode."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """Loss of a batch: cross-entropy with label smoothing and class weights, in float32.

        Multi-label it is the binary one. What is logged is the mean over all processes.

        ``train/top1`` counts the class with the larger share where mixup mixes two, and of several
        heads the videos that all of them get right. Multi-label `batch_f1` is in its place.
        """
        logits, targets = self.model(batch.clips), batch.targets
        smoothing, weights = self.optim["label_smoothing"], self.class_weights
        loss = loss_of(logits, targets, self.heads, self.multi_label, smoothing, weights)
        if self.multi_label:
            name, score = "train/micro_f1", batch_f1(logits, targets)
        else:
            right = batch.labels if batch.shares is None else best_classes(batch.shares, self.heads)
            is_right = best_classes(logits, self.heads) == right.view(len(logits), -1)
            name, score = "train/top1", is_right.all(dim=1).float().mean()
        logged = torch.stack([loss.detach(), score])
        if self._logs_this_step():
            logged = self.trainer.strategy.reduce(logged, reduce_op="mean")
        self.log("train/loss", logged[0], batch_size=len(logits))
        self.log(name, logged[1], batch_size=len(logits))
        # On the host: a copy to a GPU would wait for all that the GPU still has to do.
        self.log("train/lr", torch.tensor(highest_lr(self.trainer.optimizers[0])))
        return loss

    def _logs_this_step(self) -> bool:
        """Whether loggers get this step's values; the same on all processes.

        Only then are they averaged over the processes: the progress bar, which shows more steps,
        has those of the first process in between.
        """
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return every > 0 and (self.trainer.global_step + 1) % every == 0

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser and its schedule, stepped once per optimiser step."""
        optimizer = build_optimizer(self.model, self.optim | {"lr": self.learning_rate()})
        total, warmup = self.schedule_steps()
        self._total_steps = total
        floor = self.optim["min_lr_fraction"]
        schedule: LRScheduler
        if self.optim["schedule"]:
            schedule = schedule_of_class(self.optim["schedule"], optimizer, total)
        else:
            schedule = LambdaLR(optimizer, lambda step: warmup_cosine(step, total, warmup, floor))
        self._hyper_parameters = hyper_parameters(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Trains with this run's hyper-parameters, whatever a checkpoint has restored.

        The schedule of a run that is resumed with another length or rate is the one that it would
        have had from the start; the learning rate may jump, which is printed. One of
        ``optim.schedule`` goes on with what the checkpoint has, as nothing has changed there.
        """
        schedule = self.lr_schedulers()
        assert isinstance(schedule, LRScheduler)
        check_restored(schedule)
        if self.optim["schedule"]:
            return
        assert isinstance(schedule, LambdaLR)
        before = highest_lr(schedule.optimizer)
        set_hyper_parameters(schedule, self._hyper_parameters)
        now = highest_lr(schedule.optimizer)
        if now != before and self.trainer.is_global_zero:
            step, peak = self.trainer.global_step, max(schedule.base_lrs)
            say(
                f"learning rate {before:.4g} -> {now:.4g} at step {step}: the schedule is now that "
                f"of a run of {self._total_steps} steps with a highest rate of {peak:.4g}. A lower "
                "optim.lr lowers all of it; model.pretrained starts a new run, with its own "
                "warm-up, from a checkpoint's weights"
            )

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips by the norm that `NonFinite` has looked at, which is not computed twice."""
        norm, self.gradient_norm = self.gradient_norm, None
        if not gradient_clip_val:
            return
        if gradient_clip_algorithm in (None, "norm") and norm is not None:
            parameters = (p for group in optimizer.param_groups for p in group["params"])
            torch.nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm, foreach=True)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def learning_rate(self) -> float:
        """``optim.lr``, scaled to this run's clips per step if ``optim.lr_batch_size`` asks so."""
        lr, meant_for, trainer = self.optim["lr"], self.optim["lr_batch_size"], self.trainer
        if meant_for is None:
            return lr
        factors = (self.data.batch_size, trainer.accumulate_grad_batches, trainer.world_size)
        scaled = scaled_lr(lr, meant_for, math.prod(factors))
        if trainer.is_global_zero:
            say(
                f"learning rate {scaled:.4g}: optim.lr={lr:.4g} is for {meant_for} clips per step "
                f"(optim.lr_batch_size), this run has {math.prod(factors)} (batch {factors[0]} x "
                f"{factors[1]} accumulated x {factors[2]} processes)"
            )
        return scaled

    def schedule_steps(self) -> tuple[int, float]:
        """(steps of the run, steps of its warm-up), in optimiser steps.

        Worked out from the data and the trainer's limits; Lightning's own estimate would build
        the loaders before a resumed run has restored its progress.

        Raises:
            UserError: If the run has no end, or validation is asked for after more batches than an
                epoch has.
        """
        trainer = self.trainer
        batches = limited(len(self.data.train_dataloader()), trainer.limit_train_batches)
        interval = trainer.val_check_interval
        counts_within_epochs = trainer.check_val_every_n_epoch is not None
        if isinstance(interval, int) and interval > batches and counts_within_epochs:
            raise UserError(
                f"trainer.val_check_interval={interval}: an epoch has {batches} batches. Give that "
                "or less, a share of the epoch such as 0.5, or, to count batches on from epoch to "
                "epoch, trainer.check_val_every_n_epoch=null"
            )
        steps_per_epoch = max(1, -(-batches // trainer.accumulate_grad_batches))
        ends = [trainer.max_steps] if trainer.max_steps > 0 else []
        max_epochs = trainer.max_epochs or -1
        ends += [steps_per_epoch * max_epochs] if max_epochs > 0 else []
        if not ends:
            raise UserError("trainer.max_epochs or trainer.max_steps must say when the run ends")
        total, warmup_epochs = min(ends), self.optim["warmup_epochs"]
        end = f"{total} steps of {steps_per_epoch} per epoch"
        check_warmup(warmup_epochs, total / steps_per_epoch, end)
        return total, warmup_epochs * steps_per_epoch

    def on_validation_epoch_start(self) -> None:
        """Starts the scores afresh."""
        self._start_scores("val")

    def on_test_epoch_start(self) -> None:
        """Starts the scores afresh."""
        self._start_scores("test")

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Scores a batch of videos."""
        self._score(batch)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Logs ``val/top1``, ``val/mean_class_accuracy``, ``val/loss`` and other scores.

        With several heads these are of actions, and each head has its own, e.g. ``val/verb_top1``.
        Multi-label they are ``val/map`` and others: see `MultiLabelScores`.
        """
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Logs the scores as ``test/...``."""
        self._log_scores("test")

    @property
    def data(self) -> VideoDataModule:
        """The DataModule that the trainer runs on."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def _start_scores(self, role: str) -> None:
        num_videos = len(self.data.records[role])
        # Not a sub-module: it belongs to one pass, and validation and test share nothing.
        accuracy = scores_for(len(self.class_names), num_videos, self.data.heads, self.multi_label)
        object.__setattr__(self, "accuracy", accuracy.to(self.device))
        self._chunk_size = 0

    def _score(self, batch: ClipBatch) -> None:
        """Averages the logits of each video's views, one row per video."""
        # As many views at a time as training has clips: what fits there fits here.
        assert self.accuracy is not None
        chunks = batch.clips.split(self.data.batch_size)
        logits = torch.cat([self._logits(clips) for clips in chunks])  # [B * views, K]
        logits = logits.unflatten(0, (len(batch.labels), -1)).mean(dim=1)  # [B, K]
        self.accuracy.update(logits, batch.labels, batch.indices, batch.decoded)

    def _logits(self, clips: Tensor) -> Tensor:
        """Float logits ``[B, K]``; a compiled model sees full batches only.

        For each new batch size it would be compiled again, the last one of the data among them.
        """
        num_clips = len(clips)
        if self.is_compiled:
            self._chunk_size = max(self._chunk_size, num_clips)
            clips = F.pad(clips, (0,) * 9 + (self._chunk_size - num_clips,))
        return self.model(clips)[:num_clips].float()

    def _log_scores(self, role: str) -> None:
        assert self.accuracy is not None
        scores = self.accuracy.compute()
        if role == "val" and "non_finite" in scores:  # the test ends in an error, see `results`
            rank_zero_warn(
                f"the logits of {scores['non_finite']} validation videos are NaN or infinite; they "
                "count as wrong"
            )
        if not self.trainer.sanity_checking:
            self.log_dict({f"{role}/{name}": value for name, value in scores.items()})
        if role == "val":  # nobody takes them for scores of a test
            object.__setattr__(self, "accuracy", None)


def check_deterministic(model: ViViT, clips: Tensor) -> None:
    """Refuses what has no deterministic gradient on a GPU, if ``trainer.deterministic=true``.

    Args:
        model: The model.
        clips: ``[B, C, T, H, W]`` that it is trained on.

    Raises:
        UserError: If the clips have another grid of tokens than the positions that are trained.
    """
    is_exact = torch.get_deterministic_debug_mode() == 2  # "error", where 1 is "warn"
    trains = any(encoder.pos_embed.requires_grad for encoder in model.encoders)
    grid = model.embed.grid(*clips.shape[2:])
    if is_exact and trains and grid != model.grid:
        raise UserError(
            f"trainer.deterministic=true: these clips have {grid} tokens along time, height and "
            f"width, and the model's positions {model.grid}. The gradient of the interpolation "
            "between them is not deterministic on a GPU: give the model the clips' size "
            "(model.num_frames, model.image_size), or set trainer.deterministic=false"
        )


def highest_lr(optimizer: Optimizer) -> float:
    """The learning rate of the head; those of the layers below it may be lower."""
    return max(group["lr"] for group in optimizer.param_groups)


def best_classes(scores: Tensor, heads: Mapping[str, int]) -> Tensor:
    """The best class within each head, or of all: float ``[B, K]`` -> int64 ``[B, heads or 1]``."""
    parts = scores.split(list(heads.values()), dim=1) if heads else [scores]
    return torch.stack([part.argmax(dim=1) for part in parts], dim=1)


def batch_f1(logits: Tensor, targets: Tensor) -> Tensor:
    """F1 of all pairs of a clip and a class in a batch, at a probability of 0.5.

    Args:
        logits: Float ``[B, K]``.
        targets: 0 or 1, or where clips are mixed between: a half and more is 1. ``[B, K]``.
    """
    taken, own = logits >= 0, targets >= 0.5
    return 2 * (taken & own).sum() / (taken.sum() + own.sum()).clamp(min=1)
