"""A folder of one's own videos."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vivit_train.data.datamodule import VideoDataModule
from vivit_train.data.records import (
    Records,
    read_list,
    records_from_list,
    scan_class_folders,
)
from vivit_train.errors import UserError
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

    Where nothing names a validation split, about ``val_fraction`` of every class is set aside: a
    hash of a video's own path decides, so that adding videos moves none of the others. Only where
    a class would be left without a training or a validation video, one changes sides.

    Args:
        val_fraction: Part of each class to validate on where the data set names no split.
        **kwargs: As for `VideoDataModule`.
    """

    def __init__(self, *, val_fraction: float = 0.2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < val_fraction < 1:
            raise UserError(f"data.val_fraction must be between 0 and 1, got {val_fraction}")
        self.val_fraction = val_fraction

    def read_split(self, split: str) -> tuple[Records, list[str]]:
        """See `VideoDataModule.read_split`."""
        listing = find_list(self.root, split)
        if listing:
            return records_from_list(listing, (self.root, listing.parent, self.root / split))
        if (self.root / "videos.csv").is_file():
            return self._from_one_list(self.root / "videos.csv", split)
        has_splits = (self.root / self.splits["train"]).is_dir()
        if has_splits and not (self.root / split).is_dir():
            raise UserError(
                f"{self.root} has a folder {self.splits['train']} but none named {split}: add it, "
                "or name yours with data.train_split, data.val_split and data.test_split"
            )
        folder = self.root / split if has_splits else self.root
        videos = scan_class_folders(folder)
        if self.leaves_out(split):
            check_readable(folder, videos, self.sampling.decoder, self.decode_timeout)
        if not has_splits:
            videos = {name: self._part(paths, split) for name, paths in videos.items()}
        return from_class_folders(self.root, folder, videos)

    def _from_one_list(self, listing: Path, split: str) -> tuple[Records, list[str]]:
        rows = read_list(listing)
        names = sorted({row[1] for row in rows})
        if all(len(row) > 2 for row in rows):
            chosen = [(row[0], row[1]) for row in rows if row[2] == split]
        else:
            by_class = {name: [row[0] for row in rows if row[1] == name] for name in names}
            chosen = [(p, name) for name in names for p in self._part(by_class[name], split)]
        labels = [names.index(name) for _, name in chosen]
        return Records(self.root, [path for path, _ in chosen], labels), names

    def _part(self, paths: Sequence[str], split: str) -> list[str]:
        """The training or validation part of a class; at least one video in each if it has two."""
        ranked = sorted(paths, key=_place)
        held_out = sum(_place(path) < self.val_fraction for path in paths)
        held_out = min(max(1, held_out), len(paths) - 1)
        return sorted(ranked[held_out:] if split == self.splits["train"] else ranked[:held_out])


class ListFiles(VideoDataModule):
    """Videos in list files, one per split, wherever the files and the videos lie.

    A split's name is its list file, relative to the root or absolute; without its suffix
    ``<split>.csv``, ``.txt`` or ``.list``. Rows are ``path label``, separated by commas, tabs or
    spaces, or columns that a header names; labels are names, or numbers beside a ``classes.txt``.
    Paths are relative to the root, to the list's folder or absolute.
    """

    def read_split(self, split: str) -> tuple[Records, list[str]]:
        """See `VideoDataModule.read_split`."""
        listing = self.root / Path(split).expanduser()
        found = listing if listing.is_file() else find_list(listing.parent, listing.name)
        if found is None:
            raise UserError(
                f"the list {listing} does not exist: name a file with rows `path label`, relative "
                "to data.root or absolute, with data.train_split, data.val_split and "
                "data.test_split"
            )
        return records_from_list(found, (self.root, found.parent))


def _place(path: str) -> float:
    """A place in [0, 1) that depends on nothing but the path."""
    return derive_seed("split", path) / 2**63


def find_list(folder: Path, split: str) -> Path | None:
    """``<split>.csv``, .txt or .list in a folder, if there is one."""
    candidates = (folder / f"{split}{suffix}" for suffix in (".csv", ".txt", ".list"))
    return next((path for path in candidates if path.is_file()), None)


def from_class_folders(
    root: Path, folder: Path, videos: dict[str, list[str]]
) -> tuple[Records, list[str]]:
    """Records of the class folders under ``folder``, with paths relative to ``root``."""
    prefix = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
    rows = [
        (f"{prefix}{path}", label)
        for label, paths in enumerate(videos.values())
        for path in paths
    ]  # fmt: skip
    return Records(root, [path for path, _ in rows], [label for _, label in rows]), list(videos)


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
