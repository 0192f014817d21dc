"""Signals that come while the main thread waits, in processes of their own."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import REPOSITORY, hears_ctrl_c

# Waits where no signal handler is called, as in a collective; its child is stopped.
PROGRAM = """
import os, signal, subprocess, sys, time
from vivit_train.launch import stop_watch

stop_watch.STOP_SECONDS = float(sys.argv[1])
for number in stop_watch.STOPPING:
    signal.signal(number, lambda *_: None)
watch = stop_watch.StopWatch()
watch.children = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])]
os.kill(watch.children[0].pid, signal.SIGSTOP)
watch.listens = True
with watch:
    if os.fork() == 0:  # a worker, which gets the signals to the group as well
        while True:
            signal.pause()
    watch.note_progress()
    print(watch.children[0].pid, flush=True)
    # A wait that no signal ends, as in a collective.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])
    signal.sigwait([signal.SIGRTMIN])
"""


def state_of(pid: int) -> str:
    """One letter: T where it is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


class Waiting:
    """The program; ``child`` is the process of it that is stopped."""

    def __init__(self, seconds: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(seconds)],
            cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True, preexec_fn=hears_ctrl_c,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.child = int(self.process.stdout.readline())
        time.sleep(0.2)  # until it waits

    def end(self) -> tuple[int, str]:
        """Exit code, and what it said."""
        assert self.process.stderr is not None
        code = self.process.wait(30)
        assert not Path(f"/proc/{self.child}").exists()
        os.killpg(self.process.pid, signal.SIGKILL)  # the worker
        return code, self.process.stderr.read()


def test_a_stopped_process_is_continued() -> None:
    waiting = Waiting(600)
    assert state_of(waiting.child) == "T"
    waiting.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 30
    while state_of(waiting.child) == "T" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert state_of(waiting.child) in "RS"
    assert waiting.process.poll() is None
    waiting.process.send_signal(signal.SIGINT)
    code, said = waiting.end()
    assert code == 130
    assert said == (
        "SIGTERM: ending after this step; Ctrl-C ends at once, without saving\ninterrupted\n"
    )


def test_one_ctrl_c_is_not_two() -> None:
    """The terminal sends it to the workers too."""
    waiting = Waiting(600)
    os.killpg(waiting.process.pid, signal.SIGINT)
    time.sleep(1)
    assert waiting.process.poll() is None
    os.killpg(waiting.process.pid, signal.SIGINT)
    assert waiting.end()[0] == 130


def test_without_progress_the_run_ends() -> None:
    waiting = Waiting(1)
    waiting.process.send_signal(signal.SIGHUP)
    code, said = waiting.end()
    assert code == 129
    assert "error: SIGHUP, and no batch has ended for 1 s" in said


def test_what_is_printed_to_a_terminal_that_is_gone(tmp_path: Path) -> None:
    program = (
        "import sys; from vivit_train.launch.stop_watch import leave_terminal\n"
        "print('ready', flush=True); input(); leave_terminal()\n"
        "print('lost', flush=True); open(sys.argv[1], 'w').close()"
    )
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "survived")],
        cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=terminal, stderr=terminal,
    )  # fmt: skip
    said = b""
    while not said.endswith(b"\n"):  # the terminal may pass on a line in pieces
        said += os.read(master, 100)
    assert said == b"ready\r\n"
    os.close(terminal)
    os.close(master)
    process.communicate(b"\n", timeout=30)
    assert process.returncode == 0
    assert (tmp_path / "survived").exists()
