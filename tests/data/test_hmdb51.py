from pathlib import Path
from typing import Any

import pytest

from tests.data.tiny import TINY
from vivit_train.data.hmdb51 import Hmdb51
from vivit_train.errors import UserError

LISTS = {
    "brush_hair": "a(1)_u_nm.avi 1 \nb.avi 2 \nc.avi 0 \nd.avi 1 \n",
    "cartwheel": "a(1)_u_nm.avi 2 \r\ne.avi 1 \r\n",
}


def build(root: Path, **kwargs: Any) -> Hmdb51:
    return Hmdb51(root=str(root), name="hmdb51", **TINY | kwargs)


def fill(root: Path, lists: str = "testTrainMulti_7030_splits", videos: str = ".") -> None:
    (root / lists).mkdir(parents=True, exist_ok=True)
    for name, text in LISTS.items():
        (root / lists / f"{name}_test_split1.txt").write_bytes(text.encode())
        (root / lists / f"{name}_test_split2.txt").write_text("c.avi 1\na(1)_u_nm.avi 2\n")
        (root / videos / name).mkdir(parents=True, exist_ok=True)
        for row in [*text.split("\n")[:-1], "c.avi 1"]:
            (root / videos / name / row.split()[0]).write_bytes(b"")


def rows(root: Path, split: str = "train1") -> list[tuple[str, int]]:
    records, names = build(root).read_split(split)
    assert names == ["brush_hair", "cartwheel"]
    return [(records.relative_path(i), int(k)) for i, k in enumerate(records.labels)]


@pytest.mark.parametrize("lists", ["testTrainMulti_7030_splits", "splits", "."])
@pytest.mark.parametrize("videos", [".", "hmdb51_org"])
def test_the_official_layout(tmp_path: Path, lists: str, videos: str) -> None:
    fill(tmp_path, lists, videos)
    place = "" if videos == "." else f"{videos}/"
    train = [("brush_hair/a(1)_u_nm.avi", 0), ("brush_hair/d.avi", 0), ("cartwheel/e.avi", 1)]
    test = [("brush_hair/b.avi", 0), ("cartwheel/a(1)_u_nm.avi", 1)]
    assert rows(tmp_path, "train1") == [(place + path, k) for path, k in train]
    assert rows(tmp_path, "test1") == [(place + path, k) for path, k in test]
    assert len(rows(tmp_path, "train2")) == 2


def test_missing_videos(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "brush_hair/d.avi").unlink()
    (tmp_path / "brush_hair/b.avi").unlink()
    with pytest.warns(UserWarning, match="1 of the 3 videos of train1 .* left out"):
        assert len(rows(tmp_path)) == 2
    with pytest.warns(UserWarning, match="1 of the 2 videos of test1 .* counted as wrong"):
        assert len(rows(tmp_path, "test1")) == 2


@pytest.mark.parametrize("row", ["a.avi", "a.avi 3", " 1", "a.avi,1", "a.avi 1 x"])
def test_damaged_lists(tmp_path: Path, row: str) -> None:
    fill(tmp_path)
    path = tmp_path / "testTrainMulti_7030_splits/cartwheel_test_split1.txt"
    path.write_text(f"e.avi 1\n{row}\n")
    with pytest.raises(UserError, match=r"cartwheel_test_split1\.txt, line 2: expected a file and"):
        rows(tmp_path)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no <class>_test_split1\.txt: unpack"):
        rows(tmp_path)
    with pytest.raises(
        UserError, match="hmdb51 has no split 'val': data.train_split, data.val_split"
    ):
        rows(tmp_path, "val")


def test_the_official_counts(tmp_path: Path) -> None:
    """Lists as the official ones are: of each class 70 videos are marked 1 and 30 marked 2."""
    (tmp_path / "splits").mkdir()
    for number in (1, 2, 3):
        marks = [*[1] * 70, *[2] * 30, *[0] * (20 + number)]
        text = "".join(f"v_{number}_{i}.avi {mark} \n" for i, mark in enumerate(marks))
        for k in range(51):
            (tmp_path / "splits" / f"class_{k:02d}_test_split{number}.txt").write_text(text)
        (tmp_path / "class_00").mkdir(exist_ok=True)
        (tmp_path / "class_00" / f"v_{number}_0.avi").touch()
        (tmp_path / "class_00" / f"v_{number}_70.avi").touch()
        data = build(tmp_path, split=number)
        data.keeps_all = True  # whether they are on disk or not
        counts = {role: len(data.read_split(split)[0]) for role, split in data.splits.items()}
        assert counts == {"train": 3570, "val": 1530, "test": 1530}
