"""A folder of one's own videos."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vivit_train.class_names import shorten
from vivit_train.data.class_folders import from_class_folders, scan_class_folders
from vivit_train.data.datamodule import VideoDataModule
from vivit_train.data.list_records import check_first, number_labels, records_from_list
from vivit_train.data.lists import read_list
from vivit_train.data.records import Records
from vivit_train.errors import UserError
from vivit_train.files import user_path
from vivit_train.seeds import derive_seed
from vivit_train.video.decode import DecodeError, VideoReader
from vivit_train.video.guard import CAN_GUARD, Failure, Guard, Tell


class Folder(VideoDataModule):
    """Videos in one folder per class, or listed in csv files.

    The first of these that the root holds:

    - ``train.csv`` and ``val.csv`` (or .txt), rows ``path,label``;
    - ``videos.csv``, rows ``path,label`` or ``path,label,split``;
    - ``train/<class name>/<video>`` and ``val/<class name>/<video>``;
    - ``<class name>/<video>``.

    The test is on the split ``test`` where there is one in the same form (``test.csv`` beside
    ``train.csv``, rows of ``videos.csv``, or class folders in ``test/`` beside ``train/``), else
    on the validation split; ``test_split`` names another.

    Where nothing names a validation split, about ``val_fraction`` of every class is set aside: a
    hash of a video's own path decides, so that adding videos moves none of the others. Only where
    a class would be left without a training or a validation video, one changes sides.

    Args:
        val_fraction: Part of each class to validate on where the data set names no split.
        test_split: The split to test on; ``None``: see above.
        **kwargs: As for `VideoDataModule`.
    """

    def __init__(
        self, *, val_fraction: float = 0.2, test_split: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._finds_test = test_split is None
        self.splits["test"] = test_split or self.splits["val"]
        if not 0 < val_fraction < 1:
            raise UserError(f"data.val_fraction must be between 0 and 1, got {val_fraction}")
        self.val_fraction = val_fraction

    def setup(self, stage: str | None = None) -> None:
        """See `VideoDataModule.setup`."""
        if self._finds_test and self.root.is_dir() and self.has_split("test"):
            self.splits["test"] = "test"
        self._finds_test = False
        super().setup(stage)

    def has_split(self, split: str) -> bool:
        """Whether the data set has a split in the form in which it has the training split."""
        if find_list(self.root, self.splits["train"]):
            return find_list(self.root, split) is not None
        if (self.root / "videos.csv").is_file():
            return split in read_list(self.root / "videos.csv").columns.get("split", ())
        folder = self.root / split
        if not (self.root / self.splits["train"]).is_dir() or not folder.is_dir():
            return False
        if any(entry.is_dir() for entry in os.scandir(folder)):
            return True
        self.tell(f"{folder} holds no class folders and is not used")
        return False

    def read_split(self, split: str) -> tuple[Records, list[str]]:
        """See `VideoDataModule.read_split`."""
        listing = find_list(self.root, split)
        if listing:
            roots = (self.root, listing.parent, self.root / split)
            return records_from_list(listing, roots, self._lists(), self.tell)
        if (self.root / "videos.csv").is_file():
            return self._from_one_list(self.root / "videos.csv", split)
        has_splits = (self.root / self.splits["train"]).is_dir()
        if has_splits and not (self.root / split).is_dir():
            raise UserError(
                f"{self.root} has a folder {self.splits['train']} but none named {split}: add it, "
                "or name yours with data.train_split, data.val_split and data.test_split"
            )
        folder = self.root / split if has_splits else self.root
        videos = scan_class_folders(folder, self.tell)
        if self.leaves_out(split):
            check_readable(folder, videos, self.sampling.decoder, self.decode_timeout)
        if not has_splits:
            videos = {name: self._part(paths, split) for name, paths in videos.items()}
        return from_class_folders(self.root, folder, videos)

    def _lists(self) -> list[Path]:
        """The list files of all splits."""
        return [file for split in self.splits.values() if (file := find_list(self.root, split))]

    def _from_one_list(self, file: Path, split: str) -> tuple[Records, list[str]]:
        listing = read_list(file)
        check_first(listing, self.root)
        labels, names = number_labels(listing, [file])
        self.tell(f"{file}: {len(listing)} rows, {listing.understood}; {len(names)} classes")
        paths, splits = listing.columns["path"], listing.columns.get("split")
        if splits is not None:
            rows = [row for row, its_split in enumerate(splits) if its_split == split]
            if not rows:
                raise UserError(
                    f"{file} has no row of the split {split!r}, only of "
                    f"{shorten(sorted(set(splits)))}: set data.train_split, data.val_split and "
                    "data.test_split"
                )
        else:  # rows of one path, its segments, stay together
            by_class: list[dict[str, list[int]]] = [{} for _ in names]
            for row, label in enumerate(labels):
                by_class[label].setdefault(paths[row], []).append(row)
            rows = [
                row
                for rows_of in by_class
                for path in self._part(list(rows_of), split)
                for row in rows_of[path]
            ]
        return Records(self.root, paths, labels, listing.segments()).subset(rows), names

    def _part(self, paths: Sequence[str], split: str) -> list[str]:
        """The training or validation part of a class; at least one video in each if it has two."""
        ranked = sorted(paths, key=_place)
        held_out = sum(_place(path) < self.val_fraction for path in paths)
        held_out = min(max(1, held_out), len(paths) - 1)
        return sorted(ranked[held_out:] if split == self.splits["train"] else ranked[:held_out])


class ListFiles(VideoDataModule):
    """Videos in list files, one per split, wherever the files and the videos lie.

    A split's name is its list file, relative to the root or absolute; without its suffix
    ``<split>.csv``, ``.txt`` or ``.list``. Rows are as `read_list` reads them; labels are names, or
    numbers beside a class file (`read_classes`). Paths are relative to the root, to the list's
    folder or absolute.
    """

    def read_split(self, split: str) -> tuple[Records, list[str]]:
        """See `VideoDataModule.read_split`."""
        found = self._find(split)
        if found is None:
            raise UserError(
                f"the list {self.root / split} does not exist: name a file with rows `path "
                "label`, relative to data.root or absolute, with data.train_split, data.val_split "
                "and data.test_split"
            )
        return records_from_list(found, (self.root, found.parent), self._lists(), self.tell)

    def _lists(self) -> list[Path]:
        """The list files of all splits."""
        return [file for split in self.splits.values() if (file := self._find(split))]

    def _find(self, split: str) -> Path | None:
        """The list file of a split."""
        listing = self.root / user_path(split)
        return listing if listing.is_file() else find_list(listing.parent, listing.name)


def _place(path: str) -> float:
    """A place in [0, 1) that depends on nothing but the path."""
    return derive_seed("split", path) / 2**63


def find_list(folder: Path, split: str) -> Path | None:
    """``<split>.csv``, .txt or .list in a folder, if there is one."""
    candidates = (folder / f"{split}{suffix}" for suffix in (".csv", ".txt", ".list"))
    return next((path for path in candidates if path.is_file()), None)


def check_readable(
    folder: Path, videos: dict[str, list[str]], decoder: str, timeout: float | None
) -> None:
    """Opens the first videos of each class, until one answers.

    A class of which nothing can be read would otherwise show only as a model that never
    predicts it.

    Args:
        folder: What the paths are relative to.
        videos: Class name -> paths.
        decoder: One of ``DECODERS``.
        timeout: Seconds that opening a video may take; ``None``: no limit.

    Raises:
        UserError: If no video of a class can be opened.
    """

    def open_video(path: Path, tell: Tell) -> None:
        VideoReader(path, decoder).close()

    guard = Guard(open_video, timeout) if timeout is not None and CAN_GUARD else None
    for name, paths in videos.items():
        errors: list[Exception] = []
        for path in paths:
            try:
                if guard is not None:
                    guard(folder / path)
                else:
                    VideoReader(folder / path, decoder).close()
                break
            except DecodeError as error:
                errors.append(error)
            except Failure as failure:
                errors.append(DecodeError(str(folder / path), failure.reason))
        else:
            raise UserError(
                f"none of the {len(paths)} videos in {folder / name} can be read, the first: "
                f"{errors[0]}. Replace the files or remove the folder"
            )
    if guard is not None:
        guard.close()
