import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vivit_train.errors import UserError
from vivit_train.video import guard as guard_module
from vivit_train.video import stream as stream_module
from vivit_train.video.guard import CAN_GUARD, Failure
from vivit_train.video.stream import guarded_stream

pytestmark = [
    pytest.mark.skipif(not CAN_GUARD, reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


def squares(length: int, error: Exception | None = None) -> Iterator[torch.Tensor]:
    for number in range(length):
        yield torch.tensor(number**2)
    if error is not None:
        raise error


@pytest.mark.parametrize("ahead", [1, 3, 8])
@pytest.mark.parametrize("length", [0, 1, 5])
def test_pieces_come_in_order(length: int, ahead: int) -> None:
    found = guarded_stream(lambda: squares(length), 20.0, ahead)
    assert [int(piece) for piece in found] == [number**2 for number in range(length)]


def test_one_process_makes_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "CALLS_PER_PROCESS", 2)
    pids = set(guarded_stream(lambda: iter([os.getpid() for _ in range(5)]), 20.0))
    assert len(pids) == 1
    assert os.getpid() not in pids


@pytest.mark.parametrize("ahead", [1, 3])
def test_so_many_are_made_ahead(tmp_path: Path, ahead: int) -> None:
    """While the first piece is used: no fewer, which would waste time, and no more."""
    made = tmp_path / "made"

    def one_by_one() -> Iterator[int]:
        for number in range(9):
            with made.open("a") as file:
                file.write(f"{number}\n")
            yield number

    pieces = guarded_stream(one_by_one, 20.0, ahead)
    assert next(pieces) == 0
    until = time.monotonic() + 20
    while len(made.read_text().split()) < 1 + ahead and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.2)
    assert len(made.read_text().split()) == 1 + ahead
    assert list(pieces) == [*range(1, 9)]


def slowly(pieces: Iterator[int]) -> Iterator[int]:
    """Meanwhile the process dies."""
    for piece in pieces:
        time.sleep(0.1)
        yield piece


@pytest.mark.parametrize("ahead", [1, 8])
def test_pieces_from_before_the_process_died_are_kept(ahead: int) -> None:
    def one_by_one() -> Iterator[int]:
        yield from range(3)
        os.kill(os.getpid(), signal.SIGKILL)

    found: list[int] = []
    with pytest.raises(Failure, match="SIGKILL"):
        found.extend(slowly(guarded_stream(one_by_one, 20.0, ahead)))
    assert found == [0, 1, 2]


@pytest.mark.parametrize("ahead", [1, 8])
def test_slow_use_is_no_silence(ahead: int) -> None:
    """The limit is for the process, not for who takes the pieces."""
    for _ in guarded_stream(lambda: iter(range(4)), 0.5, ahead):
        time.sleep(0.6)


def test_an_error_comes_after_the_pieces_before_it() -> None:
    found: list[torch.Tensor] = []
    with pytest.raises(UserError, match="no more"):
        found.extend(guarded_stream(lambda: squares(3, UserError("no more")), 20.0))
    assert list(map(int, found)) == [0, 1, 4]


def test_a_new_process_does_not_begin_again() -> None:
    """One that is gone between two calls is an error, not the first piece once more."""

    def one_by_one() -> Iterator[int]:
        yield from range(3)

    pieces = guarded_stream(one_by_one, 20.0)
    send = guard_module.Guard.send

    def kill_before(guard: guard_module.Guard, number: int) -> None:
        if number == 2:
            os.kill(guard._process.pid, signal.SIGKILL)
            guard._process.join()
        send(guard, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard_module.Guard, "send", kill_before)
        with pytest.raises(Failure, match="is gone"):
            list(pieces)


def test_without_a_guard_it_goes_on_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "CAN_GUARD", False)
    assert set(guarded_stream(lambda: iter([os.getpid()]), 20.0)) == {os.getpid()}
