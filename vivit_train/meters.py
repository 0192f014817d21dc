"""What a run shows of itself: speed, waiting for data, the progress bar."""

import sys
import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from vivit_train.data.dataset import Batch
from vivit_train.data.loader import LazyLoader, batches_done


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
