from pathlib import Path
from typing import Any

import pytest

from tests.data.test_hmdb51 import build, fill
from vivit_train.errors import UserError


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ({}, ["train1", "test1", "test1"]),
        ({"split": 3}, ["train3", "test3", "test3"]),
        ({"split": 2, "val_split": "train"}, ["train2", "train2", "test2"]),
        # As configurations had it before data.split was there: these names say it all.
        ({"train_split": "train2", "val_split": "test2", "test_split": "test2"},
         ["train2", "test2", "test2"]),
    ],
)  # fmt: skip
def test_names_of_a_split(tmp_path: Path, words: dict[str, Any], names: list[str]) -> None:
    assert list(build(tmp_path, **words).splits.values()) == names


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"split": 4}, "data.split must be 1, 2 or 3, got 4"),
        ({"split": 2, "train_split": "train1"},
         "train1, test2, test2 are of different splits of hmdb51, which share videos: set"),
    ],
)  # fmt: skip
def test_what_is_no_split(tmp_path: Path, words: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(tmp_path, **words)


def test_videos_of_another_suffix(tmp_path: Path) -> None:
    """A copy that was encoded again is found by the same lists; the listed file comes first."""
    fill(tmp_path)
    (tmp_path / "brush_hair/d.avi").rename(tmp_path / "brush_hair/d.mp4")
    (tmp_path / "cartwheel/e.mp4").touch()
    records, _ = build(tmp_path).read_split("train1")
    found = [records.relative_path(row) for row in range(len(records))]
    assert found == ["brush_hair/a(1)_u_nm.avi", "brush_hair/d.mp4", "cartwheel/e.avi"]
