import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.util import get_temp_dir
from types import SimpleNamespace

import pytest
import torch

from vivit_train.data import loader as loader_module
from vivit_train.data.loader import LazyLoader, available_cores, check_temporary_folder
from vivit_train.errors import UserError
from vivit_train.launch.entry import lost_worker


def test_a_loader_starts_at_the_first_next_and_counts_the_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr("vivit_train.data.loader.time", clock)
    asked: list[int] = []

    class Slow(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> int:
            asked.append(index)
            clock.now += 2
            return index

    class Sampler(torch.utils.data.SequentialSampler):
        def __iter__(self):
            asked.append(-1)
            return super().__iter__()

    data = Slow()
    loader = LazyLoader(data, sampler=Sampler(data), batch_size=1)
    batches = iter(loader)
    assert (asked, loader.wait_seconds) == ([], 0)
    assert next(batches).tolist() == [0]
    assert (asked, loader.wait_seconds) == ([-1, 0], 2)
    clock.now += 100  # the training step: no waiting
    assert [batch.item() for batch in batches] == [1, 2]
    assert loader.wait_seconds == 6
    assert len(list(loader)) == 3  # a second epoch adds to the first
    assert loader.wait_seconds == 12
    assert asked == [-1, 0, 1, 2] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_have_no_temporary_folder_of_their_own() -> None:
    """One that is killed could not remove it."""

    class Folders(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> str:
            return get_temp_dir()

    loader = LazyLoader(Folders(), batch_size=1, num_workers=1, multiprocessing_context="fork")
    assert list(loader) == [[get_temp_dir()]]


def test_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    def cores(count: Sequence[int], **env: str) -> int:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(count), raising=False)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        return available_cores()

    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert [cores(range(n)) for n in (1, 6, 64)] == [1, 6, 16]
    assert cores(range(64), LOCAL_WORLD_SIZE="8") == 8
    assert cores(range(4), LOCAL_WORLD_SIZE="8") == 1


class Slow(torch.utils.data.Dataset):
    """Tells who decodes."""

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> int:
        time.sleep(0.01)
        return os.getpid()


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_is_lost_or_stopped_ends_the_loading(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_module, "STOPPED_SECONDS", 1.0)
    loader = LazyLoader(Slow(), batch_size=2, num_workers=2, multiprocessing_context="fork")
    batches = iter(loader)
    worker = next(batches)[0].item()
    os.kill(worker, number)
    start = time.monotonic()
    with pytest.raises(RuntimeError) as caught:
        list(batches)
    assert time.monotonic() - start < 30
    # Who notices first, the signal or the queue, words it.
    lost = f"process lost: a process that decodes (pid {worker}) "
    assert (lost_worker(caught.value) or "").startswith(lost)


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("error", [EOFError(), ConnectionResetError(104, "reset")])
def test_a_worker_that_is_killed_while_it_hands_over_a_batch(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its socket is closed a moment before its end is known."""
    worker = get_context("fork").Process(target=time.sleep, args=(0.3,))
    worker.start()

    class Batches:
        _workers = (worker,)

        def __next__(self) -> None:
            raise error

    monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", lambda _: Batches())
    with pytest.raises(RuntimeError) as raised:
        next(iter(LazyLoader([0])))
    assert f"a process that decodes (pid {worker.pid}) exited" in str(lost_worker(raised.value))
    monkeypatch.setattr(Batches, "_workers", ())
    with pytest.raises(type(error)):
        next(iter(LazyLoader([0])))


def test_other_errors_are_not_a_lost_worker() -> None:
    assert lost_worker(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert lost_worker(ValueError("DataLoader worker (pid 7) exited unexpectedly")) is None
    several = lost_worker(RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"))
    assert several is not None
    assert "(pid 7, 8) exited unexpectedly. Did it run out" in several


def test_a_temporary_folder_with_a_long_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen: the worker failed in a thread of its own, and the run waited for it without end."""
    monkeypatch.setattr(tempfile, "tempdir", "/" + "t" * 74)
    check_temporary_folder()
    monkeypatch.setattr(tempfile, "tempdir", "/" + "t" * 75)
    with pytest.raises(UserError, match=r"TMPDIR=/t+ has 76 bytes: .* folder with a shorter name"):
        check_temporary_folder()
