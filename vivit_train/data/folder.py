"""A folder of one's own videos."""

import os
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path, PurePath
from typing import Any

from vivit_train.class_names import shorten
from vivit_train.data.class_folders import count_videos, from_class_folders, scan_class_folders
from vivit_train.data.datamodule import VideoDataModule
from vivit_train.data.groups import folds, hold_out, keys_of
from vivit_train.data.list_records import (
    SEPARATOR,
    check_first,
    number_labels,
    number_several,
    paths_under,
    records_from_list,
)
from vivit_train.data.lists import Listing, read_list
from vivit_train.data.records import Records
from vivit_train.errors import UserError
from vivit_train.io.files import user_path
from vivit_train.video.decode import DecodeError, VideoReader
from vivit_train.video.guard import CAN_GUARD, Failure, Guard

# What a validation split may be called, besides `val`.
OTHER_NAMES = ("valid", "validation", "dev", "eval")


class Folder(VideoDataModule):
    """Videos in one folder per class, or listed in csv files.

    The first of these that the root holds:

    - ``train.csv`` and ``val.csv`` (or .txt), rows ``path,label``;
    - ``videos.csv``, rows ``path,label`` or ``path,label,split``;
    - ``train/<class name>/<video>`` and ``val/<class name>/<video>``;
    - ``<class name>/<video>``.

    The test is on the split ``test`` where there is one (``test.csv``, rows of ``videos.csv``, or
    class folders in ``test/`` beside ``train/``), else on the validation split. ``test_split``
    names another.

    Where nothing names a validation split, it is held out from the training split, or from all
    videos where nothing names that either: ``val_fraction`` of each class, by a hash of the
    videos' own paths, see `hold_out`.

    With ``multi_label`` labels are lists' alone, several of a video separated by ``;``.

    Args:
        val_fraction: Part of each class to validate on where the data set names no split.
        fold: In place of ``val_fraction``, the number of the part to validate on, from 0 on, of
            ``num_folds`` parts: see `folds`.
        num_folds: Number of parts, 2 or more.
        group: What keeps videos of one source on one side: a regular expression whose first group,
            found in a video's path relative to the root, names the source; or a column of the
            list; ``None``: each file is a source of its own.
        test_split: The split to test on; ``None``: see above.
        **kwargs: As for `VideoDataModule`.
    """

    can_multi_label = True

    def __init__(
        self,
        *,
        val_fraction: float = 0.2,
        fold: int | None = None,
        num_folds: int = 5,
        group: str | None = None,
        test_split: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._finds_test = test_split is None
        self.splits["test"] = test_split or self.splits["val"]
        if not 0 < val_fraction < 1:
            raise UserError(f"data.val_fraction must be between 0 and 1, got {val_fraction}")
        if num_folds < 2 or not 0 <= (fold or 0) < num_folds:
            raise UserError(
                f"data.fold={fold} of data.num_folds={num_folds}: expected 2 or more folds, and "
                "one of them, counted from 0"
            )
        self.val_fraction = val_fraction
        self.fold = fold
        self.num_folds = num_folds
        self.group = group
        self._keys: dict[str, set[str]] = {}  # the groups of each split

    def setup(self, stage: str | None = None) -> None:
        """See `VideoDataModule.setup`.

        Raises:
            UserError: Also if the data set's own splits share a group.
        """
        if not self.records and self.root.is_dir():  # the first time
            if self._finds_test and self.finds_test():
                self.splits["test"] = "test"
            self._tell_of_unused()
        self._finds_test = False
        super().setup(stage)
        if self.group is not None:
            self._check_groups()

    def _check_groups(self) -> None:
        """Refuses groups that are trained on and are in another split as well."""
        train = self.splits["train"]
        for split, keys in self._keys.items():
            shared = sorted(keys & self._keys.get(train, set()))
            if split != train and shared:
                raise UserError(
                    f"{len(shared)} groups of data.group={self.group!r} are in the split {split} "
                    f"and in {train}: {shorten(shared, 3)}. The data set names these splits: move "
                    "the videos of a group to one of them, or set data.group=null"
                )

    def finds_test(self) -> bool:
        """Whether there is a split ``test`` to use."""
        if not self.has_split("test"):
            return False
        folder = self.root / "test"
        is_list = self._is_listed() or find_list(self.root, "test")
        if is_list or any(entry.is_dir() for entry in os.scandir(folder)):
            return True
        self.tell(f"{folder} holds no class folders and is not used")
        return False

    def _tell_of_unused(self) -> None:
        """Names folders of videos beside those of the splits: a part may have been forgotten."""
        used = {PurePath(split).parts[:1] for split in self.splits.values()}
        if self._finds_test:  # which tells of it
            used.add(("test",))
        if () in used or self._is_listed() or not (self.root / self.splits["train"]).is_dir():
            return
        others = [e.name for e in os.scandir(self.root) if e.is_dir() and e.name[0] not in "._"]
        told = [
            f"{name} ({count} videos)"
            for name in sorted(others)
            if (name,) not in used and (count := count_videos(self.root / name))
        ]
        if told:
            self.tell(
                f"left out under {self.root}, as data.train_split, data.val_split and "
                f"data.test_split do not name them: {shorten(told, 5)}"
            )

    def has_split(self, split: str) -> bool:
        """Whether the data set names a split: a list, rows of videos.csv or a folder."""
        if find_list(self.root, split):
            return True
        if self._is_listed():
            return split in self._listed_splits
        return (self.root / self.splits["train"]).is_dir() and (self.root / split).is_dir()

    def _is_listed(self) -> bool:
        lists = (find_list(self.root, self.splits["train"]), self.root / "videos.csv")
        return any(file and file.is_file() for file in lists)

    @cached_property
    def _listed_splits(self) -> set[str]:
        """The splits that videos.csv names."""
        file = self.root / "videos.csv"
        if find_list(self.root, self.splits["train"]) or not file.is_file():
            return set()
        return set(read_list(file, self.multi_label).columns.get("split", ()))

    def read_split(self, split: str) -> tuple[Records, list[str]]:
        """See `VideoDataModule.read_split`."""
        train = self.splits["train"]
        is_held_out = split in (train, self.splits["val"]) and self.holds_out()
        if self.fold is not None and not is_held_out and split != self.splits["test"]:
            raise UserError(
                f"data.fold={self.fold} validates on a part of the training videos, but "
                f"{self.root} names the split {self.splits['val']} to validate on: set "
                "data.fold=null, or put the videos of both into one split"
            )
        if not (is_held_out or self.has_split(split) or self.has_split(train)):
            raise UserError(
                f"nothing under {self.root} names a split {split!r}: leave data.train_split, "
                "data.val_split and data.test_split out, or name one that is there"
            )
        records, names, column = self.read_named(train if is_held_out else split)
        if self.group is None and not is_held_out:
            return records, names
        keys = [records.relative_path(row) for row in range(len(records))]
        if self.group is not None:
            keys = list(column) if column is not None else keys_of(keys, self.group)
        rows: Sequence[int] = range(len(records))
        if is_held_out:
            held = self._held_out(records, keys, names)
            rows = [row for row, key in enumerate(keys) if (key in held) == (split != train)]
        self._keys[split] = {keys[row] for row in rows}
        return records.subset(rows), names

    def holds_out(self) -> bool:
        """Whether the validation split is a part of the training split, or of all videos.

        Raises:
            UserError: If one is there that may be it, under another name.
        """
        train, val = self.splits["train"], self.splits["val"]
        if train == val or self.has_split(val):
            return False
        if not self.has_split(train):
            return True
        if val != "val":
            return False
        unused = sorted(self._listed_splits - {train, *self.splits.values(), "test"})
        other = next(chain(unused, filter(self.has_split, OTHER_NAMES)), None)
        if other is not None:
            raise UserError(
                f"{self.root} has a split {train} and one named {other}, but none named {val}: set "
                f"data.val_split={other}, or rename it"
            )
        return True

    def _held_out(self, records: Records, keys: Sequence[str], names: Sequence[str]) -> set[str]:
        """The groups to validate on; says how many videos of each class they are."""
        held = {key for row, key in enumerate(keys) if records.name(row) in self.known_val}
        how = "as the run did"
        # A video with several classes counts in each of them, one with none in a class of its own.
        rows = range(len(records))
        pairs = [(keys[row], k) for row in rows for k in records.classes(row) or [-1]]
        labels = [k for _, k in pairs]
        paired = [key for key, _ in pairs]
        if not held and self.fold is not None:
            found = folds(paired, labels, self.num_folds)
            held = {key for key, fold in found.items() if fold == self.fold}
            how = f"data.fold={self.fold} of {self.num_folds}"
        elif not held:
            held = hold_out(paired, labels, self.val_fraction)
            how = f"data.val_fraction={self.val_fraction:g}"
        every = Counter(labels)
        some = Counter(k for key, k in pairs if key in held)
        shares = [f"{some[k]} of {every[k]}" for k in range(len(names))]
        told = (
            shares[0]
            if len(set(shares)) == 1
            else shorten([f"{name} {share}" for name, share in zip(names, shares)], 5)
        )
        self.tell(f"held out for validation ({how}), of each class: {told}")
        return held

    def read_named(self, split: str) -> tuple[Records, list[str], Sequence[str] | None]:
        """A split that the data set names, or all videos where it names none.

        Returns:
            Its records, the class names, and the column that ``group`` names, if one does.
        """
        listing = find_list(self.root, split)
        if listing:
            roots = (self.root, listing.parent, self.root / split)
            every = (find_list(self.root, name) for name in self.splits.values())
            records, names = records_from_list(
                listing, roots, list(filter(None, every)), self.tell, self.multi_label
            )
            return records, names, self._column(read_list(listing, self.multi_label))
        if (self.root / "videos.csv").is_file():
            return self._from_one_list(self.root / "videos.csv", split)
        if self.multi_label:
            raise UserError(
                f"data.multi_label=true: {self.root} has no list of the split {split!r}, and class "
                f"folders say one label of each video: write {split}.csv or videos.csv, with rows "
                f"`path,label`, several labels of a video with a {SEPARATOR} between them"
            )
        train = self.splits["train"]
        has_splits = (self.root / train).is_dir()
        if has_splits and not (self.root / split).is_dir():
            raise UserError(
                f"{self.root} has a folder {train} but none named {split}: add it, or name yours "
                "with data.train_split, data.val_split and data.test_split"
            )
        folder = self.root / split if has_splits else self.root
        videos = scan_class_folders(folder, self.tell)
        if self.leaves_out(split):
            check_readable(folder, videos, self.sampling.decoder, self.decode_timeout)
        return *from_class_folders(self.root, folder, videos), None

    def _column(self, listing: Listing) -> list[str] | None:
        """The column that ``group`` names."""
        column = listing.others.get(self.group or "")
        if column is not None and "" in column:
            raise UserError(f"{listing.place(column.index(''))}: the {self.group} is empty")
        return column

    def _from_one_list(
        self, file: Path, split: str
    ) -> tuple[Records, list[str], Sequence[str] | None]:
        listing = read_list(file, self.multi_label)
        check_first(listing, self.root)
        labels, names = (number_several if self.multi_label else number_labels)(listing, [file])
        self.tell(f"{file}: {len(listing)} rows, {listing.understood}; {len(names)} classes")
        paths, splits = listing.columns["path"], listing.columns.get("split")
        paths = list(paths_under(self.root, paths) or paths)
        first = [0] * len(listing) if self.multi_label else labels
        rows = sorted(range(len(listing)), key=lambda row: (first[row], paths[row], row))
        if splits is not None:
            rows = [row for row, its_split in enumerate(splits) if its_split == split]
            if not rows:
                raise UserError(
                    f"{file} has no row of the split {split!r}, only of "
                    f"{shorten(sorted(set(splits)))}: set data.train_split, data.val_split and "
                    "data.test_split"
                )
        times = listing.segments()
        records = Records(self.root, paths, labels, times, self.multi_label).subset(rows)
        column = self._column(listing)
        return records, names, None if column is None else [column[row] for row in rows]


class ListFiles(VideoDataModule):
    """Videos in list files, one per split, wherever the files and the videos lie.

    A split's name is its list file, relative to the root or absolute; without its suffix
    ``<split>.csv``, ``.txt`` or ``.list``. Rows are as `read_list` reads them; labels are names, or
    numbers beside a class file (`read_classes`). Paths are relative to the root, to the list's
    folder or absolute. With ``multi_label`` a label is any number of them, separated by ``;``.
    """

    can_multi_label = True

    def read_split(self, split: str) -> tuple[Records, list[str]]:
        """See `VideoDataModule.read_split`."""
        found = self._find(split)
        if found is None:
            raise UserError(
                f"the list {self.root / split} does not exist: name a file with rows `path "
                "label`, relative to data.root or absolute, with data.train_split, data.val_split "
                "and data.test_split"
            )
        roots = (self.root, found.parent)
        lists = list(filter(None, map(self._find, self.splits.values())))
        return records_from_list(found, roots, lists, self.tell, self.multi_label)

    def _find(self, split: str) -> Path | None:
        listing = self.root / user_path(split)
        return listing if listing.is_file() else find_list(listing.parent, listing.name)


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

    def open_video(path: Path) -> None:
        VideoReader(path, decoder).close()

    guard = Guard(open_video, timeout) if timeout is not None and CAN_GUARD else None
    attempt = guard or open_video
    for name, paths in videos.items():
        errors: list[Exception] = []
        for path in paths:
            try:
                attempt(folder / path)
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
