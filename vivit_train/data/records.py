"""The rows of a data set: which video has which class, in flat arrays that workers share."""

import copy
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vivit_train.video.container import is_video
from vivit_train.video.decoders.pictures import holds_pictures, is_picture
from vivit_train.video.watch import Source

if TYPE_CHECKING:
    from vivit_train.data.shards import Span


class Records:
    """Paths, labels and, for segments of long videos, times of one split.

    Paths live in one byte string with offsets and labels in one array, not in Python objects:
    forked workers then share the memory instead of copying it at every reference count.

    Args:
        root: Folder that the paths are relative to.
        paths: Path of each row's video, relative to ``root`` (or absolute).
        labels: Class index of each row; with several heads a sequence of one per head; multi-label
            0 or 1 of each class.
        segments: (start, end) in seconds of each row, where rows are parts of videos.
        multi_label: Whether a row has any number of the classes.

    Attributes:
        labels: int32 ``[N]``, with several heads ``[N, heads]``, multi-label ``[N, K]``.
        picture_rate: Frames per second of videos that are folders of pictures; ``None``: unknown.
    """

    picture_rate: float | None = None

    def __init__(
        self,
        root: Path,
        paths: Iterable[str],
        labels: Iterable[int] | Iterable[Sequence[int]],
        segments: Iterable[Sequence[float]] | None = None,
        multi_label: bool = False,
    ) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self.root = Path(root)
        self.multi_label = multi_label
        self.labels = np.array(list(labels), dtype=np.int32)
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)
        if len(self.labels) != len(encoded):
            raise ValueError(f"{len(encoded)} paths but {len(self.labels)} labels")
        self._segments = None if segments is None else np.array(list(segments), dtype=np.float64)

    def __len__(self) -> int:
        return len(self.labels)

    def relative_path(self, index: int) -> str:
        """The path of video ``index`` as the data set spells it."""
        start = self._ends[index - 1] if index else 0
        return os.fsdecode(self._bytes[start : self._ends[index]].tobytes())

    def path(self, index: int) -> Path:
        """Where video ``index`` lies."""
        return self.root / self.relative_path(index)

    def segment(self, index: int) -> tuple[float, float] | None:
        """(start, end) in seconds of row ``index``; ``None`` where it is the whole video."""
        if self._segments is None:
            return None
        start, end = self._segments[index].tolist()
        return start, end

    def source(self, index: int) -> Source:
        """Row ``index`` as a `VideoReader` is asked for it, and messages name it."""
        return str(self.path(index)), self.segment(index)

    def span(self, index: int) -> "Span | None":
        """Where in a larger file the video of row ``index`` lies; ``None``: in one of its own."""
        return None

    def identity(self, index: int) -> tuple[int | None, int | str | None]:
        """Bytes of the file of row ``index``, and what changes whenever the file does."""
        return size_and_mtime(self.path(index))

    def name(self, index: int) -> str:
        """The relative path of row ``index``, with a segment's times: ``a.mp4#t=1.5,3.25``."""
        segment = self.segment(index)
        times = f"#t={segment[0]:.10g},{segment[1]:.10g}" if segment else ""
        return self.relative_path(index) + times

    def classes(self, index: int) -> list[int]:
        """The classes of row ``index``: one, with several heads one of each, multi-label any."""
        labels = self.labels[index]
        found = np.flatnonzero(labels) if self.multi_label else np.atleast_1d(labels)
        return found.tolist()

    def class_counts(self, num_classes: int) -> np.ndarray:
        """Rows of each class: int64 ``[K]``."""
        if self.multi_label:
            return self.labels.sum(axis=0, dtype=np.int64)
        return np.bincount(self.labels.ravel(), minlength=num_classes)

    def with_labels(self, mapping: Sequence[int], num_classes: int | None = None) -> "Records":
        """The same videos with class ``k`` replaced by ``mapping[k]``.

        Args:
            mapping: The new class of each class.
            num_classes: How many new classes there are; ``None``: as many as before.
        """
        other = copy.copy(self)
        if self.multi_label:
            shape = (len(self), num_classes or len(mapping))
            other.labels = np.zeros(shape, dtype=np.int32)
            other.labels[:, list(mapping)] = self.labels
        else:
            other.labels = np.asarray(mapping, dtype=np.int32)[self.labels]
        return other

    def subset(self, rows: Sequence[int]) -> "Records":
        """The given rows alone, in the given order."""
        other = Records(
            self.root,
            [self.relative_path(row) for row in rows],
            self.labels[list(rows)],
            None if self._segments is None else self._segments[list(rows)],
            self.multi_label,
        )
        other.picture_rate = self.picture_rate
        return other

    def digest(self) -> str:
        """A short hash of the rows in their order: paths, times and labels, not the videos.

        Equal digests mean that a sampler's row numbers name the same videos. Takes 0.1 s for
        650,000 rows.
        """
        hashed = hashlib.sha256()
        for array in (self._bytes, self._ends, self.labels, self._segments):
            if array is not None:
                hashed.update(f"{array.shape}".encode())
                hashed.update(array.tobytes())
        return hashed.hexdigest()[:16]

    def fingerprint(self, class_names: Sequence[str], rows: Iterable[int] | None = None) -> str:
        """A short hash of what the split holds: every name with those of its classes.

        Independent of the order of rows, of class indices and of where the folder lies, so equal
        fingerprints mean that two scores were measured on the same videos.

        Args:
            class_names: All classes.
            rows: Those to take; ``None``: all.
        """
        lines = []
        for i in range(len(self)) if rows is None else rows:
            names = [class_names[k] for k in self.classes(i)]
            lines.append("\t".join([self.name(i), *(sorted(names) if self.multi_label else names)]))
        lines.sort()
        return hashlib.sha256("\n".join(lines).encode(errors="surrogatepass")).hexdigest()[:16]


