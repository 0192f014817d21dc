"""The loader of batches, which knows where a run stands and how long it is waited for."""

import multiprocessing.util
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from lightning import Trainer
from torch.utils.data import DataLoader, Dataset

from vivit_train.data.dataset import Batch, Sample, collate
from vivit_train.errors import UserError
from vivit_train.signals import ignore_stop_signals


class LazyLoader(DataLoader):
    """A DataLoader that starts at the first `next`, and counts the time spent waiting.

    Lightning makes the iterator before it restores the progress of a resumed run; workers that
    started then would prefetch the wrong samples.

    Attributes:
        wait_seconds: Total time that the training process was blocked on this loader.
    """

    wait_seconds = 0.0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        # Workers share tensors over sockets in this process's folder under /tmp, which it removes
        # at its end; of their own they leave one behind whenever they are killed.
        multiprocessing.util.get_temp_dir()
        batches = None
        while True:
            start = time.perf_counter()
            batches = batches or super().__iter__()
            try:
                batch = next(batches, None)
            except UserError as error:  # a worker's comes with its traceback in the message
                raise UserError(str(error).rpartition("UserError: ")[2].strip()) from None
            self.wait_seconds += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the position follows from the trainer's progress. Its being here tells
        Lightning that the loader resumes inside an epoch."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


def build_loader(
    dataset: Dataset[Sample], sampler: Iterable[Any], batch_size: int, num_workers: int
) -> LazyLoader:
    """A loader of a data set of videos.

    Args:
        dataset: Gives a sample for each key of the sampler.
        sampler: The keys.
        batch_size: Videos per batch.
        num_workers: Decoding processes; 0: none, this one decodes.
    """
    can_fork = num_workers > 0 and sys.platform == "linux"
    return LazyLoader(
        dataset,
        sampler=sampler,
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        # Readers are opened in the worker and never cross a fork; a fork shares the records.
        multiprocessing_context="fork" if can_fork else None,
        # Its own generator, so that seeding workers takes nothing from the global one.
        generator=torch.Generator(),
        worker_init_fn=ignore_stop_signals,
    )


def batches_done(trainer: Trainer) -> int:
    """Training batches that a run has behind it, also over interruptions."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress
    return progress.total.processed


def cores_per_process() -> int:
    """CPU cores of this training process: its share of those of the machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, (cores or 1) // local_processes)


def available_cores() -> int:
    """CPU cores for the decoding workers of this process, at most 16."""
    return min(16, cores_per_process())
