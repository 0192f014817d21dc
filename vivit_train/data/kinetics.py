"""Kinetics in the layouts that people have it in."""

from functools import lru_cache
from pathlib import Path
from sys import intern

from vivit_train.data.class_folders import from_class_folders, scan_class_folders
from vivit_train.data.datamodule import VideoDataModule
from vivit_train.data.folder import find_list
from vivit_train.data.list_records import records_from_list
from vivit_train.data.records import Records, list_videos, stem
from vivit_train.data.tables import check_width, cut, read_rows, read_text
from vivit_train.errors import UserError

REPLACEMENTS = ("replacement", "k400/replacement", "replacement/replacement_for_corrupted_k400")
OFFICIAL_COLUMNS = ("label", "youtube_id", "time_start", "time_end")


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
        listing = self._list(split)
        if listing and is_official(listing):
            return self._from_annotations(listing, split)
        if listing:
            lists = list(filter(None, map(self._list, self.splits.values())))
            roots = (self.root, self.root / split, listing.parent)
            return records_from_list(listing, roots, lists, self.tell)
        if (self.root / split).is_dir():
            return from_class_folders(
                self.root, self.root / split, scan_class_folders(self.root / split, self.tell)
            )
        raise UserError(
            f"{self.root} holds no split {split!r} of {self.name}: expected "
            f"annotations/{split}.csv, {split}.csv or {split}/<class name>/<video>; "
            "data/README.md shows the layouts"
        )

    def _list(self, split: str) -> Path | None:
        """The annotations or list file of a split."""
        folders = (self.root / "annotations", self.root)
        return next(filter(None, (find_list(folder, split) for folder in folders)), None)

    def _from_annotations(self, listing: Path, split: str) -> tuple[Records, list[str]]:
        rows = read_annotations(listing)
        names = sorted({label for label, _ in rows})
        index = {name: i for i, name in enumerate(names)}
        files = self._files(split)
        if not rows:
            raise UserError(f"{listing} lists no video")
        on_disk = [name in files for _, name in rows]
        rows = [rows[row] for row in self.rows_to_use(split, on_disk, self.root / split)]
        paths = []
        for _, name in rows:
            folder, suffix = files.get(name, (split, ".mp4"))
            paths.append(f"{folder}/{name}{suffix}")
        return Records(self.root, paths, [index[label] for label, _ in rows]), names

    def _files(self, split: str) -> dict[str, tuple[str, str]]:
        """Stem -> (folder relative to the root, suffix) of every video of a split.

        By listing folders, two levels, flat or per class; never a look at each file. Folders of
        pictures have no suffix. Replacements come last and win.
        """
        files: dict[str, tuple[str, str]] = {}
        # One tuple for the thousands of files that share it, not one each.
        places: dict[tuple[str, str], tuple[str, str]] = {}

        def add(folder: str, video: str) -> None:
            name = stem(video)
            place = (folder, video[len(name) :])
            if place[1] or not files.get(name, place)[1]:  # a file comes before its pictures
                files[name] = places.setdefault(place, place)

        for folder in (self.root / split, *(self.root / r for r in REPLACEMENTS)):
            if not folder.is_dir():
                continue
            relative = folder.relative_to(self.root).as_posix()
            for path in list_videos(folder, 1):
                *parent, video = path.split("/")
                add("/".join((relative, *parent)), video)
        return files


def is_official(listing: Path) -> bool:
    """Whether a csv has the columns of the official annotations.

    Raises:
        UserError: If it has them but for the label, as the official list of the test split.
    """
    _, header = next(read_rows(read_text(listing), str(listing)), (0, []))
    if "youtube_id" in header and "label" not in header:
        raise UserError(
            f"{listing} has no label column ({cut(', '.join(header))}), as Kinetics' own list of "
            "its test split: put one with labels in its place, or choose another split with "
            "data.train_split, data.val_split and data.test_split"
        )
    return set(header) >= set(OFFICIAL_COLUMNS)


def read_annotations(listing: Path) -> list[tuple[str, str]]:
    """(label, stem of the file) of each row of an official csv.

    Raises:
        UserError: If a row has no label, id or times.
    """
    found = []
    rows = read_rows(read_text(listing), str(listing))
    _, header = next(rows)
    label, youtube_id, start, end = (header.index(name) for name in OFFICIAL_COLUMNS)
    for line, row in rows:
        check_width(row, header, f"{listing}, line {line}")
        try:
            stem = clip_stem(row[youtube_id], row[start], row[end])
        except (ValueError, OverflowError):  # times that are no numbers
            stem = ""
        if not stem or not row[label] or not row[youtube_id]:
            raise UserError(
                f"{listing}, line {line}: expected label,youtube_id,time_start,time_end, "
                f"got {cut(','.join(row))}"
            )
        found.append((intern(row[label]), stem))
    return found


def clip_stem(youtube_id: str, time_start: str, time_end: str) -> str:
    """The name of a clip's file without its suffix, as CVDF's download has it."""
    return f"{youtube_id}_{_six_digits(time_start)}_{_six_digits(time_end)}"


@lru_cache(maxsize=100_000)  # of hundreds of thousands of clips few begin at a time of their own
def _six_digits(seconds: str) -> str:
    return f"{int(float(seconds)):06d}"
