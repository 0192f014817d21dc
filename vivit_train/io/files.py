"""Files that are written whole or not at all."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def written_whole(
    path: Path, put: Callable[[Path, Path], None] | None = None
) -> Iterator[BinaryIO]:
    """A file that takes its place once it is complete and synced to the disk.

    A process that is killed within, or a power cut, leaves the file of before.

    Args:
        path: The place; its folder is made.
        put: Renames the file, which has another name in the same folder, to its place; ``None``:
            `os.replace`.

    Raises:
        OSError: With the name of the file.
    """
    temporary = temporary_name(path)
    with errors_name(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            (put or os.replace)(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        if os.name == "posix":  # the rename itself survives a power cut only when synced too
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def write_whole(path: Path, text: str) -> None:
    """Writes a text as it is, see `written_whole`."""
    with written_whole(path) as file:
        file.write(text.encode(errors="surrogateescape"))


def temporary_name(path: Path) -> Path:
    """A free name beside a file.

    What is there by this name is of a process that has ended, as only one process writes a folder.
    It may be a second name of a checkpoint, which must not be opened for writing.
    """
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    return temporary


@contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """Within, an ``OSError`` that names no file, as those of a full disk, names this one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def user_path(text: str | Path) -> Path:
    """A path that a user gave: ``~`` is the home directory, which shells leave in --output=~/x.

    ``~name`` of no user of this machine is a path like any other, as in a shell.
    """
    return Path(os.path.expanduser(text))
