import faulthandler
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import REPOSITORY
from vivit_train.errors import UserError
from vivit_train.video import guard as guard_module
from vivit_train.video import watch
from vivit_train.video.guard import CAN_GUARD, Failure, Guard
from vivit_train.video.watch import begin, go_on

pytestmark = [
    pytest.mark.skipif(not CAN_GUARD, reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


def act(argument: Any) -> Any:
    """Does what it is told."""
    if argument == "hang":
        begin(("the long one", None))
        time.sleep(1000)
    elif argument == "go on":
        for _ in range(4):
            time.sleep(0.3)
            go_on()
    elif argument == "wrong":
        raise UserError("no such thing")
    elif argument == "end":
        os._exit(3)
    elif isinstance(argument, signal.Signals):
        begin(("the deadly one", None))
        faulthandler.disable()  # pytest's, which would print the stack
        os.kill(os.getpid(), argument)
    elif argument == "unsendable":
        return lambda: None
    elif argument == "memory":
        return torch.ones(64 * 2**20, dtype=torch.uint8).sum().item()
    elif argument == "tensors":
        whole = torch.arange(24.0).reshape(4, 6)
        return {"view": whole[1:3, ::2], "empty": torch.zeros(0, 3), "byte": torch.tensor(7)}
    return argument, os.getpid()


@pytest.fixture
def guard():
    guard = Guard(act, timeout=1.0)
    yield guard
    guard.close()


def test_answers_come_from_one_other_process(guard) -> None:
    answers = [guard(i) for i in range(3)]
    assert [answer for answer, _ in answers] == [0, 1, 2]
    assert len({pid for _, pid in answers} | {os.getpid()}) == 2


def test_tensors_come_without_holding_files_open(guard) -> None:
    guard(0)
    before = open_files(os.getpid())
    tensors = guard("tensors")
    assert open_files(os.getpid()) == before
    assert torch.equal(tensors["view"], torch.arange(24.0).reshape(4, 6)[1:3, ::2])
    assert tensors["empty"].shape == (0, 3)
    assert tensors["byte"].item() == 7


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_a_killed_process_leaves_no_folder(guard) -> None:
    before = set(Path(tempfile.gettempdir()).glob("pymp-*"))
    guard("tensors")
    guard.close()
    assert set(Path(tempfile.gettempdir()).glob("pymp-*")) <= before


def test_silence_is_a_timeout(guard) -> None:
    _, first = guard(0)
    start = time.monotonic()
    with pytest.raises(Failure, match="no answer within 1 s") as caught:
        guard("hang")
    assert 1 <= time.monotonic() - start < 3
    assert (caught.value.verdict, caught.value.at) == ("timeout", ("the long one", None))
    assert guard(0)[1] != first  # a new process
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def test_a_step_forward_now_and_then_is_no_silence(guard, monkeypatch) -> None:
    monkeypatch.setattr(watch, "WORD_SECONDS", 0.1)
    assert guard("go on")[0] == "go on"


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        (signal.SIGABRT, "the decoding process died (SIGABRT)"),
        (signal.SIGKILL, "the decoding process died (SIGKILL, memory used up?)"),
        (signal.SIGBUS, "the decoding process died (SIGBUS)"),
    ],
)
def test_death_is_named(guard, argument: signal.Signals, reason: str) -> None:
    with pytest.raises(Failure) as caught:
        guard(argument)
    failure = caught.value
    assert (failure.verdict, failure.reason) == ("crashed", reason)
    assert failure.at == ("the deadly one", None)
    assert guard(1)[0] == 1


def test_an_end_is_named_too(guard) -> None:
    with pytest.raises(Failure, match="ended with exit code 3") as caught:
        guard("end")
    assert caught.value.at is None


def test_errors_are_raised_here_with_their_trace(guard) -> None:
    with pytest.raises(UserError, match="^no such thing$") as caught:
        guard("wrong")
    assert "in act" in str(caught.value.__cause__)
    assert guard(1)[0] == 1


def test_the_answer_to_a_call_that_was_broken_off_is_not_taken_for_the_next(guard) -> None:
    guard.send("one")
    assert guard("two")[0] == "two"


def test_a_process_that_was_killed_while_idle_is_replaced(guard) -> None:
    _, pid = guard(0)
    os.kill(pid, signal.SIGKILL)
    guard._process.join(5)
    assert guard(1)[1] != pid


def test_an_answer_that_cannot_be_sent_is_an_error(guard) -> None:
    with pytest.raises((AttributeError, TypeError), match="pickle"):
        guard("unsendable")
    assert guard(1)[0] == 1


def test_a_process_does_not_get_old() -> None:
    guard = Guard(act, timeout=1.0, most_calls=2)
    assert len({guard(i)[1] for i in range(6)}) == 3
    guard.close()


def test_a_signal_to_the_whole_group_is_for_others_to_obey(guard) -> None:
    _, pid = guard(0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        os.kill(pid, number)
    assert guard(1) == (1, pid)


def test_a_guard_that_nobody_holds_ends_its_process() -> None:
    guard = Guard(act, timeout=5.0)
    process = guard(0) and guard._process
    del guard
    process.join(5)
    assert process.exitcode == -signal.SIGKILL


def test_the_process_dies_with_its_parent() -> None:
    program = (
        "import os, time\n"
        "from vivit_train.video.guard import Guard\n"
        "from vivit_train.video.watch import begin\n"
        "def work(argument):\n"
        "    begin((str(os.getpid()), None))\n"
        "    time.sleep(1000)\n"
        "guard = Guard(work, 1000)\n"
        "guard.send(0)\n"
        "guard.receive()\n"
        "print(guard._at[0], flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    child = int(done.stdout)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and os.path.exists(f"/proc/{child}"):
        if ") Z " in Path(f"/proc/{child}/stat").read_text():
            return  # dead, and nobody asked for its status
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{child}")


def test_memory_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = Guard(act, timeout=20.0)
    assert guard("memory") == 64 * 2**20
    guard.close()
    monkeypatch.setattr(guard_module, "DECODE_BYTES", 2**25)
    with pytest.raises((RuntimeError, MemoryError), match="allocate"):
        guard("memory")
    assert guard(1)[0] == 1  # the process lives on
    guard.close()