def count_rows(records: Mapping[str, Records], splits: Mapping[str, str]) -> str:
    """``train 160, val 40, test 40 (split val) videos``: by role, and the split of another name."""
    counts = (
        f"{role} {len(rows)}" + ("" if role == splits[role] else f" (split {splits[role]})")
        for role, rows in records.items()
    )
    return f"{', '.join(counts)} videos"


def size_and_mtime(path: str | Path) -> tuple[int | None, int | None]:
    """Bytes and time of change (ns) of a file; ``None`` of what is not there.

    Of a folder of pictures those of all pictures together, and the last change.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISDIR(status.st_mode):
            return status.st_size, status.st_mtime_ns
        with os.scandir(path) as entries:
            pictures = [entry.stat() for entry in entries if is_picture(entry.name)]
    except OSError:
        return None, None
    last = max(entry.st_mtime_ns for entry in (status, *pictures))
    return sum(entry.st_size for entry in pictures), last


def stem(path: str) -> str:
    """A path without the suffix of a video: folders of pictures have none."""
    return path[: path.rfind(".")] if is_video(path) else path


def by_stem(paths: Iterable[str], parts: int = 1) -> dict[str, str]:
    """Videos by name without suffix; of a file and a folder of pictures of one name, the file.

    Args:
        paths: As `list_videos` gives them.
        parts: How many parts of a path, from its end, are the name.
    """
    found: dict[str, str] = {}
    for path in paths:
        name = stem("/".join(path.split("/")[-parts:]))
        if name not in found or is_video(path):
            found[name] = path
    return found


def list_videos(folder: Path, depth: int, skip: Sequence[str] = ()) -> Iterator[str]:
    """Videos in a folder and those below it, by listing folders, never looking at a file.

    A folder of pictures is a video: it is listed as one, and not looked into.

    Args:
        folder: Where to begin.
        depth: How many folders deep to go; 0: only ``folder`` itself.
        skip: Names of folders to leave out, such as those with millions of pictures.

    Yields:
        Paths relative to ``folder``, sorted within each folder.
    """
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name[0] == ".":
            continue
        if is_video(entry.name):
            yield entry.name
        elif entry.name not in skip and entry.is_dir():
            if holds_pictures(entry.path):
                yield entry.name
            elif depth:
                for below in list_videos(Path(entry.path), depth - 1, skip):
                    yield f"{entry.name}/{below}"
