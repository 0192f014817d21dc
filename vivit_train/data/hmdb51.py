"""HMDB51 as it is distributed."""

from pathlib import Path

from vivit_train.data.records import Records
from vivit_train.data.tables import cut, lines_of, read_text
from vivit_train.data.three_splits import ThreeSplits, first_folder
from vivit_train.errors import UserError

LIST_FOLDERS = ("testTrainMulti_7030_splits", "splits", "")
MARKS = {"train": "1", "test": "2"}  # 0: of neither


class Hmdb51(ThreeSplits):
    """HMDB51: 51 classes, with three ways to split them: see `ThreeSplits`.

    The root holds the official lists, ``<class>_test_split<1, 2 or 3>.txt`` with rows
    ``<file> <mark>``, in ``testTrainMulti_7030_splits/``, ``splits/`` or beside the videos; and
    the videos as ``<class>/<file>``, at most one folder below the root. Rows marked 1 are for
    training and those marked 2 for the test; those marked 0 are of neither.

    A listed training video that is not on disk is left out, and the number is said. In
    evaluation it stays in the split and counts as wrong.
    """

    def read_split(self, split: str) -> tuple[Records, list[str]]:
        """See `VideoDataModule.read_split`."""
        part, number = self.part_of(split)
        lists = self._lists(number)
        rows = [
            (f"{class_name}/{video}", label)
            for label, (class_name, file) in enumerate(lists.items())
            for video in read_marked(file, MARKS[part])
        ]
        return self.records_of(split, rows), list(lists)

    def _lists(self, number: str) -> dict[str, Path]:
        """The list of each class, by class name, of one of the three ways to split."""
        ending = f"_test_split{number}.txt"
        folder = first_folder(self.root, LIST_FOLDERS, f"*{ending}")
        if folder is None:
            raise UserError(
                f"{self.root} holds no <class>{ending}: unpack test_train_splits.rar of "
                f"{self.name} into it, as {LIST_FOLDERS[0]}/"
            )
        return {file.name.removesuffix(ending): file for file in sorted(folder.glob(f"*{ending}"))}


def read_marked(path: Path, mark: str) -> list[str]:
    """The files that a class's list marks.

    Args:
        path: Rows ``<file> <0, 1 or 2>``.
        mark: ``1`` or ``2``.

    Raises:
        UserError: If a row is not of that form.
    """
    videos = []
    for number, line in lines_of(read_text(path)):
        video, _, its_mark = line.rpartition(" ")
        if not video.strip() or its_mark not in ("0", "1", "2"):
            raise UserError(
                f"{path}, line {number}: expected a file and 0, 1 or 2, got {cut(line)!r}"
            )
        if its_mark == mark:
            videos.append(video.strip())
    return videos
