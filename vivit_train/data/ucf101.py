"""UCF101 as it is distributed."""

import re
from pathlib import Path, PurePath

from vivit_train.data.class_files import Classes, read_classes
from vivit_train.data.records import Records
from vivit_train.data.tables import cut, lines_of, read_text
from vivit_train.data.three_splits import ThreeSplits, first_folder
from vivit_train.errors import UserError

LIST_FOLDERS = ("ucfTrainTestlist", "splits", "annotations", "")
CLASSES = "classInd.txt"


class Ucf101(ThreeSplits):
    """UCF101: 101 classes, with three ways to split them: see `ThreeSplits`.

    The root holds the official lists in ``ucfTrainTestlist/``, ``splits/``, ``annotations/`` or
    itself: ``classInd.txt`` with rows ``<number> <class>``, ``trainlist01.txt`` with rows
    ``<class>/<file> <number>`` and ``testlist01.txt`` with rows ``<class>/<file>``, and so on to
    03; and the videos as ``<class>/<file>``, at most one folder below the root. Classes have the
    official order.

    A listed training video that is not on disk is left out, and the number is said. In
    evaluation it stays in the split and counts as wrong.
    """

    def read_split(self, split: str) -> tuple[Records, list[str]]:
        """See `VideoDataModule.read_split`."""
        part, number = self.part_of(split)
        folder = first_folder(self.root, LIST_FOLDERS, CLASSES)
        listing = f"{part}list0{number}.txt"
        if folder is None or not (folder / listing).is_file():
            missing = CLASSES if folder is None else listing
            raise UserError(
                f"{self.root} holds no {missing}: unpack UCF101TrainTestSplits-RecognitionTask.zip "
                f"of {self.name} into it, as {LIST_FOLDERS[0]}/"
            )
        classes = read_classes(read_text(folder / CLASSES), str(folder / CLASSES))
        return self.records_of(split, read_listed(folder / listing, classes)), classes.names


def read_listed(path: Path, classes: Classes) -> list[tuple[str, int]]:
    """Path and label of each video of a list: its folder is its class.

    Args:
        path: Rows ``<class>/<file>``, in lists for training with the number of the class.
        classes: From ``classInd.txt``.

    Raises:
        UserError: If a row is not of that form, or its folder and number are not one class.
    """
    index = {name: label for label, name in enumerate(classes.names)}
    rows = []
    for number, line in lines_of(read_text(path)):
        found = re.fullmatch(r"(?P<video>[^/]+/\S+)(?:\s+(?P<label>[0-9]{1,6}))?", line)
        if not found:
            raise UserError(
                f"{path}, line {number}: expected <class>/<file>, with or without the number of "
                f"the class, got {cut(line)!r}"
            )
        name = PurePath(found["video"]).parts[0]
        label = index.get(name)
        if label is None:
            raise UserError(
                f"{path}, line {number}: {cut(name)!r} is not one of the {len(index)} classes of "
                f"{classes.file}; take both files from the same download"
            )
        if found["label"] and int(found["label"]) != label + (classes.first or 0):
            raise UserError(
                f"{path}, line {number}: the number {found['label']} is not that of {cut(name)!r} "
                f"in {classes.file}, {label + (classes.first or 0)}; take both files from the "
                "same download"
            )
        rows.append((found["video"], label))
    return rows
