"""Moments in Time as it is distributed."""

import re
from pathlib import Path

from vivit_train.data.datamodule import VideoDataModule
from vivit_train.data.records import Records, list_videos, stem
from vivit_train.data.tables import cut, in_order, lines_of, read_rows, read_text
from vivit_train.errors import UserError

CATEGORIES = "moments_categories.txt"


class MomentsInTime(VideoDataModule):
    """Moments in Time, version 1 (339 classes), 2 (305) or the mini set (200).

    The root holds ``moments_categories.txt``, rows ``class,index``; per split a list
    ``<split>Set.csv``, rows ``<class>/<file>,class,...`` without a header; and the videos as
    ``<split>/<class>/<file>``. Splits are ``training`` and ``validation``. Classes have the order
    of the official index.

    A listed training video that is not on disk is left out, and the number is said. In
    evaluation it stays in the split and counts as wrong.
    """

    def read_split(self, split: str) -> tuple[Records, list[str]]:
        """See `VideoDataModule.read_split`."""
        for path in (self.root / CATEGORIES, self.root / f"{split}Set.csv"):
            if not path.is_file():
                raise UserError(
                    f"{path} does not exist: {self.name} has {CATEGORIES}, trainingSet.csv and "
                    "validationSet.csv in data.root (splits: training, validation)"
                )
        names = read_categories(self.root / CATEGORIES)
        index = {name: i for i, name in enumerate(names)}
        paths, labels = read_split_list(self.root / f"{split}Set.csv", index)
        folder = self.root / split
        files = set(list_videos(folder, depth=1)) if folder.is_dir() else set()
        # A folder of pictures has the name of the listed file, without its suffix.
        paths = [path if path in files or stem(path) not in files else stem(path) for path in paths]
        kept = self.rows_to_use(split, [path in files for path in paths], folder)
        return (
            Records(self.root, [f"{split}/{paths[i]}" for i in kept], [labels[i] for i in kept]),
            names,
        )


def read_categories(path: Path) -> list[str]:
    """Class names in the order of the official index.

    Args:
        path: ``moments_categories.txt``, rows ``class,index``.

    Raises:
        UserError: If a row is not of that form, or the indices are not 0, 1, 2, ...
    """
    pairs = []
    for number, line in lines_of(read_text(path)):
        name, _, index = line.rpartition(",")
        if not name or not re.fullmatch("[0-9]{1,6}", index.strip()):
            raise UserError(f"{path}, line {number}: expected class,index, got {cut(line)!r}")
        pairs.append((int(index), name.strip()))
    return in_order(pairs, path)


def read_split_list(path: Path, index: dict[str, int]) -> tuple[list[str], list[int]]:
    """Paths and labels of a split.

    Args:
        path: A csv with rows ``path,class,...`` and no header.
        index: Class name -> label.

    Raises:
        UserError: If a row is not of that form or its class not in the index.
    """
    paths, labels = [], []
    for line, row in read_rows(read_text(path), str(path)):
        if len(row) < 2 or not row[0]:
            raise UserError(
                f"{path}, line {line}: expected path,class,..., got {cut(','.join(row))}"
            )
        if row[1] not in index:
            raise UserError(
                f"{path}, line {line}: the class {cut(row[1])!r} is not one of the {len(index)} of "
                f"{CATEGORIES}; take both files from the same version"
            )
        paths.append(row[0])
        labels.append(index[row[1]])
    return paths, labels
