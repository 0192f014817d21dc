"""The loader of batches, which knows where a run stands and how long it is waited for."""

import multiprocessing.util
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from torch.utils.data import DataLoader, Dataset

from vivit_train.data.batch import DecodedBatch
from vivit_train.data.dataset import Sample, collate
from vivit_train.errors import UserError
from vivit_train.launch.stop_watch import ignore_stop_signals

# Seconds after which a worker that somebody or something has stopped is lost.
STOPPED_SECONDS = 30.0
SOCKET_NAME_BYTES = 107  # Linux's limit: sun_path of unix(7)


class LazyLoader(DataLoader):
    """A DataLoader that starts at the first `next`, and counts the time spent waiting.

    Lightning makes the iterator before it restores the progress of a resumed run; workers that
    started then would prefetch the wrong samples.

    A worker that is gone is an error at once, wherever the training process is (by torch). One
    that is stopped is killed after `STOPPED_SECONDS`: it would be waited for without end.

    Attributes:
        wait_seconds: Total time that the training process was blocked on this loader.
    """

    wait_seconds = 0.0
    _watched: list[int] | None = None

    def __iter__(self) -> Iterator[DecodedBatch]:  # type: ignore[override]
        # Workers share tensors over sockets in this process's folder under /tmp, which it removes
        # at its end; of their own they leave one behind whenever they are killed.
        multiprocessing.util.get_temp_dir()
        batches = None
        while True:
            start = time.perf_counter()
            if batches is None:
                batches = super().__iter__()
                self._watch(getattr(batches, "_workers", ()))
            try:
                batch = next(batches, None)
            except UserError as error:  # a worker's comes with its traceback in the message
                kind = type(error)
                raise kind(str(error).rpartition(f"{kind.__name__}: ")[2].strip()) from None
            except (EOFError, OSError) as error:
                if ended := _ended(getattr(batches, "_workers", ())):
                    pids = ", ".join(str(worker.pid) for worker in ended)
                    words = f"DataLoader worker (pid(s) {pids}) exited unexpectedly"  # torch's own
                    raise RuntimeError(words) from error
                raise
            self.wait_seconds += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def _watch(self, workers: Sequence[Any]) -> None:
        """Watches new workers; those that persist are watched already."""
        pids = [worker.pid for worker in workers]
        if sys.platform == "linux" and pids and pids != self._watched:
            self._watched = pids
            threading.Thread(target=kill_stopped, args=(pids,), daemon=True).start()

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
    if can_fork:
        check_temporary_folder()
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


def check_temporary_folder() -> None:
    """Refuses a folder in which a worker could not hand over its clips, and would be waited for.

    Raises:
        UserError: If its name is too long for a socket in it, whose own is 32 bytes.
    """
    folder = tempfile.gettempdir()
    if (length := len(os.fsencode(folder))) > SOCKET_NAME_BYTES - 32:
        raise UserError(
            f"TMPDIR={folder} has {length} bytes: the names of sockets in it, by which workers "
            f"hand over clips, would have more than {SOCKET_NAME_BYTES}. Set TMPDIR to a "
            "folder with a shorter name"
        )


def kill_stopped(pids: Sequence[int]) -> None:
    """Kills children of this process that are stopped for `STOPPED_SECONDS`, until all have ended.

    Args:
        pids: The children.
    """
    stopped = dict.fromkeys(pids, 0.0)
    pause = min(1.0, STOPPED_SECONDS / 4)
    while any(_state(pid) not in (None, "Z") for pid in pids):
        time.sleep(pause)
        for pid in pids:
            stopped[pid] = stopped[pid] + pause if _state(pid) == "T" else 0.0
            if stopped[pid] >= STOPPED_SECONDS:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _ended(workers: Sequence[Any]) -> list[Any]:
    """The workers that have ended, waiting a moment for the first.

    The files of a process that is killed are closed before its end is known: what it was just
    handing over then fails first.
    """
    deadline = time.monotonic() + 3.0
    while True:
        ended = [worker for worker in workers if not worker.is_alive()]
        if ended or not workers or time.monotonic() > deadline:
            return ended
        time.sleep(0.05)


def _state(pid: int) -> str | None:
    """The state of a child of this process, as in /proc; ``None`` if it has ended."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None
    return state if int(parent) == os.getpid() else None


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
