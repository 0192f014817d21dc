from pathlib import Path
from typing import Any

import pytest

from tests.data.tiny import TINY
from vivit_train.data.ucf101 import Ucf101
from vivit_train.errors import UserError

LISTS = {
    "classInd.txt": "1 HandstandPushups\r\n2 Archery\r\n",
    "trainlist01.txt": "HandstandPushups/v_HandStandPushups_g08_c01.avi 1\r\n"
    "Archery/v_Archery_g08_c01.avi 2\r\n",
    "testlist01.txt": "HandstandPushups/v_HandStandPushups_g01_c01.avi\r\n"
    "Archery/v_Archery_g01_c01.avi\r\n",
}


def build(root: Path, **kwargs: Any) -> Ucf101:
    return Ucf101(root=str(root), name="ucf101", **TINY | kwargs)


def fill(root: Path, lists: str = "ucfTrainTestlist", videos: str = "UCF-101") -> None:
    (root / lists).mkdir(parents=True, exist_ok=True)
    for name, text in LISTS.items():
        (root / lists / name).write_bytes(text.encode())
    for row in (LISTS["trainlist01.txt"] + LISTS["testlist01.txt"]).splitlines():
        path = root / videos / row.split()[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def rows(root: Path, split: str) -> list[tuple[str, int]]:
    records, names = build(root).read_split(split)
    assert names == ["HandstandPushups", "Archery"]  # the official order
    return [(records.relative_path(i), int(k)) for i, k in enumerate(records.labels)]


@pytest.mark.parametrize("lists", ["ucfTrainTestlist", "splits", "annotations", "."])
@pytest.mark.parametrize("videos", ["UCF-101", "."])
def test_the_official_layout(tmp_path: Path, lists: str, videos: str) -> None:
    fill(tmp_path, lists, videos)
    place = "" if videos == "." else f"{videos}/"
    for split, group in (("train1", "08"), ("test1", "01")):
        assert rows(tmp_path, split) == [
            (f"{place}HandstandPushups/v_HandStandPushups_g{group}_c01.avi", 0),
            (f"{place}Archery/v_Archery_g{group}_c01.avi", 1),
        ]


def test_the_official_counts(tmp_path: Path) -> None:
    """101 classes of 25 groups of 4 to 7 clips. Each split tests seven groups of its own."""
    counts = {1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)}
    names = [f"Class{k:03d}" for k in range(1, 102)]
    clips: dict[int, list[str]] = {}  # of each group
    for first, total in ((1, 3783), (8, 3734), (15, 3696), (22, 2107)):
        groups = [(g, k) for g in range(first, min(first + 7, 26)) for k in names]
        for i, (g, k) in enumerate(groups):
            number = total // len(groups) + (i < total % len(groups))
            clips.setdefault(g, []).extend(
                f"{k}/v_{k}_g{g:02d}_c{c:02d}.avi" for c in range(number)
            )
    folder = tmp_path / "ucfTrainTestlist"
    folder.mkdir()
    text = "".join(f"{i} {name}\r\n" for i, name in enumerate(names, start=1))
    (folder / "classInd.txt").write_text(text)
    for number in counts:
        tested = range(7 * number - 6, 7 * number + 1)
        test = [f"{path}\r\n" for g in tested for path in clips[g]]
        others = [path for g in clips if g not in tested for path in clips[g]]
        train = [f"{path} {int(path[5:8])}\r\n" for path in others]
        (folder / f"testlist0{number}.txt").write_text("".join(test))
        (folder / f"trainlist0{number}.txt").write_text("".join(train))
    for path in (clips[1][0], clips[8][0], clips[15][0]):
        (tmp_path / "UCF-101" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "UCF-101" / path).touch()
    for number, (train_count, test_count) in counts.items():
        data = build(tmp_path, split=number)
        data.keeps_all = True  # whether they are on disk or not
        (train_rows, _), (test_rows, found) = (
            data.read_split(data.splits[role]) for role in ("train", "test")
        )
        assert (len(train_rows), len(test_rows), found) == (train_count, test_count, names)


def test_missing_videos(tmp_path: Path) -> None:
    fill(tmp_path)
    for group in ("01", "08"):
        (tmp_path / f"UCF-101/Archery/v_Archery_g{group}_c01.avi").unlink()
    with pytest.warns(UserWarning, match="1 of the 2 videos of train1 .* left out"):
        assert len(rows(tmp_path, "train1")) == 1
    with pytest.warns(UserWarning, match="1 of the 2 videos of test1 .* counted as wrong"):
        assert len(rows(tmp_path, "test1")) == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("v_Archery_g08_c01.avi 2", "expected <class>/<file>, with or without the number of the c"),
        ("Archery/v.avi two", "expected <class>/<file>"),
        ("Archerie/v.avi 2", "'Archerie' is not one of the 2 classes of .*classInd.txt"),
        ("Archery/v.avi 1", "the number 1 is not that of 'Archery' in .*classInd.txt, 2; take"),
    ],
)
def test_damaged_lists(tmp_path: Path, row: str, message: str) -> None:
    fill(tmp_path)
    (tmp_path / "ucfTrainTestlist/trainlist01.txt").write_text(f"Archery/v.avi 2\n{row}\n")
    with pytest.raises(UserError, match=rf"trainlist01\.txt, line 2: {message}"):
        rows(tmp_path, "train1")


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no classInd.txt: unpack UCF101TrainTestSplits"):
        rows(tmp_path, "train1")
    fill(tmp_path)
    with pytest.raises(UserError, match="holds no trainlist02.txt: unpack"):
        rows(tmp_path, "train2")
    with pytest.raises(
        UserError, match="ucf101 has no split 'val': data.train_split, data.val_spl"
    ):
        rows(tmp_path, "val")
