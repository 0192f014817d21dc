"""How fast a run trains, and how long it waits for its data."""

import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from vivit_train.data.batch import ClipBatch
from vivit_train.data.loader import LazyLoader, cores_per_process

# A run that waits for more of its time than this gets a warning that says what would help.
MUCH_WAITING = 0.2
# Batches in which workers start and caches fill; and as many must follow before anything is said.
WARM_UP_BATCHES = 20
# Of the workers' time; the rest goes into handing frames over.
WORKING_IS_THE_LIMIT = 0.7


class Throughput(Callback):
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
            "All cores decode: copy the videos with `vivit prepare`, which makes them faster to "
            "decode, or train on several clips of each decoded video (repeated augmentation, "
            "augment.repeats=2)"
        )
    elif busy > WORKING_IS_THE_LIMIT:
        cure = (
            "The rest is waiting for the storage, or for a core that other programs use: copy "
            "the videos to a local disk, pack them into shards (data=webdataset), use more "
            f"workers than cores (data.num_workers={2 * cores}), or run fewer other programs"
        )
    else:
        cure = (
            f"The workers are busy for {busy:.0%} of their time only: other programs on these "
            "cores, the training itself on a CPU, or copying slows them down. A larger "
            "data.batch_size or fewer processes on the machine may help"
        )
    return (
        f"training waits for data {share:.0%} of the time. A worker makes a clip in "
        f"{clip_ms:.0f} ms, of which it decodes for {decode_ms:.0f} ms, with "
        f"data.num_workers={num_workers} and {cores} CPU "
        f"core{'s' if cores > 1 else ''} for each training process. {cure}"
    )
