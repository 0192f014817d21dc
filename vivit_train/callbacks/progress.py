"""How far a run is: a bar with its figures, or lines where the output is no terminal."""

import math
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import Tensor

from vivit_train.data.loader import batches_done
from vivit_train.io.terminal import say


class Progress(TQDMProgressBar):
    """A bar with loss, top-1 or F1, clips/s, waiting for data, decoding per clip, and time left.

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
        self._scores = LateScores()
        self._first_batch = math.inf  # before training, as in the sanity check
        if not self.is_terminal:
            self.disable()

    def enable(self) -> None:
        """Turns the bar on, where there is a terminal (Lightning calls it on rank 0)."""
        if self.is_terminal:
            super().enable()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, str]:  # type: ignore[override]
        """The figures beside the bar, or in a line."""
        scores = self._scores.read(trainer.callback_metrics)
        figures = {
            "loss": ("train/loss", "{:.3f}"),
            "top1": ("train/top1", "{:.2f}"),
            "f1": ("train/micro_f1", "{:.2f}"),
            "clips/s": ("train/clips_per_second", "{:.1f}"),
            "wait": ("train/data_wait", "{:.0%}"),
            "decode": ("train/decode_ms", "{:.0f}ms"),
        }
        shown = {
            label: form.format(scores[key])
            for label, (key, form) in figures.items()
            if key in scores
        }
        return shown | {"left": self._time_left(trainer)}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remembers when training began, for the time left."""
        super().on_train_start(trainer, pl_module)
        self._start = time.perf_counter()
        self._first_batch = batches_done(trainer)

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Names the epoch beside the bar."""
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(epoch_in_words(trainer))

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Updates the bar, or prints a line when one is due."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self._is_due(trainer):
            figures = self.get_metrics(trainer, pl_module)
            told = " ".join(f"{name} {figure}" for name, figure in figures.items())
            position = f"{batch_idx + 1}/{int(trainer.num_training_batches)}"
            say(f"{epoch_in_words(trainer)} [{position}] {told}")

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *place: int
    ) -> None:
        """Updates the bar, or prints a line when one is due."""
        super().on_validation_batch_end(trainer, pl_module, outputs, batch, *place)
        if self._is_due(trainer):
            say(f"validating [{place[0] + 1}/{int(sum(trainer.num_val_batches))}]")

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *place: int
    ) -> None:
        """Updates the bar, or prints a line when one is due."""
        super().on_test_batch_end(trainer, pl_module, outputs, batch, *place)
        if self._is_due(trainer):
            say(f"testing [{place[0] + 1}/{int(sum(trainer.num_test_batches))}]")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the scores, above the bar or as a line."""
        super().on_validation_end(trainer, pl_module)
        if trainer.sanity_checking or trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        scores = trainer.callback_metrics
        shown = ("val/loss", "val/top1", "val/top5", "val/map", "val/micro_f1")
        names = [name for name in shown if name in scores]
        text = "  ".join(f"{name} {float(scores[name]):.4f}" for name in names)
        done = batches_done(trainer) % int(trainer.num_training_batches) == 0
        where = "done" if done else f"at step {trainer.global_step}"
        self._write(f"{epoch_in_words(trainer)} {where}  {text}")

    def _is_due(self, trainer: Trainer) -> bool:
        """Whether a line is to be printed where there is no bar."""
        now = time.perf_counter()
        due = now - self._last_line > self.line_seconds
        if self.is_terminal or not trainer.is_global_zero or not due:
            return False
        self._last_line = now
        return True

    def _write(self, text: str) -> None:
        if self.is_terminal:
            self.train_progress_bar.write(text)
        else:
            say(text)

    def _time_left(self, trainer: Trainer) -> str:
        done = batches_done(trainer)
        if done <= self._first_batch:
            return "?"
        per_batch = (time.perf_counter() - self._start) / (done - self._first_batch)
        minutes, seconds = divmod(round(per_batch * max(0, _batches(trainer) - done)), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}"


class LateScores:
    """Reads scores without waiting for a GPU: those of the last look, which have arrived since."""

    def __init__(self) -> None:
        self._known: dict[str, float] = {}
        self._coming: dict[str, Tensor] = {}
        self._arrived: torch.cuda.Event | None = None

    def read(self, scores: Mapping[str, Tensor]) -> dict[str, float]:
        """The scores; where some are on a GPU, those of an earlier call, at first none."""
        if not any(score.is_cuda for score in scores.values()):
            return {name: float(score) for name, score in scores.items()}
        if self._arrived is not None and self._arrived.query():
            self._known = {name: float(score) for name, score in self._coming.items()}
            self._arrived = None
        if self._arrived is None:
            self._coming = {name: s.to("cpu", non_blocking=True) for name, s in scores.items()}
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        return self._known


def _batches(trainer: Trainer) -> int:
    """Training batches of the whole run."""
    total = int(trainer.num_training_batches) * (trainer.max_epochs or 0)
    if trainer.max_steps > 0:
        steps = trainer.max_steps * trainer.accumulate_grad_batches
        total = min(total, steps) if total > 0 else steps
    return total


def epoch_in_words(trainer: Trainer) -> str:
    """The epoch at hand as people count, ``epoch 1 of 5``; Lightning's own numbers begin at 0."""
    epochs = -(-_batches(trainer) // int(trainer.num_training_batches))
    return f"epoch {trainer.current_epoch + 1} of {epochs}"
