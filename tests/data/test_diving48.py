import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.tiny import TINY
from vivit_train.data.diving48 import Diving48
from vivit_train.errors import UserError

VOCABULARY = [["Back", "15som", "05Twis", "FREE"], ["Inward", "Dive", "NoTwis", "PIKE"]]


def build(root: Path, **kwargs: Any) -> Diving48:
    splits = {"val_split": "test", "test_split": "test"}
    return Diving48(root=str(root), name="diving48", **TINY | splits | kwargs)


def entry(name: str, label: int) -> dict[str, Any]:
    return {"vid_name": name, "label": label, "start_frame": 0, "end_frame": 129}


def fill(root: Path, annotations: str = ".", videos: str = "rgb", version: str = "V2_") -> None:
    (root / annotations).mkdir(exist_ok=True)
    (root / videos).mkdir(parents=True, exist_ok=True)
    (root / annotations / "Diving48_vocab.json").write_text(json.dumps(VOCABULARY))
    for split, names in (("train", ["-mFK_00001", "0A0B_00031"]), ("test", ["_x_00000"])):
        entries = [entry(name, 1 - i) for i, name in enumerate(names)]
        path = root / annotations / f"Diving48_{version}{split}.json"
        path.write_text(json.dumps(entries))
        for name in names:
            (root / videos / f"{name}.mp4").touch()


@pytest.mark.parametrize("annotations", [".", "annotations"])
@pytest.mark.parametrize("videos", ["rgb", "videos/all"])
def test_the_official_layout(tmp_path: Path, annotations: str, videos: str) -> None:
    fill(tmp_path, annotations, videos)
    records, names = build(tmp_path).read_split("train")
    assert names == ["Back 15som 05Twis FREE", "Inward Dive NoTwis PIKE"]
    found = [(records.relative_path(i), int(k)) for i, k in enumerate(records.labels)]
    assert found == [(f"{videos}/-mFK_00001.mp4", 1), (f"{videos}/0A0B_00031.mp4", 0)]
    assert len(build(tmp_path).read_split("test")[0]) == 1


def test_the_official_counts(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "Diving48_vocab.json").write_text(json.dumps([[f"dive {k}"] for k in range(48)]))
    for split, number, name in (("train", 15_027, "-mFK_00001"), ("test", 1_970, "_x_00000")):
        entries = [entry(name, 0), *(entry(f"v_{i:05d}", i % 48) for i in range(1, number))]
        (tmp_path / f"Diving48_V2_{split}.json").write_text(json.dumps(entries))
        data = build(tmp_path)
        data.keeps_all = True  # whether they are on disk or not
        records, names = data.read_split(split)
        assert (len(records), len(names)) == (number, 48)


def test_the_first_version_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, version="")
    assert len(build(tmp_path).read_split("train")[0]) == 2
    assert "Diving48_train.json is version 1 of the labels" in capsys.readouterr().err


def test_missing_videos(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "rgb/-mFK_00001.mp4").unlink()
    with pytest.warns(UserWarning, match="1 of the 2 videos of train .* left out"):
        assert len(build(tmp_path).read_split("train")[0]) == 1


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("Diving48_V2_train.json", {}, "expected a list of entries with vid_name and label"),
        ("Diving48_V2_train.json", [entry("a", 0), {"label": 1}], "entry 2: expected an object w"),
        ("Diving48_V2_train.json", [{"vid_name": "a", "label": True}], "entry 1: expected an obj"),
        ("Diving48_V2_train.json", [entry("a", 2)], r"entry 1 \(a\): the label 2 is not one of t"),
        ("Diving48_vocab.json", ["Back"], "expected a list of different dives"),
        ("Diving48_vocab.json", [["Back"], ["Back"]], "expected a list of different dives"),
    ],
)
def test_damaged_annotations(tmp_path: Path, file: str, content: Any, message: str) -> None:
    fill(tmp_path)
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"{file}.*{message}"):
        build(tmp_path).read_split("train")


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no Diving48_vocab.json of diving48: expected it th"):
        build(tmp_path).read_split("train")
    fill(tmp_path)
    with pytest.raises(UserError, match=r"no Diving48_V2_val.json of diving48.*train and test"):
        build(tmp_path).read_split("val")
