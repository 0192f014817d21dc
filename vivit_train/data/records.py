"""The rows of a data set: which video has which class, in flat arrays that workers share."""

import csv
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from vivit_train.class_names import shorten
from vivit_train.errors import UserError

VIDEO_SUFFIXES = frozenset(
    [
        ".3gp",
        ".avi",
        ".flv",
        ".m2ts",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".ogv",
        ".ts",
        ".webm",
        ".wmv",
    ]
)
# Files that hold class names, one a line, beside list files with numbers for labels.
CLASS_FILES = ("classes.txt", "labels.txt", "class_names.txt", "label_map.txt")


class Records:
    """Paths and labels of one split.

    Paths live in one byte string with offsets and labels in one array, not in Python objects:
    forked workers then share the memory instead of copying it at every reference count.

    Args:
        root: Folder that the paths are relative to.
        paths: Path of each video, relative to ``root`` (or absolute).
        labels: Class index of each video.
    """

    def __init__(self, root: Path, paths: Iterable[str], labels: Iterable[int]) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self.root = Path(root)
        self.labels = np.fromiter(labels, dtype=np.int32)
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)
        if len(self.labels) != len(encoded):
            raise ValueError(f"{len(encoded)} paths but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def relative_path(self, index: int) -> str:
        """The path of video ``index`` as the data set spells it."""
        start = self._ends[index - 1] if index else 0
        return os.fsdecode(self._bytes[start : self._ends[index]].tobytes())

    def path(self, index: int) -> Path:
        """Where video ``index`` lies."""
        return self.root / self.relative_path(index)

    def with_labels(self, mapping: Sequence[int]) -> "Records":
        """The same videos with label ``k`` replaced by ``mapping[k]``."""
        copy = object.__new__(Records)
        copy.root, copy._bytes, copy._ends = self.root, self._bytes, self._ends
        copy.labels = np.asarray(mapping, dtype=np.int32)[self.labels]
        return copy

    def fingerprint(self, class_names: Sequence[str]) -> str:
        """A short hash of what the split holds: every relative path with its class name.

        Independent of the order of rows, of class indices and of where the folder lies, so equal
        fingerprints mean that two scores were measured on the same videos.
        """
        rows = sorted(
            f"{self.relative_path(i)}\t{class_names[label]}" for i, label in enumerate(self.labels)
        )
        return hashlib.sha256("\n".join(rows).encode(errors="surrogateescape")).hexdigest()[:16]


def is_video(name: str) -> bool:
    """Whether a file name has the suffix of a video."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def scan_class_folders(folder: Path) -> dict[str, list[str]]:
    """Videos in ``folder/<class name>/``, sorted; class name -> paths relative to ``folder``.

    Raises:
        UserError: If there are no class folders, or one of them holds no video file.
    """
    classes = sorted(
        entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] not in "._"
    )
    if not classes:
        raise UserError(
            f"{folder} holds no class folders; expected {folder}/<class name>/<video>.mp4"
        )
    videos = {
        name: sorted(
            f"{name}/{entry.name}" for entry in os.scandir(folder / name) if is_video(entry.name)
        )
        for name in classes
    }
    empty = [name for name, paths in videos.items() if not paths]
    if empty:
        raise UserError(
            f"no video file in {shorten([str(folder / name) for name in empty])}: add videos "
            f"({', '.join(sorted(VIDEO_SUFFIXES))}) or remove the folder"
        )
    return videos


def read_list(path: Path) -> list[list[str]]:
    """Rows of a list file whose fields are separated by commas, tabs or spaces.

    ``path label`` with a space is cut at the last space, because paths may hold spaces. A header
    line (one whose first field is ``path``, ``video``, ``file`` or ``filename``) is dropped;
    quoted commas are understood.

    Raises:
        UserError: If the file is empty or a row has no label.
    """
    lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{path} is empty; expected a line `path label` per video")
    delimiter = next((mark for mark in ("\t", ",") if mark in lines[0]), None)
    if delimiter:
        rows = [[field.strip() for field in row] for row in csv.reader(lines, delimiter=delimiter)]
    else:
        rows = [line.strip().rsplit(None, 1) for line in lines]
    if rows[0][0].lower() in ("path", "video", "file", "filename", "video_path"):
        del rows[0]
    for number, row in enumerate(rows, start=1):
        if len(row) < 2 or not row[0] or not row[1]:
            raise UserError(f"{path}, row {number}: expected `path label`, got {row}")
    return rows


def records_from_list(path: Path, roots: Sequence[Path]) -> tuple[Records, list[str]]:
    """Records of a list file ``path label``, labels being class names or numbers.

    Args:
        path: The list file.
        roots: Folders to try, in order, for the listed paths to be relative to.

    Returns:
        The records and their class names in the order of the labels: sorted names or, where
        labels are numbers, the lines of a class file beside the list or the names of the folders.

    Raises:
        UserError: If numbers cannot be turned into names.
    """
    rows = read_list(path)
    paths = [row[0] for row in rows]
    labels = [row[1] for row in rows]
    root = _root_of(paths, roots, path)
    if all(label.isdigit() for label in labels):
        numbers = [int(label) for label in labels]
        return Records(root, paths, numbers), _names_of_numbers(path, paths, numbers)
    names = sorted(set(labels))
    index = {name: i for i, name in enumerate(names)}
    return Records(root, paths, [index[label] for label in labels]), names


def _root_of(paths: Sequence[str], roots: Sequence[Path], listing: Path) -> Path:
    """The first folder under which one of the first few listed files exists."""
    for root in roots:
        if any((root / path).exists() for path in paths[:20]):
            return root
    raise UserError(
        f"none of the first videos that {listing} lists exists, e.g. {paths[0]!r}; looked under "
        f"{shorten([str(root) for root in roots])}. Set data.root to the folder that the listed "
        "paths are relative to"
    )


def _names_of_numbers(path: Path, paths: Sequence[str], numbers: Sequence[int]) -> list[str]:
    """Class names for a list file that labels by number: from a class file, or the folders."""
    for folder in (path.parent, path.parent.parent):
        for name in CLASS_FILES:
            if (folder / name).is_file():
                lines = (folder / name).read_text(encoding="utf-8-sig").splitlines()
                names = [line.strip() for line in lines if line.strip()]
                if max(numbers) >= len(names):
                    raise UserError(
                        f"{path} has label {max(numbers)} but {folder / name} names only "
                        f"{len(names)} classes"
                    )
                return names
    folders: dict[int, set[str]] = {}
    for video, number in zip(paths, numbers):
        folders.setdefault(number, set()).add(os.path.basename(os.path.dirname(video)))
    one_each = all(len(names) == 1 and "" not in names for names in folders.values())
    distinct = len(set().union(*folders.values())) == len(folders)
    if one_each and distinct and sorted(folders) == list(range(len(folders))):
        return [folders[number].pop() for number in range(len(folders))]
    raise UserError(
        f"{path} labels videos by number and nothing names the classes: put a file "
        f"{CLASS_FILES[0]} beside it, one class name per line in the order of the numbers"
    )
