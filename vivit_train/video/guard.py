"""Work in a process of its own, which may hang or die without harm to who asked for it.

A decoder is C code: no exception and no signal handler ends a call that never returns, and a
crash takes its process along. Such a process is killed, named with what it was at, and replaced.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from vivit_train.video.handover import receive, send
from vivit_train.video.watch import Source, now_and_then, watched

# Elsewhere a process that talks to the system's frameworks may not survive its own fork.
CAN_GUARD = sys.platform == "linux"
# What a decoder leaks ends with its process.
CALLS_PER_PROCESS = 1000
# The limits for whatever decodes a video: seconds without a step forward, and bytes that it may
# take beyond those that its parent had. 8192x8192 pixels take 1.3 GB (`MAX_FRAME_PIXELS`).
DECODE_SECONDS = 60.0
DECODE_BYTES = 4 * 2**30
HINTS = {signal.SIGKILL: ", memory used up?"}

Argument = TypeVar("Argument")
Result = TypeVar("Result")


class Failure(Exception):
    """A call that had no answer.

    Attributes:
        verdict: ``timeout``: nothing was heard for too long; ``crashed``: the process died.
        reason: The same for people.
        at: The video that the process was at; ``None`` if none was opened.
    """

    def __init__(self, verdict: str, reason: str, at: Source | None) -> None:
        super().__init__(f"{reason} ({at})")
        self.verdict = verdict
        self.reason = reason
        self.at = at


class Guard(Generic[Argument, Result]):
    """Calls a function in a forked process, started when first needed.

    The process may take `DECODE_BYTES` of memory; beyond them its allocations fail.

    Args:
        function: What to call. Each video that it opens becomes `Failure.at`, and with it, or when
            it makes progress, the time limit starts afresh (`vivit_train.video.watch`).
        timeout: Seconds that may pass without an answer or such a step.
        most_calls: After so many a new process takes over.
        ahead: Calls that may be under way at once; their answers come in order.
    """

    def __init__(
        self,
        function: Callable[[Argument], Result],
        timeout: float,
        most_calls: float = CALLS_PER_PROCESS,
        ahead: int = 1,
    ) -> None:
        self.function = function
        self.timeout = timeout
        self.most_calls = most_calls
        self.ahead = ahead
        self.connection: Connection | None = None
        self.deadline = 0.0
        self._at: Source | None = None
        self._calls = 0
        self._waiting = 0  # calls without an answer

    def __call__(self, argument: Argument) -> Result:
        """Calls, and waits for the answer.

        Raises:
            Failure: If the process hangs or dies.
            Exception: What the function raised.
        """
        self.send(argument)
        return self.answer()

    def answer(self) -> Result:
        """Waits for the answer to the first call that has none; raises as the call itself does."""
        while True:
            answered, result = self.receive()
            if answered:
                return result

    def send(self, argument: Argument) -> None:
        """Begins a call."""
        # Where a call was broken off, its answer may come yet, and would pass for this one's.
        if self._waiting >= self.ahead or self._calls >= self.most_calls:
            self.close()
        if self.connection is not None and not self._waiting and not self._process.is_alive():
            self.close()  # not while it was at work: no reason to blame anything
        if self.connection is None:
            self._start()
        assert self.connection is not None
        if not self._waiting:
            self._at = None
        self._calls, self._waiting = self._calls + 1, self._waiting + 1
        self.deadline = time.monotonic() + self.timeout
        with suppress(OSError):  # it died meanwhile: `receive` says so
            self.connection.send(argument)

    def receive(self) -> tuple[bool, Any]:
        """Waits for the next word, at most until the deadline.

        Returns:
            Whether it is the answer, and the answer.

        Raises:
            Failure: If the process hangs or dies; the next call has a new one.
            Exception: What the function raised.
        """
        assert self.connection is not None
        try:
            if not self.connection.poll(max(0.0, self.deadline - time.monotonic())):
                self.close()
                raise Failure("timeout", f"no answer within {self.timeout:g} s", self._at)
            kind, content = receive(self.connection)
        except (EOFError, ConnectionError):
            raise Failure("crashed", self._cause_of_death(), self._at) from None
        if kind == "at":
            self._at = content
            self.deadline = time.monotonic() + self.timeout
            return False, None
        self._waiting -= 1
        self.deadline = time.monotonic() + self.timeout  # of the next one, if it is under way
        if kind == "error":
            error, trace = content
            raise error from RuntimeError(f"in the decoding process:\n{trace}")
        return True, content

    def close(self) -> None:
        """Ends the process, whatever it does."""
        if self.connection is not None:
            self._process.kill()
            self._process.join()
            self.connection.close()
            self.connection, self._waiting = None, 0

    def _start(self) -> None:
        # A DataLoader's worker counts as a daemon, which may not have children unless it says so.
        # It may: ours dies with it (see `_serve`).
        multiprocessing.current_process().daemon = False
        context = multiprocessing.get_context("fork")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(self.function, self.connection, theirs, os.getpid()), daemon=True
        )
        self._process.start()
        # When this process ends, or the guard is no longer used: killed, not asked to end.
        Finalize(self, self._process.kill, exitpriority=1)
        theirs.close()  # else the end of the process would not be the end of the pipe
        self._calls = 0

    def _cause_of_death(self) -> str:
        self._process.join()
        code = self._process.exitcode or 0
        self.close()
        if code >= 0:
            return f"the decoding process ended with exit code {code}"
        died_of = signal.Signals(-code)
        return f"the decoding process died ({died_of.name}{HINTS.get(died_of, '')})"


def _serve(
    function: Callable[[Any], Any], parents: Connection, connection: Connection, parent: int
) -> None:
    """The process: answers until the parent is gone."""
    parents.close()
    die_with_parent(parent)
    # Sent to a whole group of processes; the parent decides what they mean.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    limit_memory(DECODE_BYTES)
    torch.set_num_threads(1)  # a fork has none of the threads that its parent started

    def tell(at: Source | None) -> None:
        send(connection, ("at", at))

    while True:
        try:
            argument = connection.recv()
        except (EOFError, OSError):
            return
        try:
            with watched(now_and_then(tell)):
                result = function(argument)
            send(connection, ("result", result))
            del result  # megabytes
        except Exception as error:
            send(connection, ("error", (error, traceback.format_exc())))


def die_with_parent(parent: int) -> None:
    """Has the system kill this process when its parent ends, even where it hangs then."""
    set_death_signal = 1
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
    if os.getppid() != parent:  # gone already
        os._exit(1)


def limit_memory(nbytes: int) -> None:
    """Has allocations of this process fail that take it above what it has now and ``nbytes``.

    Memory that is mapped from files does not count, nor does what a GPU's driver reserves.
    """
    import resource  # Windows has none

    lines = Path("/proc/self/status").read_text().splitlines()
    (now,) = (1024 * int(line.split()[1]) for line in lines if line.startswith("VmData:"))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = now + nbytes if hard == resource.RLIM_INFINITY else min(hard, now + nbytes)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
