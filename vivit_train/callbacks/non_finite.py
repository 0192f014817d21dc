"""What happens when a loss or a gradient is not finite."""

import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from vivit_train.data.batch import ClipBatch
from vivit_train.errors import UserError

ACTIONS = ("stop", "skip")
MAX_CONSECUTIVE = 20  # a gradient scaler that starts at 2^16 needs fewer to find its scale
MAX_NAMES = 16


class Micro(NamedTuple):
    """One batch of a step: rows of its videos int64 ``[B]``, and its loss."""

    rows: Tensor
    loss: Tensor


class Pending(NamedTuple):
    """A step of which the device has not yet said whether it is finite."""

    step: int
    verdict: Tensor
    arrived: torch.cuda.Event | None
    batches: list[Micro]


class NonFinite(Callback):
    """Stops at a step whose loss or gradient is not finite, or leaves that step out.

    ``stop`` checks a step while the next one is under way, so it never waits for the device; no
    checkpoint is written before its step has been checked. ``skip`` must check before the weights
    change and so waits for the device once per step; it drops the gradients, and the optimiser then
    leaves weights and state as they are. With 16-mixed the gradient scaler itself skips such steps.
    All processes agree on the result.

    Args:
        action: ``stop`` or ``skip``.

    Raises:
        UserError: If the action is another word.
    """

    def __init__(self, action: str = "stop") -> None:
        if action not in ACTIONS:
            raise UserError(f"callbacks.non_finite={action!r} is not one of {', '.join(ACTIONS)}")
        self.action = action
        self.skipped = 0
        self.consecutive = 0
        self._rows = torch.empty(0)
        self._batches: list[Micro] = []
        self._pending: Pending | None = None

    def state_dict(self) -> dict[str, Any]:
        """How many steps were left out."""
        return {"skipped": self.skipped, "consecutive": self.consecutive}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        self.skipped = int(state_dict["skipped"])
        self.consecutive = int(state_dict["consecutive"])

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: ClipBatch, batch_idx: int
    ) -> None:
        """Remembers which videos the loss will be of."""
        self._rows = batch.indices

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Remembers the loss."""
        self._batches.append(Micro(self._rows, loss.detach()))

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Judges the step that is about to be taken.

        Raises:
            UserError: If this or the last step ends the run.
        """
        self._settle(trainer)
        norm = gradient_norm(optimizer)
        pl_module.gradient_norm = norm  # by which the module clips
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm  # of all shards
        pl_module.log("train/grad_norm", norm)  # before clipping
        step = self._judge(trainer, norm)
        self._batches = []
        if self.action == "skip" and _scaler(trainer) is None:
            if self._is_bad(trainer, step):
                optimizer.zero_grad()  # to None, by which optimisers leave a weight alone
        else:
            self._pending = step

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Lets no checkpoint be written of weights that are not finite.

        Raises:
            UserError: If they are not.
        """
        self._settle(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judges the last step.

        Raises:
            UserError: If it is not finite.
        """
        self._settle(trainer)

    def _judge(self, trainer: Trainer, norm: Tensor) -> Pending:
        losses = [batch.loss.to(norm) for batch in self._batches]
        verdict = (~torch.isfinite(torch.stack([norm, *losses]))).any().to(torch.uint8)
        if trainer.world_size > 1:
            dist.all_reduce(verdict, dist.ReduceOp.MAX)
        arrived = None
        if verdict.is_cuda:
            host = torch.empty((), dtype=torch.uint8, pin_memory=True)
            verdict = host.copy_(verdict, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        return Pending(trainer.global_step, verdict, arrived, self._batches)

    def _settle(self, trainer: Trainer) -> None:
        step, self._pending = self._pending, None
        if step is not None:
            self._is_bad(trainer, step)

    def _is_bad(self, trainer: Trainer, step: Pending) -> bool:
        if step.arrived is not None:
            step.arrived.synchronize()
        if not step.verdict:
            self.consecutive = 0
            return False
        skips = self.action == "skip" or _scaler(trainer) is not None
        self.skipped += skips
        self.consecutive += 1
        told = self._describe(trainer, step)
        if not skips or self.consecutive >= MAX_CONSECUTIVE:
            if not trainer.is_global_zero:
                sys.exit(1)
            raise UserError(f"{told}. {self._advice(skips)}")
        rank_zero_warn(f"{told}: this step is skipped ({self.skipped} so far)")
        return True

    def _advice(self, skips: bool) -> str:
        if skips:
            return (
                f"{self.consecutive} steps in a row were skipped, so training stops. Resume from "
                "the last checkpoint with a lower optim.lr, or with trainer.precision=32-true"
            )
        return (
            "No checkpoint holds the weights that this step made. Look at these videos. Lower "
            "optim.lr, or skip such steps with callbacks.non_finite=skip, and resume with "
            "ckpt_path=last"
        )

    def _describe(self, trainer: Trainer, step: Pending) -> str:
        """Names the step and, by the losses, the processes and videos that it comes from."""
        names = trainer.datamodule.records["train"].name  # type: ignore[attr-defined]
        bad = [batch for batch in step.batches if not torch.isfinite(batch.loss)]
        mine = (
            [names(row) for batch in bad for row in batch.rows.tolist()],
            [names(row) for batch in step.batches for row in batch.rows.tolist()],
        )
        everyone: list[Any] = [mine]
        if trainer.world_size > 1:
            everyone = [None] * trainer.world_size
            dist.all_gather_object(everyone, mine)
        culprits = {rank: bad for rank, (bad, _) in enumerate(everyone) if bad}
        if culprits:
            return f"the loss at step {step.step} is not finite, {_listed(culprits)}"
        every = {rank: videos for rank, (_, videos) in enumerate(everyone)}
        return (
            f"the gradient at step {step.step} is not finite, though every loss is, "
            f"{_listed(every)}"
        )


def gradient_norm(optimizer: Optimizer) -> Tensor:
    """The Euclidean norm of all gradients together; a DTensor where they are sharded."""
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    gradients = [p.grad for p in parameters if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients, foreach=True)


def _scaler(trainer: Trainer) -> Any:
    return getattr(trainer.precision_plugin, "scaler", None)


def _listed(videos: Mapping[int, Iterable[str]]) -> str:
    told = []
    for rank, names in videos.items():
        unique = list(dict.fromkeys(names))
        more = f" and {len(unique) - MAX_NAMES} more" if len(unique) > MAX_NAMES else ""
        told.append(f"on process {rank} with the videos {', '.join(unique[:MAX_NAMES])}{more}")
    return "; ".join(told)
