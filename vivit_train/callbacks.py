"""What happens around the training step: seeds, checkpoints, meters, the progress bar."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, TQDMProgressBar
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from vivit_train.data.datamodule import LazyLoader, batches_done
from vivit_train.data.dataset import Batch
from vivit_train.data.sampler import derive_seed
from vivit_train.errors import UserError


class StepSeed(Callback):
    """Seeds each training step by (seed, step, rank).

    Dropout and drop path then draw the same in a resumed run as in one that never stopped, with
    no random state in the checkpoint, and differently on each rank.

    Args:
        seed: The run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Seeds torch's global generators, of the CPU and of every GPU."""
        step = trainer.fit_loop.epoch_loop.total_batch_idx
        torch.manual_seed(derive_seed(self.seed, "step", step, trainer.global_rank))


class Checkpoints(Checkpoint):
    """Keeps ``last.ckpt``, from which the run goes on, and ``best.ckpt``, the best validation.

    One callback writes both: Lightning's ``ModelCheckpoint`` saves either every so many steps or
    after epochs, and serialises twice when the last is also the best.

    Args:
        folder: Where to write.
        monitor: The validation score that says which is best; higher is better.
        every_n_train_steps: Optimiser steps between saves inside an epoch; 0: only after each
            validation and epoch.
    """

    def __init__(
        self, folder: str | Path, monitor: str = "val/top1", every_n_train_steps: int = 0
    ) -> None:
        self.folder = Path(folder)
        self.monitor = monitor
        self.every_n_train_steps = every_n_train_steps
        self.best_score = float("-inf")
        self._last_saved_step = -1

    @property
    def best(self) -> Path:
        """Path of the best checkpoint."""
        return self.folder / "best.ckpt"

    @property
    def last(self) -> Path:
        """Path of the last checkpoint."""
        return self.folder / "last.ckpt"

    def state_dict(self) -> dict[str, Any]:
        """The best score so far, so that a resumed run does not overwrite a better one."""
        return {"best_score": self.best_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        self.best_score = state_dict["best_score"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes all ranks write to rank 0's folder."""
        self.folder = Path(trainer.strategy.broadcast(str(self.folder)))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts the step at which training starts as saved.

        With gradient accumulation it lasts for several batches more, after each of which a
        checkpoint would lack the gradients so far.
        """
        self._last_saved_step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Saves every so many optimiser steps."""
        step = trainer.global_step
        if self.every_n_train_steps and step % self.every_n_train_steps == 0:
            self._save_last(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves, and keeps the file as the best if it is.

        Raises:
            UserError: If validation gives no score of the name to monitor.
        """
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.monitor not in trainer.callback_metrics:
            scores = [name for name in trainer.callback_metrics if name.startswith("val/")]
            raise UserError(
                f"callbacks.monitor={self.monitor} is not among the validation's scores: "
                f"{', '.join(scores)}"
            )
        score = float(trainer.callback_metrics[self.monitor])
        if not score > self.best_score:  # nor NaN
            self._save_last(trainer)
            return
        self.best_score = score  # before saving: the checkpoint carries it
        # The best before the last: a run killed in between goes on from the previous last, which
        # knows nothing of this score, and arrives here again.
        trainer.save_checkpoint(self.best)
        self._last_saved_step = trainer.global_step
        if trainer.is_global_zero:
            # Another name for the same bytes: neither file is ever overwritten, only replaced.
            link_or_copy(self.best, self.last)
        trainer.strategy.barrier("best checkpoint")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves after an epoch that had no validation."""
        self._save_last(trainer)

    def _save_last(self, trainer: Trainer) -> None:
        if trainer.global_step != self._last_saved_step:
            self._last_saved_step = trainer.global_step
            trainer.save_checkpoint(self.last)


def link_or_copy(source: Path, target: Path) -> None:
    """Gives a file a second name atomically; copies where the file system has no hard links."""
    temporary = target.with_name(f"{target.name}.tmp-{os.getpid()}")
    try:
        os.link(source, temporary)
    except OSError:
        temporary.write_bytes(source.read_bytes())
    os.replace(temporary, target)


class BrokenVideos(Callback):
    """Names each video that cannot be decoded once, and stops a run that has too many.

    Args:
        max_bad_fraction: Fraction of an epoch's samples of this process.
    """

    def __init__(self, max_bad_fraction: float) -> None:
        self.max_bad_fraction = max_bad_fraction
        self.named: set[str] = set()
        self.count = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts afresh each epoch."""
        self.count = 0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Counts and names what the batch's workers could not decode.

        Raises:
            UserError: If more than ``max_bad_fraction`` of the epoch is broken.
        """
        for error in batch.broken:
            if error.path not in self.named:
                self.named.add(error.path)
                rank_zero_warn(f"replaced by another video, cannot decode {error}")
        self.count += len(batch.broken)
        samples = int(trainer.num_training_batches) * len(batch.labels)
        if self.count > self.max_bad_fraction * samples:
            raise UserError(
                f"{self.count} of this epoch's {samples} samples could not be decoded, more than "
                f"data.max_bad_fraction={self.max_bad_fraction}, e.g. {sorted(self.named)[0]}. "
                "Mend or remove the files, or raise data.max_bad_fraction"
            )


class Meter(Callback):
    """Measures clips per second and the share of time spent waiting for data.

    Both are of all processes together, over the steps since the last log, and are logged as
    ``train/clips_per_second`` and ``train/data_wait``.

    Args:
        every_n_batches: Batches between logs; 0: never.
    """

    def __init__(self, every_n_batches: int) -> None:
        self.every_n_batches = every_n_batches

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts a span; a run that resumes inside an epoch does not start that epoch."""
        self._begin(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts a span; validation between epochs does not count."""
        self._begin(trainer)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Counts the batch, and logs when it is time."""
        self.clips += len(batch.labels)
        if self.every_n_batches and (batch_idx + 1) % self.every_n_batches == 0:
            seconds = time.perf_counter() - self.start
            waited = _waited(trainer) - self.waited
            pl_module.log_dict(
                {
                    "train/clips_per_second": trainer.world_size * self.clips / seconds,
                    "train/data_wait": waited / seconds,
                }
            )
            self._begin(trainer)

    def _begin(self, trainer: Trainer) -> None:
        self.start, self.clips = time.perf_counter(), 0
        self.waited = _waited(trainer)


def _waited(trainer: Trainer) -> float:
    loader = trainer.train_dataloader
    assert isinstance(loader, LazyLoader)
    return loader.wait_seconds


class Progress(TQDMProgressBar):
    """A bar with loss, top-1, clips/s, time left in the run and the share of waiting for data.

    Where the output is not a terminal it prints a line now and then instead, so that a log file
    of a cluster shows progress too.

    Args:
        refresh_rate: Batches between updates of the bar.
        line_seconds: Seconds between lines where there is no terminal.
    """

    def __init__(self, refresh_rate: int = 1, line_seconds: float = 10) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self.line_seconds = line_seconds
        self.is_terminal = sys.stderr.isatty()
        self._last_line = 0.0
        if not self.is_terminal:
            self.disable()

    def enable(self) -> None:
        """Turns the bar on, where there is a terminal (Lightning calls it on rank 0)."""
        if self.is_terminal:
            super().enable()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, str]:  # type: ignore[override]
        """The figures beside the bar."""
        return self._figures(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remembers when training began, for the time left."""
        super().on_train_start(trainer, pl_module)
        self._start = time.perf_counter()
        self._first_batch = batches_done(trainer)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Updates the bar, or prints a line when one is due."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        now = time.perf_counter()
        due = now - self._last_line > self.line_seconds
        if not self.is_terminal and trainer.is_global_zero and due:
            self._last_line = now
            figures = " ".join(f"{k} {v}" for k, v in self._figures(trainer).items())
            position = f"{batch_idx + 1}/{int(trainer.num_training_batches)}"
            print(f"epoch {trainer.current_epoch} [{position}] {figures}", flush=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the scores, above the bar or as a line."""
        super().on_validation_end(trainer, pl_module)
        if trainer.sanity_checking or trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        scores = trainer.callback_metrics
        names = [name for name in ("val/loss", "val/top1", "val/top5") if name in scores]
        text = "  ".join(f"{name} {float(scores[name]):.4f}" for name in names)
        self._write(f"epoch {trainer.current_epoch} done  {text}")

    def _write(self, text: str) -> None:
        if self.is_terminal:
            self.train_progress_bar.write(text)
        else:
            print(text, flush=True)

    def _figures(self, trainer: Trainer) -> dict[str, str]:
        scores = trainer.callback_metrics
        figures = {
            "loss": ("train/loss", "{:.3f}"),
            "top1": ("train/top1", "{:.2f}"),
            "clips/s": ("train/clips_per_second", "{:.1f}"),
            "wait": ("train/data_wait", "{:.0%}"),
        }
        shown = {
            label: form.format(float(scores[key]))
            for label, (key, form) in figures.items()
            if key in scores
        }
        return shown | {"left": self._time_left(trainer)}

    def _time_left(self, trainer: Trainer) -> str:
        done = batches_done(trainer)
        total = int(trainer.num_training_batches) * (trainer.max_epochs or 0)
        if trainer.max_steps > 0:
            steps = trainer.max_steps * trainer.accumulate_grad_batches
            total = min(total, steps) if total > 0 else steps
        if done <= self._first_batch:
            return "?"
        per_batch = (time.perf_counter() - self._start) / (done - self._first_batch)
        minutes, seconds = divmod(round(per_batch * max(0, total - done)), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}"
