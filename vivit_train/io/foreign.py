"""Files that may come from strangers: read whole or refused, and written to only if they are ours.

See SECURITY.md. Nothing here imports torch: a damaged checkpoint is refused before that.
"""

import contextlib
import json
import os
import stat
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, BinaryIO, TypeVar, get_args, get_origin, get_type_hints, is_typeddict

from filelock import FileLock

from vivit_train.errors import UserError

# What an archive may unpack to: this many times its own size, and this many bytes whatever its
# size. Weights hardly compress; an archive that unpacks to much more is made to fill the memory.
MOST_RATIO = 20
MOST_BYTES = 2**26
MOST_JSON_BYTES = 2**26

Kind = TypeVar("Kind")


def check_regular(path: Path) -> None:
    """Refuses what is no plain file: reading a pipe, a socket or a device may never end.

    Raises:
        UserError: If the path exists and is none.
    """
    if path.exists() and not path.is_file():
        raise UserError(
            f"{path} is not a regular file but a pipe, a socket, a device or a folder: copy the "
            "content into a file and give that"
        )


def damage(archive: Path) -> str | None:
    """What is wrong with a zip archive, such as a checkpoint, or ``None`` if it is whole.

    `torch.save` writes a CRC-32 of each tensor, which `torch.load` does not compare: it would go
    on with a flipped bit. Reads the whole file (1.5 GB/s from memory).
    """
    try:
        with zipfile.ZipFile(archive) as parts:
            unpacked, size = sum(i.file_size for i in parts.infolist()), archive.stat().st_size
            if unpacked > max(MOST_BYTES, MOST_RATIO * size):
                return (
                    f"its {size:,} bytes unpack to {unpacked:,}, more than {MOST_RATIO} times as "
                    "many, which no weights do"
                )
            name = parts.testzip()
    except Exception as error:  # what a damaged header leads to is not documented
        return f"{type(error).__name__}: {error}"
    return None if name is None else f"the checksum of its part {name} does not match"


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        UserError: If the file cannot be read, is not JSON, or holds anything else.
    """
    check_regular(path)
    try:
        if path.stat().st_size > MOST_JSON_BYTES:
            raise ValueError(f"it is larger than {MOST_JSON_BYTES:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object, not a {type(content).__name__}")
    return content


def from_json(kind: type[Kind], line: str | bytes) -> Kind | None:
    """The dataclass that a line of JSON holds.

    Args:
        kind: The dataclass. Keys that it does not have are ignored.
        line: The text.

    Returns:
        ``None`` where the line is something else: cut off, of other types, of another version.
    """
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    types = get_type_hints(kind)
    values = {k: v for k, v in content.items() if k in types} if isinstance(content, dict) else {}
    if not all(is_of(value, types[name]) for name, value in values.items()):
        return None
    try:
        return kind(**values)
    except TypeError:  # a field is missing
        return None


def is_of(value: Any, kind: Any) -> bool:
    """Whether a value from a file is of a type as it is annotated, e.g. ``int | list[str]``.

    A tuple passes for a list and a whole number for a ``float``, but ``True`` for no number.
    """
    if is_typeddict(kind):  # further entries may be there
        parts = get_type_hints(kind)
        return isinstance(value, dict) and all(
            is_of(value.get(k), parts[k])
            for k in parts
            if k in value or k in kind.__required_keys__
        )
    if isinstance(kind, UnionType):
        return any(is_of(value, choice) for choice in get_args(kind))
    if get_origin(kind) in (list, Sequence):
        (part,) = get_args(kind)
        return isinstance(value, list | tuple) and all(is_of(item, part) for item in value)
    if get_origin(kind) is dict:
        name, part = get_args(kind)
        items = value.items() if isinstance(value, dict) else [(None, None)]
        return all(is_of(key, name) and is_of(item, part) for key, item in items)
    if isinstance(value, bool) or kind is not float:
        return kind in (Any, type(value)) or (
            isinstance(value, kind) and not isinstance(value, bool)
        )
    # False for NaN, and for integers that no float can hold.
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def open_own(path: Path, begins: bytes) -> BinaryIO:
    """Opens a file of ours for reading and appending; makes it if need be.

    In a folder from strangers another file may lie under its name, such as a link to any file of
    the user's, to which nothing must be added.

    Args:
        path: The file.
        begins: How the content begins, after empty lines, in every file of the kind.

    Raises:
        OSError: If it cannot be opened.
        UserError: If something else is there.
    """
    no_follow = getattr(os, "O_NOFOLLOW", 0)
    no_wait = getattr(os, "O_NONBLOCK", 0)  # opening a pipe would wait for its reader
    _check_no_link(path)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | no_follow | no_wait
    descriptor = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_ours(path, "is not a regular file")
    file = os.fdopen(descriptor, "a+b")
    file.seek(0)
    head = file.read(4096).lstrip(b"\n")[: len(begins)]
    if not begins.startswith(head):  # a file that was cut off may end within
        file.close()
        raise _not_ours(path, f"does not begin with {begins.decode()}, as a file of ours does")
    file.seek(0, os.SEEK_END)
    return file


class OwnLines:
    """A file of ours with a line of JSON for each thing, to which every new one is added at once.

    Args:
        path: The file; it is made if need be.
        begins: See `open_own`.

    Raises:
        OSError: If it cannot be opened.
        UserError: If something else is there.
    """

    def __init__(self, path: Path, begins: bytes) -> None:
        self._file = open_own(path, begins)
        if self._file.tell():
            self._file.seek(-1, os.SEEK_END)
            if self._file.read() != b"\n":  # a line was cut off
                self._file.write(b"\n")

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(0)
        yield from self._file

    def add(self, content: dict[str, Any]) -> None:
        """Adds a line.

        Raises:
            OSError: If it cannot be written.
        """
        # ASCII: names that are not valid text survive as escapes.
        self._file.write(json.dumps(content).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


@contextlib.contextmanager
def own_lock(path: Path) -> Iterator[None]:
    """Holds the lock file of this name, which is empty, while the block runs.

    Raises:
        OSError: If it cannot be opened.
        UserError: If something else is there.
    """
    _check_no_link(path)
    if path.exists() and not (path.is_file() and path.stat().st_size == 0):
        raise _not_ours(path, "is not an empty file, as a lock is")
    with FileLock(path):
        yield


def _check_no_link(path: Path) -> None:
    if path.is_symlink():
        raise _not_ours(path, f"is a link to {os.readlink(path)}")


def _not_ours(path: Path, what: str) -> UserError:
    return UserError(
        f"{path} {what}: it was not written by vivit-train and nothing is written to it. Remove "
        "it if it is not needed"
    )
