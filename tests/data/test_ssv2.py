import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.tiny import TINY
from vivit_train.config import compose_config, to_plain
from vivit_train.data.ssv2 import SomethingSomethingV2, read_answers, read_classes, read_rows
from vivit_train.errors import UserError
from vivit_train.video.write import write_video

# The official forms: numbers as strings, templates without brackets, commas in them.
LABELS = {
    "Holding something next to something": "2",
    "Pulling something from left to right": "0",
    "Letting something roll up a slanted surface, so it rolls back down": "1",
}
NAMES = sorted(LABELS, key=lambda name: int(LABELS[name]))
TEMPLATES = [
    "Holding [something] next to [something]",
    "Letting [something] roll up a slanted surface, so it rolls back down",
    "Pulling [something] from left to right",
]
TRAIN = [
    {"id": "78687", "label": "holding potato next to vicks", "template": TEMPLATES[0],
     "placeholders": ["potato", "vicks"]},
    {"id": "42326", "label": "letting a can roll", "template": TEMPLATES[1], "placeholders": ["a"]},
    {"id": "100904", "label": "pulling a cup", "template": TEMPLATES[2], "placeholders": ["a cup"]},
]  # fmt: skip
EXPECTED = [2, 1, 0]


def build(root: Path, **kwargs: Any) -> SomethingSomethingV2:
    arguments = {"val_split": "validation", "test_split": "validation", "eval_views": [1, 1]}
    return SomethingSomethingV2(root=root, name="ssv2", **TINY | arguments | kwargs)


def write(root: Path, path: str, content: Any) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (root / path).write_text(text, encoding="utf-8")


def touch(root: Path, folder: str, *ids: str, suffix: str = ".webm") -> None:
    for video in ids:
        write(root, f"{folder}/{video}{suffix}", "")


def rows(root: Path, split: str = "train", **kwargs: Any) -> tuple[list[tuple[str, int]], Any]:
    records, names = build(root, **kwargs).read_split(split)
    return [(records.relative_path(i), int(k)) for i, k in enumerate(records.labels)], names


IDS = [str(row["id"]) for row in TRAIN]


@pytest.mark.parametrize("videos", ["20bn-something-something-v2", "videos", "a/b", "."])
@pytest.mark.parametrize(
    "form", ["something-something-v2-{}.json", "labels/{}.json", "annotations/{}.json"]
)
def test_layouts(tmp_path: Path, videos: str, form: str) -> None:
    write(tmp_path, form.format("labels"), LABELS)
    write(tmp_path, form.format("train"), TRAIN)
    touch(tmp_path, videos, *IDS, "1")
    prefix = "" if videos == "." else f"{videos}/"
    paths = [f"{prefix}{video}.webm" for video in IDS]
    assert rows(tmp_path) == (list(zip(paths, EXPECTED)), NAMES)


def test_classes_have_the_official_order(tmp_path: Path) -> None:
    write(tmp_path, "labels.json", LABELS)
    assert read_classes(tmp_path / "labels.json") == NAMES != sorted(NAMES)
    write(tmp_path, "labels.json", {name: int(index) for name, index in LABELS.items()})
    assert read_classes(tmp_path / "labels.json") == NAMES


def test_transcoded_videos(tmp_path: Path) -> None:
    write(tmp_path, "labels/labels.json", LABELS)
    write(tmp_path, "labels/train.json", TRAIN)
    touch(tmp_path, "mp4", *IDS, suffix=".mp4")
    assert rows(tmp_path)[0][0] == ("mp4/78687.mp4", 2)


def test_missing_training_videos_are_left_out_and_said(tmp_path: Path) -> None:
    write(tmp_path, "labels/labels.json", LABELS)
    write(tmp_path, "labels/train.json", TRAIN)
    touch(tmp_path, "videos", IDS[1])
    with pytest.warns(UserWarning, match="ssv2: 2 of the 3 videos of train .* are left out"):
        assert rows(tmp_path) == ([(f"videos/{IDS[1]}.webm", 1)], NAMES)


def test_missing_validation_videos_stay_and_count_as_wrong(tmp_path: Path) -> None:
    write(tmp_path, "labels/labels.json", LABELS)
    write(tmp_path, "labels/validation.json", TRAIN)
    (tmp_path / "videos").mkdir()
    frames = np.zeros((4, 16, 16, 3), np.uint8)
    write_video(tmp_path / f"videos/{IDS[2]}.webm", frames, codec="libvpx-vp9")
    data = build(tmp_path)
    with pytest.warns(UserWarning, match="2 of the 3 videos of validation .* counted as wrong"):
        data.setup("test")
    assert data.class_names == NAMES
    batches = list(data.test_dataloader())
    assert [bool(x) for batch in batches for x in batch.decoded] == [False, False, True]
    assert [int(x) for batch in batches for x in batch.labels] == EXPECTED


