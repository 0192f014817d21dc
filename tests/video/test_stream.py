import os
import signal
from collections.abc import Iterator

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


@pytest.mark.parametrize("length", [0, 1, 5])
def test_pieces_come_in_order(length: int) -> None:
    found = guarded_stream(lambda: squares(length), 20.0)
    assert [int(piece) for piece in found] == [number**2 for number in range(length)]


def test_one_process_makes_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "CALLS_PER_PROCESS", 2)
    pids = set(guarded_stream(lambda: iter([os.getpid() for _ in range(5)]), 20.0))
    assert len(pids) == 1
    assert os.getpid() not in pids


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
        guard._waiting = False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard_module.Guard, "send", kill_before)
        with pytest.raises(Failure, match="is gone"):
            list(pieces)


def test_without_a_guard_it_goes_on_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "CAN_GUARD", False)
    assert set(guarded_stream(lambda: iter([os.getpid()]), 20.0)) == {os.getpid()}
