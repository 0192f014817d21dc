from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.data.tiny import TINY, touch
from vivit_train.data.kinetics import Kinetics, clip_stem, is_official
from vivit_train.errors import UserError
from vivit_train.metrics import VideoAccuracy
from vivit_train.video.write import write_video

# The official lists' form: is_cc in some of them, quotes where a label has a comma.
OFFICIAL = """\
label,youtube_id,time_start,time_end,split,is_cc
testifying,---QUuC4vJs,84,94,train,0
washing feet,--3ouPhoy2A,20,30,train,0
"passing American football (in game), slow",-0dWlqevI,19,29,train,1
washing feet,_abc-DEF_12,0,10,train,0
"""
STEMS = [
    "---QUuC4vJs_000084_000094",
    "--3ouPhoy2A_000020_000030",
    "-0dWlqevI_000019_000029",
    "_abc-DEF_12_000000_000010",
]
NAMES = ["passing American football (in game), slow", "testifying", "washing feet"]
LABELS = [1, 2, 0, 2]


def build(root: Path, **kwargs: Any) -> Kinetics:
    return Kinetics(root=root, name="kinetics400", **TINY | kwargs)


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text, encoding="utf-8")


def rows(root: Path, split: str = "train", **kwargs: Any) -> tuple[list[tuple[str, int]], Any]:
    records, names = build(root, **kwargs).read_split(split)
    return [(records.relative_path(i), int(k)) for i, k in enumerate(records.labels)], names


@pytest.mark.parametrize("place", ["annotations/train.csv", "train.csv"])
def test_cvdf_flat(tmp_path: Path, place: str) -> None:
    write(tmp_path, place, OFFICIAL)
    paths = [f"train/{stem}.mp4" for stem in STEMS]
    touch(tmp_path, *paths)
    assert rows(tmp_path) == (list(zip(paths, LABELS)), NAMES)


def test_without_is_cc_and_with_a_byte_order_mark(tmp_path: Path) -> None:
    text = (
        "\ufefflabel,youtube_id,time_start,time_end,split\r\ntestifying,---QUuC4vJs,84,94,val\r\n"
    )
    write(tmp_path, "annotations/val.csv", text)
    touch(tmp_path, f"val/{STEMS[0]}.mp4")
    assert rows(tmp_path, "val") == ([(f"val/{STEMS[0]}.mp4", 0)], ["testifying"])


def test_columns_in_another_order_and_spaced(tmp_path: Path) -> None:
    text = "youtube_id, time_start, time_end, label\n---QUuC4vJs, 84, 94, testifying\n"
    write(tmp_path, "annotations/train.csv", text)
    touch(tmp_path, f"train/{STEMS[0]}.mp4")
    assert rows(tmp_path) == ([(f"train/{STEMS[0]}.mp4", 0)], ["testifying"])


def test_quoted_header(tmp_path: Path) -> None:
    lines = OFFICIAL.splitlines()
    header = ",".join(f'"{name}"' for name in lines[0].split(","))
    write(tmp_path, "annotations/train.csv", "\n".join([header, *lines[1:]]))
    touch(tmp_path, *(f"train/{stem}.mp4" for stem in STEMS))
    assert rows(tmp_path)[1] == NAMES


def test_a_csv_with_class_folders_and_other_suffixes(tmp_path: Path) -> None:
    write(tmp_path, "annotations/train.csv", OFFICIAL)
    suffixes = (".mp4", ".mkv", ".webm", ".AVI")
    paths = [f"train/any {k}/{s}{x}" for s, k, x in zip(STEMS, LABELS, suffixes)]
    touch(tmp_path, *paths, f"train/any 1/{STEMS[0]}.txt", "train/any 1/not listed.mp4")
    assert rows(tmp_path) == (list(zip(paths, LABELS)), NAMES)


@pytest.mark.parametrize(
    "folder",
    ["replacement", "k400/replacement", "replacement/replacement_for_corrupted_k400"],
)
def test_replacements_win(tmp_path: Path, folder: str) -> None:
    write(tmp_path, "annotations/train.csv", OFFICIAL)
    paths = [f"train/{stem}.mp4" for stem in STEMS]
    touch(tmp_path, *paths, f"{folder}/{STEMS[1]}.mp4")
    paths[1] = f"{folder}/{STEMS[1]}.mp4"
    assert rows(tmp_path)[0] == list(zip(paths, LABELS))


def test_a_replacement_of_what_is_missing_counts(tmp_path: Path) -> None:
    write(tmp_path, "annotations/train.csv", OFFICIAL)
    touch(tmp_path, f"train/{STEMS[0]}.mp4", f"replacement/{STEMS[2]}.mp4")
    with pytest.warns(UserWarning, match="2 of the 4"):
        assert [path for path, _ in rows(tmp_path)[0]] == [
            f"train/{STEMS[0]}.mp4",
            f"replacement/{STEMS[2]}.mp4",
        ]


def test_missing_training_videos_are_left_out_and_said(tmp_path: Path) -> None:
    write(tmp_path, "annotations/train.csv", OFFICIAL)
    touch(tmp_path, f"train/{STEMS[1]}.mp4")
    with pytest.warns(
        UserWarning, match="kinetics400: 3 of the 4 videos of train are not on disk.*left out"
    ):
        found, names = rows(tmp_path)
    assert found == [(f"train/{STEMS[1]}.mp4", 2)]
    assert names == NAMES  # a class without a video keeps its place


