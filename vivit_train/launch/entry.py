"""How the program starts and ends: cores for the workers, errors in one line, exit codes."""

import errno
import gc
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vivit_train.errors import NO_ROOM, ProcessLost, UserError, in_one_line, no_room
from vivit_train.io.terminal import printable, say

# Exit codes; 128 + number of the signal for a run that a signal stopped, as in a shell.
NO_ROOM_LEFT = 74  # EX_IOERR of sysexits.h: a full disk
PROCESS_LOST = 75  # EX_TEMPFAIL: try again


def leave_cores_to_workers() -> None:
    """Lets PyTorch's threads spin for a moment only; before torch is imported, as it reads it then.

    A thread that waits for the next operator spins for milliseconds by default, on a core on which
    a worker could decode: whole epochs take 10 % longer where both share the cores of a CPU.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def lost_worker(error: Exception) -> str | None:
    """Says which worker of a DataLoader is gone, if that is what an error means.

    torch raises it anywhere in the process, whatever that is at, when the worker ends.
    """
    said = r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*?)\.?( It is|$)"
    worker = re.match(said, in_one_line(error))
    if not isinstance(error, RuntimeError) or worker is None:
        return None
    return (
        f"process lost: a process that decodes (pid {worker[1]}) {worker[2]}. Did it run out of "
        "memory (then lower data.num_workers), or was it stopped? Resume from the last checkpoint "
        "with ckpt_path=last"
    )


@contextmanager
def _loaders_let_go() -> Iterator[None]:
    """Frees what a failed run held: data loaders then end their workers, else left at exit."""
    try:
        yield
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        gc.collect()
        raise


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Within, our own warnings are a line each: they are for the user, not about the code.

    Those of other libraries keep file and line; Lightning has its own way for its own.
    """
    stock, own = warnings.formatwarning, f"{Path(__file__).parents[1]}{os.sep}"

    def format_warning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        if filename.startswith(own) and issubclass(category, UserWarning):
            return printable(f"warning: {message}") + "\n"
        text = "\n".join(map(printable, str(message).split("\n")))
        return stock(text, category, filename, lineno, line)

    warnings.formatwarning = format_warning
    try:
        yield
    finally:
        warnings.formatwarning = stock


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Ends the program with the message alone for what a user can mend.

    Warnings for the user are then a line each, too.
    """
    try:
        with _loaders_let_go(), _warnings_in_one_line():
            yield
    except ProcessLost as error:
        say(f"error: {error}", file=sys.stderr)
        sys.exit(PROCESS_LOST)
    except UserError as error:
        sys.exit(printable(f"error: {error}"))
    except KeyboardInterrupt:
        say("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            say(f"error: {no_room(error)}", file=sys.stderr)
            sys.exit(NO_ROOM_LEFT)
        if isinstance(error, OSError) and error.filename is not None:
            sys.exit(printable(f"error: {error.filename}: {error.strerror}"))
        if isinstance(error, OSError) and error.errno in (errno.EIO, errno.ESTALE):
            sys.exit(
                f"error: the storage failed while a file was read or written: {error.strerror}"
            )
        if lost := lost_worker(error):
            say(f"error: {lost}", file=sys.stderr)
            sys.exit(PROCESS_LOST)
        # Lightning's own word for a wrong option, and Hydra's; by name, as they are imported late.
        is_hydras = type(error).__module__.partition(".")[0] in ("hydra", "omegaconf")
        if is_hydras or type(error).__name__ == "MisconfigurationException":
            sys.exit(printable(f"error: {in_one_line(error)}"))
        raise
