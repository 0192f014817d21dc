"""Diving48 as it is distributed."""

from pathlib import Path

from vivit_train.data.datamodule import VideoDataModule
from vivit_train.data.records import Records, by_stem, list_videos
from vivit_train.data.tables import cut, read_json
from vivit_train.errors import UserError
from vivit_train.io.foreign import is_of

ANNOTATION_FOLDERS = ("", "annotations", "labels")
VOCABULARY = "Diving48_vocab.json"
# The labels of the second version are cleaned; the first one's lists have no V2.
LISTS = ("Diving48_V2_{}.json", "Diving48_{}.json")


class Diving48(VideoDataModule):
    """Diving48: 48 dives, told apart by their four phases, such as "Back 15som 05Twis FREE".

    ``Diving48_vocab.json``, ``Diving48_V2_train.json`` and ``Diving48_V2_test.json`` are in the
    root, ``annotations/`` or ``labels/``. Where there are no lists of version 2, those of version
    1 are read (``Diving48_train.json``), and this is said. Videos are ``<vid_name>.mp4``, at most
    two folders below the root. They are cut already, so the frame numbers of the lists are not
    read. Classes have the order of the vocabulary. Splits are ``train`` and ``test``.

    A listed training video that is not on disk is left out, and the number is said. In
    evaluation it stays in the split and counts as wrong.
    """

    def read_split(self, split: str) -> tuple[Records, list[str]]:
        """See `VideoDataModule.read_split`."""
        names = read_vocabulary(self._annotations(VOCABULARY))
        listing = self._annotations(*(name.format(split) for name in LISTS))
        if "_V2_" not in listing.name:
            self.tell(f"{listing} is version 1 of the labels; today's results are of version 2")
        rows = read_rows(listing, len(names))
        files = by_stem(list_videos(self.root, 2))
        kept = self.rows_to_use(split, [video in files for video, _ in rows], self.root)
        rows = [rows[i] for i in kept]
        paths = [files.get(video, f"rgb/{video}.mp4") for video, _ in rows]
        return Records(self.root, paths, [label for _, label in rows]), names

    def _annotations(self, *names: str) -> Path:
        """The first of some files that is there."""
        for name in names:
            for folder in ANNOTATION_FOLDERS:
                path = self.root / folder / name
                if path.is_file():
                    return path
        raise UserError(
            f"{self.root} holds no {names[0]} of {self.name}: expected it there, in "
            "annotations/ or in labels/. Splits are train and test (set data.train_split, "
            "data.val_split and data.test_split)"
        )


def read_vocabulary(path: Path) -> list[str]:
    """Class names in the order of the labels.

    Args:
        path: A list with the phases of each dive: ``[["Back", "15som", "05Twis", "FREE"], ...]``.

    Raises:
        UserError: If it is not that, or two are the same.
    """
    content = read_json(path)
    names = [" ".join(phases) for phases in content] if is_of(content, list[list[str]]) else []
    if not names or not all(content) or len(set(names)) < len(names):
        raise UserError(
            f'{path}: expected a list of different dives, [["Back", "15som", "05Twis", "FREE"], '
            "...]; take the file from the download"
        )
    return names


def read_rows(path: Path, num_classes: int) -> list[tuple[str, int]]:
    """Name and label of each video of a list.

    Args:
        path: A list of ``{"vid_name": ..., "label": ...}``.
        num_classes: Of the vocabulary.

    Raises:
        UserError: If an entry is not of that form, or its label not in the vocabulary.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise UserError(f"{path}: expected a list of entries with vid_name and label")
    rows = []
    for number, entry in enumerate(content, start=1):
        entry = entry if isinstance(entry, dict) else {}
        video, label = entry.get("vid_name"), entry.get("label")
        if not isinstance(video, str) or not video.isprintable() or type(label) is not int:
            raise UserError(
                f"{path}, entry {number}: expected an object with vid_name and label, a number, "
                f"got {cut(str(content[number - 1]))}"
            )
        if not 0 <= label < num_classes:
            raise UserError(
                f"{path}, entry {number} ({cut(video)}): the label {label} is not one of the "
                f"{num_classes} of {VOCABULARY}, 0 to {num_classes - 1}; take both files from the "
                "same download"
            )
        rows.append((video, label))
    return rows
