"""Answers the signals that stop a run while its main thread cannot.

Python calls its signal handlers in the main thread, between two instructions. A main thread that
waits in a collective for another process, which may itself be stopped, comes to none.
"""

import os
import select
import signal
import socket
import stat
import threading
import time
from contextlib import suppress
from subprocess import Popen, TimeoutExpired

STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
# A run that a signal stopped ends without saving if no batch ends for this long.
STOP_SECONDS = 120.0

# The children of fork share the socket below: a signal to one of them is not one to this process.
os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


class StopWatch:
    """Within, a thread makes sure that the run ends when a signal stops it.

    At the first signal of `STOPPING` it says what will happen, and continues processes of the run
    that are stopped (SIGSTOP), which the others would wait for. It ends this process and its
    children without saving at a Ctrl-C after that, or if the run makes no progress.

    Attributes:
        children: Processes of the run that this one has started.
        parent: The process that has started this one, if it is one of the run.
        speaks: Whether it prints; one process of a run does.
        listens: Whether the run is going to stop after the step at hand, i.e. saves.
        received: The number of the first signal; 0: none.
    """

    def __init__(self) -> None:
        self.children: list[Popen] = []
        self.parent: int | None = None
        self.speaks = True
        self.listens = False
        self.received = 0
        self._due = 0.0

    def __enter__(self) -> "StopWatch":
        """Begins to watch; in the main thread, the only one that may."""
        self._ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self._theirs = theirs
        self._before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the thread."""
        signal.set_wakeup_fd(self._before)
        self._theirs.send(b"\0")  # the number of no signal
        self._thread.join()
        self._ours.close()
        self._theirs.close()

    def note_progress(self, seconds: float | None = None) -> None:
        """Notes that the run makes progress.

        Args:
            seconds: How long it may take to the next call; ``None``: `STOP_SECONDS`.
        """
        self._due = time.monotonic() + (STOP_SECONDS if seconds is None else seconds)

    def _watch(self) -> None:
        while True:
            for number in self._signals():
                if number == 0:
                    return
                if number in STOPPING:
                    self._answer(signal.Signals(number))
            if self.received and time.monotonic() > self._due:
                name = signal.Signals(self.received).name
                self._end(
                    f"error: {name}, and no batch has ended for {STOP_SECONDS:.0f} s, e.g. because "
                    "another process hangs: ending without saving. Resume from the last checkpoint "
                    "with ckpt_path=last",
                    self.received,
                )

    def _signals(self) -> bytes:
        """Numbers of signals that have come; within half a second also none."""
        ready, _, _ = select.select([self._ours], [], [], 0.5)
        return self._ours.recv(64) if ready else b""

    def _answer(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP:
            leave_terminal()
        if self.received:
            if number == signal.SIGINT:
                self._end("interrupted", number)
            return
        self.received = number
        self._due = max(self._due, time.monotonic() + STOP_SECONDS)
        if self.listens and self.speaks:
            _say(f"{number.name}: ending after this step; Ctrl-C ends at once, without saving")
        for child in self.children:
            child.send_signal(signal.SIGCONT)
        if self.parent is not None:
            with suppress(ProcessLookupError):
                os.kill(self.parent, signal.SIGCONT)

    def _end(self, why: str, number: int) -> None:
        if self.speaks:
            _say(why)
        for child in self.children:
            child.kill()
        for child in self.children:
            with suppress(TimeoutExpired):  # it may hang in the system itself
                child.wait(5)
        os._exit(128 + number)


def _say(line: str) -> None:
    """Prints to the error output, whatever the main thread does there at this moment."""
    with suppress(OSError):
        os.write(2, f"{line}\n".encode())


def leave_terminal() -> None:
    """Sends what is printed from here on to nowhere if the terminal is gone: it would fail."""
    for stream in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(stream).st_mode) and not os.isatty(stream):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream)
                os.close(nowhere)


def ignore_stop_signals(worker: int = 0) -> None:
    """For DataLoader workers: a signal to the whole group of processes is for the trainer.

    It has the batches of these workers to finish, and ends them itself. SIGTERM, with which
    Python's multiprocessing ends children that are left at exit, ends a worker a minute later.
    """
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.setitimer(signal.ITIMER_REAL, 60.0))
