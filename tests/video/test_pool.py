import os
import signal
import time

import pytest

from vivit_train.video.guard import CAN_GUARD, Failure
from vivit_train.video.pool import guarded_map

pytestmark = [
    pytest.mark.skipif(not CAN_GUARD, reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


def work(number):
    if number == "hang":
        time.sleep(1000)
    if number == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if number == "raise":
        raise OSError(28, "No space left on device")
    return number * 2


def test_each_call_has_its_result_or_failure():
    calls = [1, "hang", 2, "die", 3, 4]
    found = dict(guarded_map(work, calls, num_workers=2, timeout=2))
    assert set(found) == set(calls)
    assert {k: v for k, v in found.items() if not isinstance(v, Failure)} == {
        1: 2,
        2: 4,
        3: 6,
        4: 8,
    }
    assert found["hang"].verdict == "timeout"
    assert found["die"].verdict == "crashed"
    assert "SIGKILL" in found["die"].reason


def test_what_is_raised_ends_all():
    with pytest.raises(OSError, match="No space left"):
        list(guarded_map(work, ["raise", "hang"], num_workers=2, timeout=100))


def test_more_workers_than_calls_and_none():
    assert list(guarded_map(work, [5], num_workers=4, timeout=100)) == [(5, 10)]
    assert list(guarded_map(work, [], num_workers=2, timeout=100)) == []


def test_closing_ends_the_processes():
    calls = guarded_map(lambda n: os.getpid(), [1, 2], num_workers=1, timeout=100)
    _, process = next(calls)
    calls.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
