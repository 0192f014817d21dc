"""Work in a process of its own, which may hang or die without harm to who asked for it.

A decoder is C code: no exception and no signal handler ends a call that never returns, and a
crash takes its process along. Such a process is killed, named with what it was at, and replaced.
"""

import ctypes
import io
import multiprocessing
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler, recv_handle, send_handle
from multiprocessing.util import Finalize
from typing import Any, BinaryIO, Generic, TypeVar

import torch
import torch.multiprocessing  # teaches ForkingPickler what a tensor is made of

# Elsewhere a process that talks to the system's frameworks may not survive its own fork.
CAN_GUARD = sys.platform == "linux"
# What a decoder leaks ends with its process.
CALLS_PER_PROCESS = 1000
HINTS = {signal.SIGKILL: ", memory used up?"}

Argument = TypeVar("Argument")
Result = TypeVar("Result")
# Tells whom it may concern what is worked on, and that it goes on.
Tell = Callable[[Any], None]


class Failure(Exception):
    """A call that had no answer.

    Attributes:
        verdict: ``timeout``: nothing was heard for too long; ``crashed``: the process died.
        reason: The same for people.
        at: What the process last said it was at; ``None`` if nothing.
    """

    def __init__(self, verdict: str, reason: str, at: Any) -> None:
        super().__init__(f"{reason} ({at})")
        self.verdict = verdict
        self.reason = reason
        self.at = at


class Guard(Generic[Argument, Result]):
    """Calls a function in a forked process, started when first needed.

    Args:
        function: Gets an argument and a function ``tell``. Whatever is told becomes `Failure.at`,
            and the time limit starts afresh.
        timeout: Seconds that may pass without an answer or word.
    """

    def __init__(self, function: Callable[[Argument, Tell], Result], timeout: float) -> None:
        self.function = function
        self.timeout = timeout
        self.connection: Connection | None = None
        self.deadline = 0.0
        self._at: Any = None
        self._calls = 0
        self._waiting = False

    def __call__(self, argument: Argument) -> Result:
        """Calls, and waits for the answer.

        Raises:
            Failure: If the process hangs or dies.
            Exception: What the function raised.
        """
        self.send(argument)
        while True:
            answered, result = self.receive()
            if answered:
                return result

    def send(self, argument: Argument) -> None:
        """Begins a call."""
        # Where a call was broken off, its answer may come yet, and would pass for this one's.
        if self._waiting or self._calls >= CALLS_PER_PROCESS:
            self.close()
        if self.connection is not None and not self._process.is_alive():
            self.close()  # not while it was at work: no reason to blame anything
        if self.connection is None:
            self._start()
        assert self.connection is not None
        self._calls, self._waiting, self._at = self._calls + 1, True, None
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
            kind, content = _receive(self.connection)
        except (EOFError, ConnectionError):
            raise Failure("crashed", self._cause_of_death(), self._at) from None
        if kind == "at":
            self._at = content
            self.deadline = time.monotonic() + self.timeout
            return False, None
        self._waiting = False
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
            self.connection, self._waiting = None, False

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
    function: Callable[[Any, Tell], Any], parents: Connection, connection: Connection, parent: int
) -> None:
    """The process: answers until the parent is gone."""
    parents.close()
    die_with_parent(parent)
    # Sent to a whole group of processes; the parent decides what they mean.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)  # a fork has none of the threads that its parent started
    while True:
        try:
            argument = connection.recv()
        except (EOFError, OSError):
            return
        try:
            result = function(argument, lambda at: _send(connection, ("at", at)))
            _send(connection, ("result", result))
            del result  # megabytes
        except Exception as error:
            _send(connection, ("error", (error, traceback.format_exc())))


class _Pickler(ForkingPickler):
    """Leaves out the memory of tensors, which follows as files."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.storages: list[torch.UntypedStorage] = []

    def persistent_id(self, part: Any) -> int | None:
        if not isinstance(part, torch.UntypedStorage) or not part.nbytes():
            return None
        self.storages.append(part)
        return part.nbytes()


class _Unpickler(pickle.Unpickler):
    """Maps the files that follow into memory that other processes can share in turn."""

    def __init__(self, content: bytes, connection: Connection) -> None:
        super().__init__(io.BytesIO(content))
        self.connection = connection

    def persistent_load(self, nbytes: int) -> torch.UntypedStorage:
        file = recv_handle(self.connection)
        try:
            map_file: Any = torch.UntypedStorage._new_shared_fd_cpu  # type: ignore[attr-defined]
            return map_file(file, nbytes)
        finally:
            os.close(file)


def _send(connection: Connection, message: Any) -> None:
    """Sends a message, its tensors in files without a name.

    torch's own way asks for the files back over a socket in a folder under /tmp, which a process
    that is killed leaves behind; fills shared memory page by page, which takes twice as long; and
    takes it from /dev/shm, which is small in containers.
    """
    body = io.BytesIO()
    pickler = _Pickler(body)
    pickler.dump(message)
    with ExitStack() as stack:
        files = [stack.enter_context(_file_of(storage)) for storage in pickler.storages]
        connection.send_bytes(body.getbuffer())
        for file in files:
            send_handle(connection, file.fileno(), None)


def _file_of(storage: torch.UntypedStorage) -> BinaryIO:
    file = os.fdopen(os.memfd_create("tensor"), "wb")
    file.write(torch.empty(0, dtype=torch.uint8).set_(storage).numpy().data)
    file.flush()
    return file


def _receive(connection: Connection) -> Any:
    """The next message."""
    return _Unpickler(connection.recv_bytes(), connection).load()


def die_with_parent(parent: int) -> None:
    """Has the system kill this process when its parent ends, even where it hangs then."""
    set_death_signal = 1
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
    if os.getppid() != parent:  # gone already
        os._exit(1)
