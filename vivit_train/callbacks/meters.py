"""What a run shows of itself: speed, waiting for data, the progress bar."""

import math
import sys
import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from vivit_train.data.batch import ClipBatch
from vivit_train.data.loader import LazyLoader, batches_done, cores_per_process
from vivit_train.io.terminal import say

# A run that waits for more of its time than this is told what would help.
MUCH_WAITING = 0.2
# Batches in which workers start and caches fill; and as many must follow before anything is said.
WARM_UP_BATCHES = 20
# Of the workers' time; the rest goes into handing frames over.
WORKING_IS_THE_LIMIT = 0.7


class Meter(Callback):
    """Measures clips per second, the share of time spent waiting for data, and decoding.

    All are taken over the steps since the last log, without validations and the checkpoints saved
    after them. They are logged as ``train/clips_per_second`` (of all processes together),
    ``train/data_wait`` (of the process that waits longest: the others wait for it),
    ``train/clip_ms`` (milliseconds in which a worker has a clip) and ``train/decode_ms``
    (milliseconds of the CPU in it, decoding and resizing large frames). Where waiting takes much
    of the time, a warning says once what would help.

    Args:
        every_n_batches: Batches between logs; 0: never.
    """

    def __init__(self, every_n_batches: int) -> None:
        self.every_n_batches = every_n_batches
        self.batches_before = 0  # this span, since training started
        self.watched_batches, self.watched_seconds, self.watched_wait = 0, 0.0, 0.0
        self.has_warned = False
        # When a validation began, and how long the run had waited by then.
        self._paused: tuple[float, float] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts a span; a run that resumes inside an epoch does not start that epoch."""
        self._begin(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts a span; validation between epochs does not count."""
        self._begin(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock; a run begins with a check of the validation, before any span."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._paused = time.perf_counter(), _loader(trainer).wait_seconds

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Starts the clock again after a validation."""
        if self._paused is not None:
            paused, waited = self._paused
            self.start += time.perf_counter() - paused
            self.waited += _loader(trainer).wait_seconds - waited
            self._paused = None

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: ClipBatch,
        batch_idx: int,
    ) -> None:
        """Counts the batch, and logs when it is time."""
        self.batches += 1
        self.clips += len(batch.labels)
        self.decode_seconds += batch.decode_seconds
        self.clip_seconds += batch.clip_seconds
        if self.every_n_batches and (batch_idx + 1) % self.every_n_batches == 0:
            seconds = time.perf_counter() - self.start
            # Reduced over processes on the device, which the step does not wait for.
            for name, value, reduction in (
                ("clips_per_second", self.clips / seconds, "sum"),
                ("data_wait", (_loader(trainer).wait_seconds - self.waited) / seconds, "max"),
                ("decode_ms", 1e3 * self.decode_seconds / self.clips, "mean"),
                ("clip_ms", 1e3 * self.clip_seconds / self.clips, "mean"),
            ):
                pl_module.log(f"train/{name}", value, sync_dist=True, reduce_fx=reduction)
            self._watch(trainer, seconds)
            self._begin(trainer)

    def _begin(self, trainer: Trainer) -> None:
        self.start, self.batches, self.clips = time.perf_counter(), 0, 0
        self.decode_seconds = self.clip_seconds = 0.0
        self._paused = None
        self.waited = _loader(trainer).wait_seconds

    def _watch(self, trainer: Trainer, seconds: float) -> None:
        """Adds up the waiting after the warm-up, and warns if it was much of the time."""
        self.batches_before += self.batches
        if self.has_warned or self.batches_before - self.batches < WARM_UP_BATCHES:
            return
        scores = trainer.callback_metrics
        self.watched_batches += self.batches
        self.watched_seconds += seconds
        self.watched_wait += float(scores["train/data_wait"]) * seconds
        share = self.watched_wait / self.watched_seconds
        if self.watched_batches >= WARM_UP_BATCHES and share > MUCH_WAITING:
            self.has_warned = True
            decode_ms, clip_ms = (float(scores[f"train/{n}_ms"]) for n in ("decode", "clip"))
            clips_per_second = float(scores["train/clips_per_second"]) / trainer.world_size
            num_workers = _loader(trainer).num_workers
            rank_zero_warn(waiting(share, decode_ms, clip_ms, clips_per_second, num_workers))


def _loader(trainer: Trainer) -> LazyLoader:
    loader = trainer.train_dataloader
    assert isinstance(loader, LazyLoader)
    return loader


def waiting(
    share: float, decode_ms: float, clip_ms: float, clips_per_second: float, num_workers: int
) -> str:
    """The warning that training waits for data, with what helps.

    Args:
        share: Of the time, spent waiting.
        decode_ms: Milliseconds of the CPU that decoding a clip takes.
        clip_ms: Milliseconds in which a worker has a clip.
        clips_per_second: Of one training process.
        num_workers: Its workers.
    """
    cores = cores_per_process()
    decoding, busy = (
        clips_per_second * ms / 1e3 / max(1, num_workers) for ms in (decode_ms, clip_ms)
    )
    if num_workers < cores:
        cure = f"There are cores for more workers: set data.num_workers={cores}"
    elif decoding > WORKING_IS_THE_LIMIT:
        cure = (
            "All cores decode: write the videos anew with `vivit prepare`, which makes them faster "
            "to decode, or train on several clips of each decoded video, augment.repeats=2"
        )
    elif busy > WORKING_IS_THE_LIMIT:
        cure = (
            "The rest of it is waiting for the storage, or for a core that other work has: copy "
            "the videos to a local disk or pack them into shards (data=webdataset), have more "
            f"workers than cores, data.num_workers={2 * cores}, or run less beside the training"
        )
    else:
        cure = (
            f"The workers are at work for {busy:.0%} of their time only: other work on these "
            "cores, the training itself on a CPU, or copying holds them up; a larger "
            "data.batch_size or fewer processes on the machine may help"
        )
    return (
        f"training waits for data {share:.0%} of the time. A worker has a clip in "
        f"{clip_ms:.0f} ms, {decode_ms:.0f} ms of them decoding, with "
        f"data.num_workers={num_workers} and {cores} CPU "
        f"core{'s' if cores > 1 else ''} for each training process. {cure}"
    )


class Progress(TQDMProgressBar):
    """A bar with loss, top-1, clips/s, waiting for data, decoding per clip, and time left.

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
        self._first_batch = math.inf  # before training, as in the sanity check
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

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Names the epoch beside the bar."""
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(epoch_in_words(trainer))

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: ClipBatch,
        batch_idx: int,
    ) -> None:
        """Updates the bar, or prints a line when one is due."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self._is_due(trainer):
            figures = " ".join(f"{k} {v}" for k, v in self._figures(trainer).items())
            position = f"{batch_idx + 1}/{int(trainer.num_training_batches)}"
            say(f"{epoch_in_words(trainer)} [{position}] {figures}")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: ClipBatch,
        *place: int,
    ) -> None:
        """Updates the bar, or prints a line when one is due."""
        super().on_validation_batch_end(trainer, pl_module, outputs, batch, *place)
        if self._is_due(trainer):
            say(f"validating [{place[0] + 1}/{int(sum(trainer.num_val_batches))}]")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: ClipBatch,
        *place: int,
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
        names = [name for name in ("val/loss", "val/top1", "val/top5") if name in scores]
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

    def _figures(self, trainer: Trainer) -> dict[str, str]:
        scores = trainer.callback_metrics
        figures = {
            "loss": ("train/loss", "{:.3f}"),
            "top1": ("train/top1", "{:.2f}"),
            "clips/s": ("train/clips_per_second", "{:.1f}"),
            "wait": ("train/data_wait", "{:.0%}"),
            "decode": ("train/decode_ms", "{:.0f}ms"),
        }
        shown = {
            label: form.format(float(scores[key]))
            for label, (key, form) in figures.items()
            if key in scores
        }
        return shown | {"left": self._time_left(trainer)}

    def _time_left(self, trainer: Trainer) -> str:
        done = batches_done(trainer)
        if done <= self._first_batch:
            return "?"
        per_batch = (time.perf_counter() - self._start) / (done - self._first_batch)
        minutes, seconds = divmod(round(per_batch * max(0, _batches(trainer) - done)), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}"


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
