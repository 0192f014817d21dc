"""The loader of batches, which knows where a run stands and how long it is waited for."""

import os
import time
from collections.abc import Iterator
from typing import Any

from lightning import Trainer
from torch.utils.data import DataLoader

from vivit_train.data.dataset import Batch
from vivit_train.errors import UserError


class LazyLoader(DataLoader):
    """A DataLoader that starts at the first `next`, and counts the time spent waiting.

    Lightning makes the iterator before it restores the progress of a resumed run; workers that
    started then would prefetch the wrong samples.

    Attributes:
        wait_seconds: Total time that the training process was blocked on this loader.
    """

    wait_seconds = 0.0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
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


def batches_done(trainer: Trainer) -> int:
    """Training batches that a run has behind it, also over interruptions."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress
    return progress.total.processed


def available_cores() -> int:
    """CPU cores for the decoding workers of this process, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, min(16, (cores or 1) // local_processes))