def test_renamed_training_split(tmp_path: Path) -> None:
    write(tmp_path, "annotations/training.csv", OFFICIAL)
    touch(tmp_path, f"training/{STEMS[1]}.mp4")
    with pytest.warns(UserWarning, match="left out"):
        assert len(rows(tmp_path, "training", train_split="training")[0]) == 1


def test_missing_evaluation_videos_stay_and_count_as_wrong(tmp_path: Path) -> None:
    write(tmp_path, "annotations/val.csv", OFFICIAL)
    (tmp_path / "val").mkdir()
    write_video(tmp_path / f"val/{STEMS[1]}.mp4", np.zeros((4, 16, 16, 3), np.uint8))
    data = build(tmp_path, eval_views=[1, 1])
    with pytest.warns(UserWarning, match="3 of the 4 videos of val .* counted as wrong"):
        data.setup("test")
    records = data.records["test"]
    assert len(records) == 4
    assert records.relative_path(0) == f"val/{STEMS[0]}.mp4"
    metric = VideoAccuracy(3, 4)
    for batch in data.test_dataloader():
        logits = torch.nn.functional.one_hot(batch.labels, 3).float()
        metric.update(logits, batch.labels, batch.indices, batch.decoded)
    assert metric.compute()["top1"] == 0.25
    assert metric.undecodable.tolist() == [1, 0, 1, 1]


def test_list_files_by_name_and_by_number(tmp_path: Path) -> None:
    touch(tmp_path, "train/x/1.mp4", "val/2.webm")
    write(tmp_path, "train.txt", "x/1.mp4 washing feet\nx/2.mp4 testifying\n".replace(" f", "_f"))
    write(tmp_path, "val.csv", "val/2.webm,1\nval/3.webm,0\n")
    write(tmp_path, "classes.txt", "washing_feet\ntestifying\n")
    assert rows(tmp_path) == (
        [("x/1.mp4", 1), ("x/2.mp4", 0)], ["testifying", "washing_feet"],
    )  # fmt: skip
    assert rows(tmp_path, "val") == (
        [("val/2.webm", 1), ("val/3.webm", 0)], ["washing_feet", "testifying"],
    )  # fmt: skip
    data = build(tmp_path)
    data.setup()  # by name: the validation list's numbers are turned into training's
    assert data.class_names == ["testifying", "washing_feet"]
    assert data.records["val"].labels.tolist() == [0, 1]
    assert data.records["train"].path(0) == tmp_path / "train/x/1.mp4"


def test_class_folders(tmp_path: Path) -> None:
    touch(tmp_path, "train/b c/2.mp4", "train/a/1.avi", "val/b c/3.mp4")
    assert rows(tmp_path) == ([("train/a/1.avi", 0), ("train/b c/2.mp4", 1)], ["a", "b c"])
    assert rows(tmp_path, "val") == ([("val/b c/3.mp4", 0)], ["b c"])


def test_nothing_there(tmp_path: Path) -> None:
    touch(tmp_path, "videos/1.mp4")
    with pytest.raises(UserError, match=r"holds no split 'train' of kinetics400: expected annot"):
        rows(tmp_path)


def test_a_list_of_which_nothing_is_there(tmp_path: Path) -> None:
    write(tmp_path, "annotations/train.csv", OFFICIAL)
    message = r"none of the 4 videos that the split 'train' lists is under .*/train; data/README"
    with pytest.raises(UserError, match=message):
        rows(tmp_path)
    write(tmp_path, "annotations/train.csv", OFFICIAL.splitlines()[0])
    with pytest.raises(UserError, match="lists no video"):
        rows(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("testifying,---QUuC4vJs,,94,train,0", "line 6: expected label,.*got testifying,---"),
        (",---QUuC4vJs,84,94,train,0", "line 6: expected label,.*got ,---QUuC4vJs"),
        ("testifying,---QUuC4vJs,84,1e999,train,0", "line 6: expected label,"),
        ("testifying,---QUuC4vJs", "line 6: 2 fields, but the header has 6"),
        ("passing (in game), slow,---QUuC4vJs,84,94,train,0", "line 6: 7 fields, but the header"),
    ],
)
def test_a_damaged_row_is_named(tmp_path: Path, row: str, message: str) -> None:
    write(tmp_path, "annotations/train.csv", f"{OFFICIAL}{row}\n")
    touch(tmp_path, f"train/{STEMS[0]}.mp4")
    with pytest.raises(UserError, match=rf"train\.csv, {message}"):
        rows(tmp_path)


def test_is_official(tmp_path: Path) -> None:
    for text, expected in [
        (OFFICIAL, True),
        ("path,label\n", False),
        ("", False),
    ]:
        write(tmp_path, "a.csv", text)
        assert is_official(tmp_path / "a.csv") is expected


def test_the_official_list_of_the_test_split_has_no_labels(tmp_path: Path) -> None:
    write(tmp_path, "annotations/test.csv", "youtube_id,time_start,time_end,split\nA,1,11,test\n")
    message = r"annotations/test\.csv has no label column \(youtube_id, time_start, .*test_split"
    with pytest.raises(UserError, match=message):
        rows(tmp_path, "test")


def test_stem() -> None:
    assert clip_stem("---QUuC4vJs", "84", "94") == "---QUuC4vJs_000084_000094"
    assert clip_stem("a", "0.0", "10.0") == "a_000000_000010"
