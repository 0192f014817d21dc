"""Data sets with three official ways to split them, of which a run takes one."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vivit_train.data.datamodule import VideoDataModule
from vivit_train.data.records import Records, by_stem, list_videos, stem
from vivit_train.errors import UserError

NUMBERED = re.compile("(train|test)([123])")


class ThreeSplits(VideoDataModule):
    """The base of `Hmdb51` and `Ucf101`.

    Args:
        split: Which of the three: 1, 2 or 3.
        train_split: ``train`` and ``test`` are those of ``split``; ``train2`` is that of split 2.
        val_split: Likewise. There is no third part: validation is on the test videos.
        test_split: Likewise.
        **kwargs: As for `VideoDataModule`.

    Raises:
        UserError: If there is no such split, or the names are of different ones.
    """

    def __init__(
        self,
        *,
        split: int = 1,
        train_split: str = "train",
        val_split: str = "test",
        test_split: str = "test",
        **kwargs: Any,
    ) -> None:
        if split not in (1, 2, 3):
            raise UserError(f"data.split must be 1, 2 or 3, got {split}")
        given = (train_split, val_split, test_split)
        names = [f"{name}{split}" if name in ("train", "test") else name for name in given]
        super().__init__(train_split=names[0], val_split=names[1], test_split=names[2], **kwargs)
        self.split = split
        numbers = {found[2] for name in names if (found := NUMBERED.fullmatch(name))}
        if len(numbers) > 1:
            raise UserError(
                f"{', '.join(names)} are of different splits of {self.name}, which share videos: "
                "set data.split alone, and leave data.train_split, data.val_split and "
                "data.test_split as they are"
            )

    def part_of(self, name: str) -> tuple[str, str]:
        """``train`` or ``test``, and the number of the split.

        Raises:
            UserError: If a split has another name.
        """
        found = NUMBERED.fullmatch(name)
        if not found:
            raise UserError(
                f"{self.name} has no split {name!r}: data.train_split, data.val_split and "
                "data.test_split are train or test, of the split that data.split=1, 2 or 3 chooses"
            )
        return found[1], found[2]

    def records_of(self, split: str, rows: Sequence[tuple[str, int]]) -> Records:
        """Records of an official list; says what is not on disk.

        Args:
            split: The split's name.
            rows: ``<class>/<file>`` and label of each listed video. On disk it may lie one folder
                deeper, and have another suffix or be a folder of pictures.
        """
        paths = list(list_videos(self.root, 2))
        listed = {"/".join(path.split("/")[-2:]): path for path in paths}
        others = by_stem(paths, 2)
        found = [listed.get(path) or others.get(stem(path)) for path, _ in rows]
        kept = self.rows_to_use(split, [path is not None for path in found], self.root)
        return Records(
            self.root, [found[i] or rows[i][0] for i in kept], [rows[i][1] for i in kept]
        )


def first_folder(root: Path, folders: Sequence[str], pattern: str) -> Path | None:
    """The first of some folders below the root that holds files of a pattern; ``None``: none."""
    return next((root / f for f in folders if any((root / f).glob(pattern))), None)
