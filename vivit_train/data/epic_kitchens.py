"""EPIC-Kitchens-100: segments of long videos, each with a noun and a verb."""

from pathlib import Path
from typing import NamedTuple

from vivit_train.data.datamodule import VideoDataModule
from vivit_train.data.records import Records, by_stem, list_videos
from vivit_train.data.tables import cut, in_order, read_table, seconds
from vivit_train.errors import UserError

ANNOTATION_FOLDERS = (
    "",
    "annotations",
    "epic-kitchens-100-annotations",
    "epic-kitchens-100-annotations-master",
)
HEADS = ("noun", "verb")  # in Scenic's order
# Folders with a file per frame, millions of them. They are listed where there are no videos.
FRAMES = ("rgb_frames", "frames", "rgb")
FLOW = ("flow_frames", "flow")


class EpicKitchens(VideoDataModule):
    """EPIC-Kitchens-100: 300 nouns and 97 verbs, and the actions that they make.

    Annotations are the official ``EPIC_100_<split>.csv`` and ``EPIC_100_{noun,verb}_classes.csv``,
    in the root, ``annotations/`` or a clone of ``epic-kitchens-100-annotations``; the splits are
    ``train`` and ``validation``. Videos are ``<video_id>.MP4`` up to four folders below the root:
    ``P01/videos/P01_01.MP4``, ``EPIC-KITCHENS/P01/videos/...``, ``videos/train/P01/...``. Only
    the frames of a row's segment are read. Where there are none of these videos, but clips that
    were cut out of them, ``<narration_id>.MP4``, each is the segment itself. Class names are
    ``noun: tap``, ``verb: take``, in the official order, nouns first.

    A training segment whose video is not on disk is left out, and the number is said. In
    evaluation it stays in the split and counts as wrong.
    """

    def read_split(self, split: str) -> tuple[Records, list[str]]:
        """See `VideoDataModule.read_split`."""
        per_head = {head: read_classes(self._annotations(f"{head}_classes")) for head in HEADS}
        self.heads = {head: len(names) for head, names in per_head.items()}
        rows = read_segments(self._annotations(split), self.heads)
        files = self._files()
        is_cut = not any(row.video in files for row in rows) and any(
            row.narration in files for row in rows
        )
        if is_cut:
            self.tell(f"{self.name}: the videos of {split} are clips, named by their narration_id")
        names = [row.narration if is_cut else row.video for row in rows]
        kept = self.rows_to_use(split, [name in files for name in names], self.root)
        rows, names = [rows[i] for i in kept], [names[i] for i in kept]
        records = Records(
            self.root,
            [
                files.get(name, f"{row.participant}/videos/{name}.MP4")
                for row, name in zip(rows, names)
            ],
            [(row.noun, self.heads["noun"] + row.verb) for row in rows],
            None if is_cut else [(row.start, row.end) for row in rows],
        )
        return records, [f"{head}: {name}" for head in HEADS for name in per_head[head]]

    def _files(self) -> dict[str, str]:
        """Id -> path of every video or clip, relative to the root."""
        for skip in (FLOW + FRAMES, FLOW):
            files = by_stem(list_videos(self.root, 4, skip))
            if files:
                return files
        return {}

    def _annotations(self, what: str) -> Path:
        for folder in ANNOTATION_FOLDERS:
            path = self.root / folder / f"EPIC_100_{what}.csv"
            if path.is_file():
                return path
        raise UserError(
            f"{self.root} holds no EPIC_100_{what}.csv: clone epic-kitchens-100-annotations into "
            "it. Splits with labels are train and validation (set data.val_split and the like)"
        )


class Segment(NamedTuple):
    """A row of the annotations: times in seconds, classes by the official index."""

    narration: str
    participant: str
    video: str
    start: float
    end: float
    noun: int
    verb: int


def read_classes(path: Path) -> list[str]:
    """Class names in the order of the official index.

    Args:
        path: A csv with the columns ``id`` and ``key``.

    Raises:
        UserError: If it has other columns, or the ids are not 0, 1, 2, ...
    """
    pairs = []
    for line, row in read_table(path):
        try:
            pairs.append((int(row["id"]), row["key"]))
        except (KeyError, ValueError):
            raise UserError(
                f"{path}, line {line}: expected the columns id and key, got "
                f"{cut(','.join(row.values()))}"
            ) from None
    return in_order(pairs, path)


def read_segments(path: Path, heads: dict[str, int]) -> list[Segment]:
    """The rows of a split.

    Args:
        path: ``EPIC_100_<split>.csv``.
        heads: Number of classes of ``noun`` and ``verb``.

    Raises:
        UserError: If a row lacks a column, its times are none, or a class is out of range.
    """
    segments = []
    for line, row in read_table(path):
        place = f"{path}, line {line}"
        try:
            segment = Segment(
                row.get("narration_id", ""),
                row["participant_id"],
                row["video_id"],
                seconds(row["start_timestamp"]),
                seconds(row["stop_timestamp"]),
                int(row["noun_class"]),
                int(row["verb_class"]),
            )
        except (KeyError, ValueError) as error:
            raise UserError(
                f"{place}: expected participant_id, video_id, start_timestamp and "
                "stop_timestamp (hours:minutes:seconds), noun_class and verb_class (numbers); "
                f"{cut(repr(error))} in {cut(','.join(row.values()))}"
            ) from None
        if not segment.video or not 0 <= segment.start < segment.end:
            raise UserError(
                f"{place}: a segment must have a video_id and end after it starts, got "
                f"{cut(segment.video)!r} from {row['start_timestamp']} to {row['stop_timestamp']}"
            )
        for head, label in (("noun", segment.noun), ("verb", segment.verb)):
            if not 0 <= label < heads[head]:
                raise UserError(
                    f"{place}: {head}_class {cut(str(label))} is not one of the {heads[head]} of "
                    f"EPIC_100_{head}_classes.csv; take both files from the same release"
                )
        segments.append(segment)
    return segments
