from pathlib import Path
from typing import Any

import pytest

from tests.data.tiny import TINY, touch
from vivit_train.data.moments_in_time import MomentsInTime, read_categories, read_split_list
from vivit_train.errors import UserError

CATEGORIES = "clapping,0\nadult+female+singing,2\npraying,1\n"
NAMES = ["clapping", "praying", "adult+female+singing"]
# Both versions' rows: path, class, how many annotators agreed and disagreed.
LISTED = """\
adult+female+singing/0-0-1-6_11.mp4,adult+female+singing,3,1
clapping/getty id_6.mp4,clapping,4,0
"""
FILES = ["adult+female+singing/0-0-1-6_11.mp4", "clapping/getty id_6.mp4"]


def build(root: Path, **kwargs: Any) -> MomentsInTime:
    splits = {"train_split": "training", "val_split": "validation", "test_split": "validation"}
    return MomentsInTime(root=root, name="moments_in_time", **TINY | splits | kwargs)


def fill(root: Path, split: str, *files: str) -> None:
    (root / "moments_categories.txt").write_text(CATEGORIES)
    (root / f"{split}Set.csv").write_text(LISTED)
    touch(root / split, *files)


def rows(root: Path, split: str = "training") -> tuple[list[tuple[str, int]], list[str]]:
    records, names = build(root).read_split(split)
    return [(records.relative_path(i), int(k)) for i, k in enumerate(records.labels)], names


@pytest.mark.parametrize("split", ["training", "validation"])
def test_the_official_layout(tmp_path: Path, split: str) -> None:
    fill(tmp_path, split, *FILES, "praying/not listed.mp4")
    expected = [(f"{split}/{FILES[0]}", 2), (f"{split}/{FILES[1]}", 0)]
    assert rows(tmp_path, split) == (expected, NAMES)


def test_setup_with_the_configured_splits(tmp_path: Path) -> None:
    fill(tmp_path, "training", *FILES)
    fill(tmp_path, "validation", *FILES)
    data = build(tmp_path)
    data.setup()
    assert data.class_names == NAMES
    assert {role: len(records) for role, records in data.records.items()} == {
        "train": 2, "val": 2, "test": 2,
    }  # fmt: skip


def test_missing_videos(tmp_path: Path) -> None:
    fill(tmp_path, "training", FILES[1])
    fill(tmp_path, "validation", FILES[1])
    with pytest.warns(UserWarning, match="1 of the 2 videos of training .* left out"):
        assert rows(tmp_path)[0] == [(f"training/{FILES[1]}", 0)]
    with pytest.warns(UserWarning, match="1 of the 2 videos of validation .* counted as wrong"):
        assert len(rows(tmp_path, "validation")[0]) == 2


def test_no_annotations(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    with pytest.raises(UserError, match=r"moments_categories\.txt does not exist: moments_in_time"):
        rows(tmp_path)
    (tmp_path / "moments_categories.txt").write_text(CATEGORIES)
    with pytest.raises(UserError, match=r"/trainSet\.csv does not exist: .*splits: training, val"):
        rows(tmp_path, "train")


def test_no_videos(tmp_path: Path) -> None:
    fill(tmp_path, "training")
    with pytest.raises(UserError, match=r"none of the 2 videos .*'training' .* under .*/training"):
        rows(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clapping,0\npraying\n", r"line 2: expected class,index, got 'praying'"),
        ("clapping,zero\n", r"line 1: .*got 'clapping,zero'"),
        ("clapping,0\npraying,0\n", r"expected each index from 0 on once, got 0, 0"),
        ("clapping,0\npraying,2\n", r"expected each index from 0 on once, got 0, 2"),
        ("", r"got none"),
    ],
)
def test_damaged_categories(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "moments_categories.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        read_categories(tmp_path / "moments_categories.txt")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("clapping/1.mp4", r"Set\.csv, line 3: expected path,class,\.\.\., got clapping/1\.mp4"),
        ("a/1.mp4,a,3,1", r"Set\.csv, line 3: the class 'a' is not one of the 3 of moments_cat"),
    ],
)
def test_damaged_lists(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "trainingSet.csv").write_text(f"{LISTED}{row}\n")
    index = {name: i for i, name in enumerate(NAMES)}
    with pytest.raises(UserError, match=message):
        read_split_list(tmp_path / "trainingSet.csv", index)
