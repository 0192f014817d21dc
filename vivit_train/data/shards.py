"""Videos inside tar shards, wherever the shards lie: in a folder or a store that fsspec knows."""

import copy
import fnmatch
import io
import os
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem

from vivit_train.class_names import shorten
from vivit_train.data.records import Records
from vivit_train.data.tables import to_text
from vivit_train.errors import UserError, in_one_line
from vivit_train.video.decode import DecodeError
from vivit_train.video.watch import Source, begin

# What file systems call the version of a file, the surest first.
VERSION_KEYS = (
    "ETag", "etag", "blob_id", "mtime", "LastModified", "last_modified", "updated", "created",
)  # fmt: skip
# Seconds to wait before another try; together well below data.decode_timeout.
PAUSES = (0.5, 1.5, 4.0)
# Read ahead of a header in a store: what lies between two videos, in one request.
READ_AHEAD = 64 * 1024
THREADS = 32


class Stat(NamedTuple):
    """A file's bytes, and what changes whenever it does; ``None`` where the store has none."""

    size: int
    version: str | None


class ReadError(DecodeError):
    """Bytes of a video that the store did not give; the video itself may be whole."""


class Span(NamedTuple):
    """Where a video's bytes lie.

    Attributes:
        url: The shard: a path, or a URL that fsspec knows.
        start: First byte.
        size: Number of bytes.
        shard: The shard as it was when it was indexed.
    """

    url: str
    start: int
    size: int
    shard: Stat

    def read(self, name: str) -> bytes:
        """The bytes, by one request.

        Args:
            name: The video's name, for watchers and messages.

        Raises:
            ReadError: If they cannot be had, after several tries where the shard is not local.
        """

        def announce() -> None:  # at every try: a read may hang
            begin((name, None))

        announce()
        files, path = connect(self.url)
        try:
            # Where looking is free. An object in a store is trusted to stay as it is in one run.
            if isinstance(files, LocalFileSystem) and _stat(files, path) != self.shard:
                raise OSError("its shard has changed since it was indexed")
            return read_range(self.url, self.start, self.size, announce)
        except OSError as error:
            raise ReadError(name, str(error)) from error


class ShardRecords(Records):
    """Rows whose videos lie in tar shards; paths are ``<shard>.tar/<member>``.

    Args:
        root: Folder that stands for the data set, as of all records.
        url: What the shards' names are relative to: a folder or a URL.
        shards: Name of each shard -> what it is.
        members: (shard name, member name, first byte, bytes) of each row.
        labels: Class index of each row.
    """

    def __init__(
        self,
        root: Path,
        url: str,
        shards: dict[str, Stat],
        members: Sequence[tuple[str, str, int, int]],
        labels: Sequence[int],
    ) -> None:
        super().__init__(root, (f"{shard}/{name}" for shard, name, _, _ in members), labels)
        number = {name: i for i, name in enumerate(shards)}
        self.url = url
        self.shards = list(shards.items())
        self._shard = np.array([number[member[0]] for member in members], dtype=np.int32)
        self._starts = np.array([member[2] for member in members], dtype=np.int64)
        self._sizes = np.array([member[3] for member in members], dtype=np.int64)

    def source(self, index: int) -> Source:
        """See `Records.source`; the name begins with the URL of the shards."""
        return join(self.url, self.relative_path(index)), None

    def span(self, index: int) -> Span:
        """See `Records.span`."""
        name, stat = self.shards[self._shard[index]]
        return Span(join(self.url, name), int(self._starts[index]), int(self._sizes[index]), stat)

    def identity(self, index: int) -> Stat:
        """See `Records.identity`: that of the shard."""
        return self.shards[self._shard[index]][1]

    def subset(self, rows: Sequence[int]) -> "ShardRecords":
        """See `Records.subset`."""
        other = copy.copy(self)
        plain = super().subset(rows)
        other.labels, other._bytes, other._ends = plain.labels, plain._bytes, plain._ends
        rows = list(rows)
        other._shard, other._starts = self._shard[rows], self._starts[rows]
        other._sizes = self._sizes[rows]
        return other


def is_remote(root: str) -> bool:
    """Whether a root is a URL, such as s3://bucket/folder, not a folder."""
    return "://" in root or "::" in root


def join(root: str, name: str) -> str:
    """The path or URL of a file below a root."""
    return f"{root.rstrip('/')}/{name}"