def test_the_test_split_needs_its_answers(tmp_path: Path) -> None:
    write(tmp_path, "labels/labels.json", LABELS)
    write(tmp_path, "labels/test.json", [{"id": "7"}, {"id": "9"}])
    touch(tmp_path, "videos", "7", "9")
    with pytest.raises(UserError, match=r"test\.json, entry 1 \(id 7\) has no template.*test-answ"):
        rows(tmp_path, "test")
    write(tmp_path, "labels/test-answers.csv", f"9;{NAMES[0]}\n7;{NAMES[1]}\n")
    assert rows(tmp_path, "test")[0] == [("videos/7.webm", 1), ("videos/9.webm", 0)]


def test_answers(tmp_path: Path) -> None:
    write(tmp_path, "test-answers.csv", f'\ufeff1;{NAMES[1]}\r\n2;"{NAMES[0]}"\n')
    assert read_answers(tmp_path / "test-answers.csv") == {"1": NAMES[1], "2": NAMES[0]}
    write(tmp_path, "test-answers.csv", "1;a\n2 b\n")
    with pytest.raises(UserError, match=r"answers\.csv, line 2: expected id;label, got '2 b'"):
        read_answers(tmp_path / "test-answers.csv")


def test_no_annotations(tmp_path: Path) -> None:
    touch(tmp_path, "videos", *IDS)
    with pytest.raises(UserError, match=r"holds no labels\.json of ssv2: expected labels/labels"):
        rows(tmp_path)
    write(tmp_path, "labels/labels.json", LABELS)
    with pytest.raises(UserError, match=r"holds no val\.json .*train, validation and test"):
        rows(tmp_path, "val")


def test_no_videos(tmp_path: Path) -> None:
    write(tmp_path, "labels/labels.json", LABELS)
    write(tmp_path, "labels/train.json", TRAIN)
    with pytest.raises(
        UserError, match=r"none of the 3 videos that the split 'train' lists is und"
    ):
        rows(tmp_path)


def test_an_unknown_label(tmp_path: Path) -> None:
    write(tmp_path, "labels/labels.json", LABELS)
    write(tmp_path, "labels/train.json", [*TRAIN, {"id": "5", "template": "Eating [something]"}])
    message = r"train\.json, entry 4 \(id 5\): 'Eating something' is not one of the 3 classes of"
    with pytest.raises(UserError, match=message):
        rows(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"id": "1",', r"train\.json is not JSON \(.*line 1.*download it again"),
        ({"id": "1"}, r"train\.json: expected a list of entries"),
        ([TRAIN[0], {"template": "x"}], r"train\.json, entry 2: expected an object with id"),
        ([TRAIN[0], 7], r"train\.json, entry 2: expected an object .* got 7"),
        ([{"id": "\ud800", "template": "x"}], r"train\.json, entry 1: the id '.ud800' has char"),
        ([{"id": "a\0", "template": "x"}], r"train\.json, entry 1: the id 'a.x00' has char"),
        ("[" * 100_000, r"train\.json is not JSON \(.*recursion.*download it again"),
        (f"[{'9' * 6000}]", r"train\.json is not JSON \(Exceeds the limit.*download it again"),
    ],
)
def test_damaged_lists(tmp_path: Path, content: Any, message: str) -> None:
    write(tmp_path, "train.json", content)
    with pytest.raises(UserError, match=message):
        read_rows(tmp_path / "train.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], r"labels\.json: expected an object like \{\"Closing"),
        ({"a": "x"}, r"expected an object like"),
        ({"a": None}, r"expected an object like"),
        ({"a": "0", "b": "0"}, r"expected each index from 0 on once, got 0, 0"),
        ({"a": "1", "b": "2"}, r"expected each index from 0 on once, got 1, 2"),
    ],
)
def test_damaged_labels(tmp_path: Path, content: Any, message: str) -> None:
    write(tmp_path, "labels.json", content)
    with pytest.raises(UserError, match=message):
        read_classes(tmp_path / "labels.json")


def test_flips_are_off_unless_asked_for() -> None:
    plain = to_plain(compose_config(["data=ssv2"]))
    assert plain["augment"]["horizontal_flip"] == 0
    assert plain["augment"]["random_crop"] is True  # the rest is the usual
    assert to_plain(compose_config(["data=kinetics400"]))["augment"]["horizontal_flip"] == 0.5
    asked = to_plain(compose_config(["data=ssv2", "augment.horizontal_flip=0.5"]))
    assert asked["augment"]["horizontal_flip"] == 0.5
