"""Exceptions for what a user can get wrong, or has to see to."""

import errno
import shutil
from pathlib import Path

# No space on the device, over the quota, over the size that a file may have.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(ValueError):
    """Something that the user can correct: a path, a value, a file.

    The message names the value, what was expected and what to do. The commands print it alone,
    without a traceback; from Python it is an ordinary ``ValueError``.
    """


class ProcessLost(UserError):
    """Another process of the run is gone."""


class DiskFull(OSError):
    """A checkpoint could not be written because the disk is full.

    Args:
        path: The checkpoint.
        needed: Bytes that it takes.
        cause: What the system said.
    """

    def __init__(self, path: Path, needed: int, cause: OSError) -> None:
        free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
        super().__init__(
            cause.errno,
            f"{path} could not be written: {cause.strerror}. It needs {needed / 1e6:,.1f} MB, and "
            f"{free / 1e6:,.1f} MB are free. Earlier checkpoints are whole. Training stops here, "
            "because what it would learn from here on could not be saved. Make room "
            "(df, quota, ulimit -f) and resume with ckpt_path=last",
        )

    def __str__(self) -> str:
        return str(self.strerror)


def in_one_line(error: Exception) -> str:
    """What an error says, whatever lines its library breaks it into."""
    return " ".join(str(error).split())


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def no_room(error: OSError) -> str:
    """The message for a file that could not be written because the disk is full."""
    if isinstance(error, DiskFull) or error.filename is None:
        return str(error)
    return (
        f"{error.filename} could not be written: {error.strerror}. Make room (df, quota, "
        "ulimit -f); a run then resumes with ckpt_path=last"
    )
