"""HMDB51 as it is distributed."""

import re
from pathlib import Path

from vivit_train.data.datamodule import VideoDataModule
from vivit_train.data.records import Records, list_videos
from vivit_train.data.tables import cut, read_text
from vivit_train.errors import UserError

LIST_FOLDERS = ("testTrainMulti_7030_splits", "splits", "")
MARKS = {"train": "1", "test": "2"}  # 0: of neither


class Hmdb51(VideoDataModule):
    """HMDB51: 51 classes, with three ways to split them.

    The root holds the official lists, ``<class>_test_split<1, 2 or 3>.txt`` with rows
    ``<file> <mark>``, in ``testTrainMulti_7030_splits/``, ``splits/`` or beside the videos; and
    the videos as ``<class>/<file>``, at most one folder below the root. Splits are ``train1``,
    ``test1`` and so on to 3: the rows marked 1 and 2; those marked 0 are of neither.

    A listed training video that is not on disk is left out, and the number is said. In
    evaluation it stays in the split and counts as wrong.
    """

    def read_split(self, split: str) -> tuple[Records, list[str]]:
        """See `VideoDataModule.read_split`."""
        name = re.fullmatch("(train|test)([123])", split)
        if not name:
            raise UserError(
                f"{self.name} has no split {split!r}: choose among train1, test1, train2, test2, "
                "train3 and test3 with data.train_split, data.val_split and data.test_split"
            )
        lists = self._lists(name[2])
        paths = [
            (f"{class_name}/{video}", label)
            for label, (class_name, file) in enumerate(lists.items())
            for video in read_marked(file, MARKS[name[1]])
        ]
        files = {"/".join(p.split("/")[-2:]): p for p in list_videos(self.root, 2)}
        kept = self.rows_to_use(split, [path in files for path, _ in paths], self.root)
        rows = [paths[i] for i in kept]
        records = Records(
            self.root, [files.get(path, path) for path, _ in rows], [label for _, label in rows]
        )
        return records, list(lists)

    def _lists(self, number: str) -> dict[str, Path]:
        """The list of each class, by class name, of one of the three ways to split."""
        ending = f"_test_split{number}.txt"
        for folder in LIST_FOLDERS:
            found = sorted((self.root / folder).glob(f"*{ending}"))
            if found:
                return {file.name.removesuffix(ending): file for file in found}
        raise UserError(
            f"{self.root} holds no <class>{ending}: unpack test_train_splits.rar of {self.name} "
            f"into it, as {LIST_FOLDERS[0]}/"
        )


def read_marked(path: Path, mark: str) -> list[str]:
    """The files that a class's list marks.

    Args:
        path: Rows ``<file> <0, 1 or 2>``.
        mark: ``1`` or ``2``.

    Raises:
        UserError: If a row is not of that form.
    """
    videos = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        video, _, its_mark = line.strip().rpartition(" ")
        if not video.strip() or its_mark not in ("0", "1", "2"):
            raise UserError(
                f"{path}, line {number}: expected a file and 0, 1 or 2, got {cut(line)!r}"
            )
        if its_mark == mark:
            videos.append(video.strip())
    return videos
