from pathlib import Path
from typing import Any

import pytest

from vivit_train.data.records import Records
from vivit_train.data.splits import VideoSplits
from vivit_train.errors import UserError

ROWS = [(f"{i}.mp4", i % 2) for i in range(4)]


class Listed(VideoSplits):
    """Splits as given: name -> rows (path, label) and class names. No video is opened."""

    def __init__(self, given: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.given = given
        self.asked: list[str] = []

    def read_split(self, split: str) -> tuple[Records, list[str]]:
        self.asked.append(split)
        rows, names = self.given[split]
        return Records(self.root, [row[0] for row in rows], [row[1] for row in rows]), names


def build(root: Path, given: Any = None, **kwargs: Any) -> Listed:
    arguments = {
        "root": str(root), "name": "listed", "verdicts": None, "decoder": "auto",
        "picture_rate": None, "splits": {"train": "train", "val": "val", "test": "val"},
        "class_names": None,
    }  # fmt: skip
    given = given or {"train": (ROWS, ["a", "b"]), "val": (ROWS[:3], ["a", "b"])}
    return Listed(given, **arguments | kwargs)


def test_a_root_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.root=.*nowhere is not a folder.*of listed with"):
        build(tmp_path / "nowhere").setup()


def test_an_empty_split(tmp_path: Path) -> None:
    splits = {"train": ([("0.mp4", 0)], ["a"]), "val": ([], ["a"])}
    with pytest.raises(UserError, match=r"listed: the split 'val' under .* lists no video"):
        build(tmp_path, splits).setup()


def test_labels_are_those_of_the_model_by_name(tmp_path: Path) -> None:
    data = build(tmp_path, class_names=["b", "c", "a"])
    data.setup()
    assert data.class_names == ["b", "c", "a"]
    assert data.records["train"].labels.tolist() == [2, 0, 2, 0]
    assert data.records["val"].labels.tolist() == [2, 0, 2]


def test_splits_of_one_data_set_agree_by_name(tmp_path: Path) -> None:
    data = build(tmp_path, {"train": (ROWS, ["a", "b"]), "val": (ROWS, ["B_", "a"])})
    data.setup()
    assert data.class_names == ["a", "b"]
    assert data.records["train"].labels.tolist() == [0, 1, 0, 1]
    assert data.records["val"].labels.tolist() == [1, 0, 1, 0]


def test_a_class_that_the_model_does_not_know(tmp_path: Path) -> None:
    data = build(tmp_path, class_names=["a", "x"])
    with pytest.raises(UserError, match=r"among the 2 of the model: b\. Unmatched there: x\."):
        data.setup()


def test_each_split_is_read_once(tmp_path: Path) -> None:
    data = build(tmp_path)
    data.setup()
    data.setup("fit")
    data.setup("test")
    assert data.asked == ["train", "val"]
    assert data.records["test"] is data.records["val"]
    only = build(tmp_path)
    only.setup("test")
    assert only.asked == ["val"]
    assert list(only.records) == ["test"]


def test_other_split_names(tmp_path: Path) -> None:
    rows = [("0.mp4", 0)]
    given = {name: (rows * n, ["a"]) for n, name in enumerate(("t", "v", "s"), start=1)}
    data = build(tmp_path, given, splits={"train": "t", "val": "v", "test": "s"})
    data.setup()
    assert {role: len(records) for role, records in data.records.items()} == {
        "train": 1, "val": 2, "test": 3,
    }  # fmt: skip


def test_a_data_set_that_cannot_be_multi_label(tmp_path: Path) -> None:
    message = r"data\.multi_label=true: Listed \(listed\) has no place for several labels"
    with pytest.raises(UserError, match=message):
        build(tmp_path, multi_label=True)


class ManyLabels(Listed):
    can_multi_label = True

    def read_split(self, split: str) -> tuple[Records, list[str]]:
        table, names = self.given[split]
        paths = [f"{i}.mp4" for i in range(len(table))]
        return Records(self.root, paths, table, multi_label=True), names


def test_any_number_of_classes_by_name(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The validation split has a class less, in another order."""
    train, val = [[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 1, 0]], [[1, 0], [1, 1]]
    given = {"train": (train, ["a", "b", "c"]), "val": (val, ["c", "a"])}
    arguments = {
        "root": str(tmp_path), "name": "many", "verdicts": None, "decoder": "auto",
        "picture_rate": None, "splits": {"train": "train", "val": "val", "test": "val"},
        "class_names": None, "multi_label": True,
    }  # fmt: skip
    data = ManyLabels(given, **arguments)
    data.setup()
    assert data.records["train"].labels.tolist() == train
    assert data.records["val"].labels.tolist() == [[0, 0, 1], [1, 0, 1]]
    assert "3 classes, 1.2 a video on average: a, b, c" in capsys.readouterr().err
    message = r"data\.class_sampling=1 needs one class per video, and with data\.multi_label=true"
    with pytest.raises(UserError, match=message):
        data.class_counts("data.class_sampling=1")
