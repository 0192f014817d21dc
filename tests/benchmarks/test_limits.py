"""What takes too long is stopped, whoever catches exceptions on the way."""

import signal
import time
from collections.abc import Callable
from contextlib import suppress

import limits
import pytest


def caught_on_the_way() -> None:
    try:
        time.sleep(30)
    except Exception:  # as a compiler does
        pytest.fail("a limit must not be taken for an error")


def lost_once() -> None:
    with suppress(limits.OutOfTime):
        time.sleep(30)
    time.sleep(30)


def limited_within() -> None:
    with suppress(limits.OutOfTime), limits.time_limit(0.05):
        time.sleep(30)
    time.sleep(30)


@pytest.mark.parametrize("function", [caught_on_the_way, lost_once, limited_within])
def test_what_takes_too_long_is_stopped(
    function: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "AGAIN_SECONDS", 0.05)
    before = signal.getsignal(signal.SIGALRM)  # pytest may have a limit, too
    with pytest.raises(limits.OutOfTime), limits.time_limit(0.1):
        function()
    assert signal.getsignal(signal.SIGALRM) is before


def test_an_outer_limit_holds_within_a_longer_one() -> None:
    with pytest.raises(limits.OutOfTime), limits.time_limit(0.05), limits.time_limit(30):
        time.sleep(30)


def test_what_is_quick_is_left_alone() -> None:
    with limits.time_limit(0.05):
        pass
    time.sleep(0.1)  # nothing comes later