def connect(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path in it; made anew in a forked process.

    Raises:
        UserError: If nothing that is installed can read it.
    """
    try:
        return fsspec.url_to_fs(url)
    except ImportError as error:  # fsspec names the package
        raise UserError(f"{url} needs a package that is not installed: {error}") from None
    except ValueError as error:
        raise UserError(
            f"{url} cannot be read: {error}. Expected a folder or a URL that fsspec knows, such "
            "as s3://, gs://, hf:// or https://"
        ) from None


def find_shards(root: str, patterns: Sequence[str]) -> dict[str, Stat]:
    """Shards by name, sorted, that match one of some patterns.

    Args:
        root: A folder or URL.
        patterns: Relative to ``root``. Braces stand for each of what they hold, ``{000..146}``
            or ``{a,b}``; in the last part ``*``, ``?`` and ``[...]`` match names.

    Raises:
        UserError: If one that is named without a wildcard does not exist, or the root cannot be
            listed.
    """
    named: list[str] = []
    wild: list[str] = []
    for name in (name for pattern in patterns for name in expand_braces(pattern)):
        (wild if re.search(r"[*?[]", name) else named).append(name)
    found = {}
    for folder in sorted({os.path.dirname(pattern) for pattern in wild}):
        entries = _list(join(root, folder))
        for pattern in (p for p in wild if os.path.dirname(p) == folder):
            matching = fnmatch.filter(entries, os.path.basename(pattern))
            found.update({join(folder, name).lstrip("/"): entries[name] for name in matching})
    files, path = connect(root)

    def look(name: str) -> Stat | None:
        return found.get(name) or _stat(files, join(path, name))

    with ThreadPoolExecutor(THREADS) as pool:
        stats = dict(zip([*named, *found], pool.map(look, [*named, *found])))
    missing = [name for name, stat in stats.items() if stat is None]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(stats)} shards that are named under {root} do not exist: "
            f"{shorten(missing)}"
        )
    return {name: stat for name, stat in sorted(stats.items()) if stat is not None}


def expand_braces(pattern: str) -> list[str]:
    """``train-{00..02}.tar`` -> three names; ``{a,b}.tar`` -> two; several braces: all pairs."""
    parts = re.split(r"(\{[^{}]*\})", pattern)
    return ["".join(choice) for choice in product(*map(_choices, parts))]


def _choices(part: str) -> list[str]:
    numbers = re.fullmatch(r"\{(\d+)\.\.(\d+)\}", part)
    if numbers:
        first, last = numbers.groups()
        digits = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
        return [f"{i:0{digits}}" for i in range(int(first), int(last) + 1)]
    return part[1:-1].split(",") if part.startswith("{") else [part]


def _list(folder: str) -> dict[str, Stat | None]:
    """Files in a folder, by name; of some stores, whose listings are bare, without their stat."""
    files, path = connect(folder)
    try:
        entries = files.ls(path, detail=True)
    except FileNotFoundError:
        return {}
    except Exception as error:  # each store's own, such as credentials that are missing
        raise UserError(f"{folder} cannot be listed: {_reason(error)}") from error
    local = isinstance(files, LocalFileSystem)
    return {
        os.path.basename(entry["name"]): None if local else _as_stat(entry)
        for entry in entries
        if entry["type"] == "file"
    }


def _stat(files: Any, path: str) -> Stat | None:
    """What a file is; ``None`` if there is none."""
    try:
        if isinstance(files, LocalFileSystem):
            status = os.stat(path)  # follows links, to the nanosecond
            return Stat(status.st_size, str(status.st_mtime_ns))
        info = files.info(path)
    except FileNotFoundError:
        return None
    except Exception as error:
        raise UserError(f"{path} cannot be read: {_reason(error)}") from error
    stat = _as_stat(info)
    if stat is None:
        raise UserError(f"{path}: its store does not say how large it is")
    return stat


def _as_stat(info: dict[str, Any]) -> Stat | None:
    if info.get("size") is None:
        return None
    version = next((info[key] for key in VERSION_KEYS if info.get(key)), None)
    if isinstance(version, datetime):  # some stores list a number, and look up a date
        version = version.timestamp()
    return Stat(int(info["size"]), None if version is None else str(version))


def read_text(url: str) -> str | None:
    """The text of a small file; ``None`` if there is none."""
    files, path = connect(url)
    try:
        content = files.cat_file(path)
    except FileNotFoundError:
        return None
    except Exception as error:
        raise UserError(f"{url} cannot be read: {_reason(error)}") from error
    return to_text(content, url)


def read_range(
    url: str, start: int, size: int, before_retry: Callable[[], None] = lambda: None
) -> bytes:
    """Bytes [start, start + size) of a file, tried again for a while where it is not local.

    Raises:
        OSError: If they do not come.
    """
    files, path = connect(url)
    for pause in () if isinstance(files, LocalFileSystem) else PAUSES:
        try:
            return _fetch(files, path, start, size)
        except (FileNotFoundError, PermissionError):
            raise
        except OSError:
            time.sleep(pause)
            before_retry()
    return _fetch(files, path, start, size)


def _fetch(files: Any, path: str, start: int, size: int) -> bytes:
    try:
        content = files.cat_file(path, start=start, end=start + size)
    except OSError:
        raise
    except Exception as error:  # a client's own, of which fsspec translates only some
        raise OSError(_reason(error)) from error
    if len(content) != size:
        raise OSError(f"{len(content)} bytes came where {size} from {start} on were asked for")
    return content


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {in_one_line(error)}"


def open_shard(url: str, size: int) -> BinaryIO:
    """A shard to read here and there, buffered so that headers cost few requests."""
    files, path = connect(url)
    if isinstance(files, LocalFileSystem):
        return open(path, "rb")
    return io.BufferedReader(_Ranges(url, size), READ_AHEAD)


class _Ranges(io.RawIOBase):
    """A file that is read by ranges."""

    def __init__(self, url: str, size: int) -> None:
        self._url, self._size, self._at = url, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self._size - self._at))
        if size:
            buffer[:size] = read_range(self._url, self._at, size)
        self._at += size
        return size
