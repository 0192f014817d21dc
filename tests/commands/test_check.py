import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import REPOSITORY, hears_ctrl_c
from tests.data.torture import UNUSABLE, USABLE, evil_decoder, noise, write_torture
from vivit_train.__main__ import main
from vivit_train.commands import check, evaluate
from vivit_train.commands.videos import STOPPED, cut_short
from vivit_train.data.verdicts import FILE_NAME, read_verdicts
from vivit_train.errors import UserError
from vivit_train.video.guard import CAN_GUARD
from vivit_train.video.write import write_video

pytestmark = [
    pytest.mark.skipif(not CAN_GUARD, reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
CLIPS = ("data=folder", "data.clip_frames=8", "data.num_workers=1")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of two training videos and one to validate on."""
    root = tmp_path / "data"
    for i, name in enumerate(["train/a/1", "train/a/2", "train/b/3", "val/a/4", "val/b/5"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(root / f"{name}.mp4", noise(16 + i))
    return root


def run(root: Path, *overrides: str, **options: Any) -> int:
    defaults = {"quick": False, "timeout": 60.0, "workers": 2, "output": None, "json": False}
    overrides = (*CLIPS, f"data.root={root}", *overrides)
    return check.run(argparse.Namespace(overrides=list(overrides), **defaults | options))


def summary(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)


def test_a_good_data_set(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("train: 3 videos, fingerprint ")
    assert out[1] == "  3 ok"
    assert out[4:7] == ["class   train     val", "a           2       1", "b           1       1"]
    assert out[-2:] == ["5 videos, 5 of them checked now", str(root / FILE_NAME)]
    assert len(read_verdicts(root / FILE_NAME)) == 5


def test_recordings_on_both_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = (f"{k}/v_{k}_g{g}_c0{i}" for k in "ab" for g in range(3) for i in range(3))
    for i, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(tmp_path / f"{name}.mp4", noise(16 + i))
    assert run(tmp_path, quick=True) == 0
    (told,) = (line for line in capsys.readouterr().out.splitlines() if line[:7] == "advice:")
    start, _, group = told.rpartition(" by data.group=")
    assert start.startswith("advice: 4 of the 4 recordings that are evaluated on are also trained")
    assert run(tmp_path, f"data.group={group}", quick=True) == 0
    out = capsys.readouterr().out
    assert "advice" not in out
    assert "a           6       3" in out


def test_a_summary_as_json(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "val" / "b" / "5.mp4").write_bytes(b"x")
    shutil.copy(root / "train" / "a" / "1.mp4", root / "train" / "a" / "short.mp4")
    assert run(root, "data.clip_frames=9", json=True) == 1
    found = summary(capsys)
    assert found["counts"] == {"ok": 2, "short": 3, "unreadable": 1}
    assert found["unusable"] == 1
    assert found["splits"]["val"]["classes"] == {"a": {"ok": 1}, "b": {"unreadable": 1}}
    assert len(found["splits"]["train"]["fingerprint"]) == 16
    (bad,) = found["bad"]
    assert (bad["video"], bad["verdict"], bad["usable"]) == ("val/b/5.mp4", "unreadable", False)
    assert (found["wrong_class"], found["in_training_and_evaluation"]) == ([], [])


def test_lengths_and_rates(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(root / "val" / "b" / "fast.mp4", noise(30), fps=90)
    assert run(root) == 0
    out = capsys.readouterr().out.splitlines()
    start = out.index("lengths of 6 videos:")
    assert out[start : start + 6] == [
        "lengths of 6 videos:",
        f"  0.25 to 0.5 s  {'#' * 7} 1",
        f"     0.5 to 1 s  {'#' * 32} 5",
        "rates of 6 videos:",
        f"  30 frames/s  {'#' * 32} 5",
        f"  90 frames/s  {'#' * 7} 1",
    ]
    assert out[start + 6].startswith(
        "val: 1 of 3 videos have another frame rate than the training videos, 90 for 30 frames/s: "
        "val/b/fast.mp4. With data.frame_stride=2"
    )
    assert run(root, json=True) == 0
    found = summary(capsys)
    assert found["rates"] == {"30 frames/s": 5, "90 frames/s": 1}
    assert list(found["other_rates"]) == ["val"]


def test_rates_that_an_earlier_version_did_not_keep(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root) == 0
    lines = [json.loads(line) for line in (root / FILE_NAME).read_text().splitlines()]
    for line in lines:
        del line["fps"]
    (root / FILE_NAME).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    capsys.readouterr()
    assert run(root, json=True) == 0
    found = summary(capsys)
    assert (found["checked_now"], found["rates"], found["other_rates"]) == (0, {}, {})


def test_a_second_call_checks_what_changed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, json=True, quick=True) == 0
    assert summary(capsys)["checked_now"] == 5
    assert run(root, json=True) == 0
    assert summary(capsys)["checked_now"] == 5
    (root / "train" / "b" / "3.mp4").write_bytes(b"")
    write_video(root / "train" / "b" / "6.mp4", noise(20))
    assert run(root, json=True) == 1
    found = summary(capsys)
    assert (found["checked_now"], found["videos"]) == (2, 6)
    assert run(root, json=True) == 1
    assert summary(capsys)["checked_now"] == 0


def test_the_torture_folder(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_torture(root / "train" / "a")
    evil_decoder(monkeypatch)
    assert run(root, timeout=2.0, json=True) == 1
    found = summary(capsys)
    wanted = {f"train/a/{k}": v for k, v in (USABLE | UNUSABLE).items() if v not in ("ok", "short")}
    assert {row["video"]: row["verdict"] for row in found["bad"]} == wanted
    assert found["unusable"] == len(UNUSABLE)
    assert run(root, timeout=2.0) == 1
    lines = capsys.readouterr().out.splitlines()
    for name, verdict in UNUSABLE.items():
        assert any(line.startswith(f"{verdict:<10}  train/a/{name}: ") for line in lines), name


def test_classes_and_splits_in_doubt(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["a/1.mp4,a", "a/2.mp4,b", "b/3.mp4,b"]
    (root / "train.csv").write_text("\n".join(rows))
    (root / "val.csv").write_text("a/4.mp4,a\nb/5.mp4,b\n")
    assert run(root, json=True) == 0
    found = summary(capsys)
    assert found["wrong_class"] == [{"video": "train/a/2.mp4", "classes": ["a", "b"]}]
    assert run(root) == 0
    assert "wrong class?  train/a/2.mp4: a or b" in capsys.readouterr().out
    (root / "val.csv").write_text("train/a/1.mp4,a\ntrain/b/3.mp4,b\n")
    assert run(root) == 0
    out = capsys.readouterr().out
    assert "2 videos are both trained and evaluated on, e.g. train/a/1.mp4" in out


def test_another_file(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "elsewhere.jsonl"
    assert run(root, output=output) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(output)
    assert len(read_verdicts(output)) == 5
    assert not (root / FILE_NAME).exists()


def test_an_output_that_cannot_be_written(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written to .* name another file with --output"):
        run(root, output=tmp_path / "no folder" / "verdicts.jsonl")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 0}, "--timeout must be above 0 seconds, got 0"),
        ({"workers": 0}, "--workers must be 1 or more, got 0"),
    ],
)
def test_options_out_of_range(root: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(root, **options)


def test_a_typo(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="there is no key 'data.rot'"):
        main(["check", "data=folder", "data.rot=x"])


def test_names_that_are_no_text(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "train" / "a" / os.fsdecode(b"\xff.mp4")).write_bytes(b"")
    assert run(root) == 1
    assert "train/a/\\udcff.mp4" in capsys.readouterr().out
    assert run(root, json=True) == 1
    assert summary(capsys)["bad"][0]["video"] == "train/a/\udcff.mp4"


def test_very_many_lines_are_cut_short() -> None:
    lines = list(cut_short(str(i) for i in range(250)))
    assert (len(lines), lines[-1]) == (101, "... and 150 more: see --json")


def test_the_counts_stand_beside_the_score(
    finished_run: Path, demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The broken video counts as wrong; `null` where nothing was checked."""
    root = tmp_path / "demo"
    shutil.copytree(demo_root, root)
    videos = sorted((root / "val").rglob("*.mp4"))
    videos[0].write_bytes(b"x")
    data = ["data=folder", f"data.root={root}", "data.num_workers=0", "data.clip_frames=4"]

    def score(name: str) -> dict[str, Any]:
        arguments = argparse.Namespace(
            checkpoint=str(finished_run), overrides=data, output=tmp_path / name
        )
        assert evaluate.run(arguments) == 0
        return json.loads((tmp_path / name / "results.json").read_text())

    assert score("before")["checked"] is None
    assert run(root, *data) == 1
    results = score("after")
    assert results["checked"] == {"ok": 15, "unreadable": 1}
    assert "vivit check found of these videos: 15 ok, 1 unreadable\n" in capsys.readouterr().out
    assert results["num_videos_scored"] == 16
    assert results["undecodable"] == [videos[0].relative_to(root).as_posix()]
    os.utime(videos[1], ns=(0, 0))
    assert score("later")["checked"] == {"ok": 14, "unreadable": 1, "unchecked": 1}


def test_ctrl_c_keeps_the_verdicts(tmp_path: Path) -> None:
    root = tmp_path / "data"
    (root / "train" / "a").mkdir(parents=True)
    (root / "val" / "a").mkdir(parents=True)
    frames = np.zeros((30, 720, 1280, 3), np.uint8)
    write_video(root / "val" / "a" / "x.mp4", frames, options={"preset": "ultrafast"})
    for i in range(400):
        shutil.copy(root / "val" / "a" / "x.mp4", root / "train" / "a" / f"{i}.mp4")
    words = [sys.executable, "-m", "vivit_train", "check", *CLIPS, f"data.root={root}"]
    process = subprocess.Popen(
        words, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, preexec_fn=hears_ctrl_c
    )
    file = root / FILE_NAME
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (file.exists() and file.stat().st_size > 500):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == STOPPED, err
    done = len(read_verdicts(file))
    assert 0 < done < 401
    assert err.splitlines()[-1].startswith(f"stopped: {done} of 401 videos have been checked, see ")
