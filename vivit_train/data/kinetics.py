"""Kinetics in the layouts that people have it in."""

import csv
import os
from pathlib import Path

from vivit_train.data.datamodule import VideoDataModule
from vivit_train.data.folder import find_list, from_class_folders
from vivit_train.data.records import Records, is_video, records_from_list, scan_class_folders
from vivit_train.errors import UserError


class Kinetics(VideoDataModule):
    """Kinetics-400, -600 or -700.

    The first of these that the root holds, for a split ``train``, ``val`` or ``test``:

    - CVDF's download: ``annotations/<split>.csv`` (or ``<split>.csv``) with the official columns
      ``label,youtube_id,time_start,time_end,split``; videos as
      ``<split>/<youtube_id>_<start:06d>_<end:06d>.mp4``, flat or in class folders, and
      ``replacement/`` (or ``k400/replacement/``) with the corrected copies of broken ones;
    - list files ``<split>.csv``, ``.txt`` or ``.list`` with rows ``path label``;
    - ``<split>/<class name>/<video>``.

    A listed training video that is not on disk is left out, and the number is said. In
    evaluation it stays in the split and counts as wrong, like any video that cannot be decoded.
    """

    def read_split(self, split: str) -> tuple[Records, list[str]]:
        """See `VideoDataModule.read_split`."""
        for folder in (self.root / "annotations", self.root):
            listing = find_list(folder, split)
            if listing and is_official(listing):
                return self._from_annotations(listing, split)
            if listing:
                return records_from_list(listing, (self.root, self.root / split, folder))
        if (self.root / split).is_dir():
            return from_class_folders(
                self.root, self.root / split, scan_class_folders(self.root / split)
            )
        raise UserError(
            f"{self.root} holds no split {split!r} of {self.name}: expected "
            f"annotations/{split}.csv, {split}.csv or {split}/<class name>/<video>; "
            "data/README.md shows the layouts"
        )

    def _from_annotations(self, listing: Path, split: str) -> tuple[Records, list[str]]:
        rows = read_annotations(listing)
        names = sorted({label for label, _ in rows})
        index = {name: i for i, name in enumerate(names)}
        files = self._files(split)
        if not rows:
            raise UserError(f"{listing} lists no video")
        on_disk = [stem in files for _, stem in rows]
        rows = [rows[row] for row in self.rows_to_use(split, on_disk, self.root / split)]
        paths = [files.get(stem, f"{split}/{stem}.mp4") for _, stem in rows]
        return Records(self.root, paths, [index[label] for label, _ in rows]), names

    def _files(self, split: str) -> dict[str, str]:
        """Stem -> path relative to the root of every video of a split, by listing folders.

        Two levels, flat or per class; never a look at each file. Replacements come last and win.
        """
        files = {}
        for folder in (self.root / split, *(self.root / r for r in REPLACEMENTS)):
            if not folder.is_dir():
                continue
            relative = folder.relative_to(self.root).as_posix()
            for entry in os.scandir(folder):
                if is_video(entry.name):
                    files[os.path.splitext(entry.name)[0]] = f"{relative}/{entry.name}"
                elif entry.is_dir():
                    for video in filter(is_video, os.listdir(entry.path)):
                        stem = os.path.splitext(video)[0]
                        files[stem] = f"{relative}/{entry.name}/{video}"
        return files


REPLACEMENTS = ("replacement", "k400/replacement", "replacement/replacement_for_corrupted_k400")
OFFICIAL_COLUMNS = {"label", "youtube_id", "time_start", "time_end"}


def is_official(listing: Path) -> bool:
    """Whether a csv has the columns of the official annotations."""
    with listing.open(newline="", encoding="utf-8-sig") as file:
        return set(next(csv.reader(file, skipinitialspace=True), ())) >= OFFICIAL_COLUMNS


def read_annotations(listing: Path) -> list[tuple[str, str]]:
    """(label, stem of the file) of each row of an official csv.

    Raises:
        UserError: If a row has no label, id or times.
    """
    rows = []
    with listing.open(newline="", encoding="utf-8-sig") as file:
        for number, row in enumerate(csv.DictReader(file, skipinitialspace=True), start=1):
            try:
                stem = clip_stem(row["youtube_id"], row["time_start"], row["time_end"])
            except (TypeError, ValueError):  # fewer columns, or times that are no numbers
                raise UserError(
                    f"{listing}, row {number}: expected label,youtube_id,time_start,time_end, "
                    f"got {','.join(map(str, row.values()))}"
                ) from None
            rows.append((row["label"], stem))
    return rows


def clip_stem(youtube_id: str, time_start: str, time_end: str) -> str:
    """The name of a clip's file without its suffix, as CVDF's download has it."""
    return f"{youtube_id}_{int(float(time_start)):06d}_{int(float(time_end)):06d}"
