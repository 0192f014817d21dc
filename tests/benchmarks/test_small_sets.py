"""The small sets are what their names say; the documented command is run as it is documented."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from vivit_train.video.decode import VideoReader

REPOSITORY = Path(__file__).parents[2]


def test_sets_are_of_many_kinds() -> None:
    from small_clips import KINDS, draw_set

    sets = [draw_set(name) for name in KINDS]
    assert len(sets) >= 12
    assert {len(drawn.classes) for drawn in sets} >= {2, 10}
    assert min(min(drawn.clips) for drawn in sets if not drawn.kind.rarest) == 8
    assert [drawn.clips for drawn in sets if drawn.kind.rarest] == [(100, 22, 5)]
    rates = [drawn.rates for drawn in sets]
    assert (12,) in rates
    assert (60,) in rates
    assert any(len(several) > 1 for several in rates)
    lengths = [drawn.seconds for drawn in sets]
    assert min(lengths) < 1.2
    assert max(lengths) > 19


def test_another_seed_draws_other_sets() -> None:
    from small_clips import KINDS, draw_set

    drawn = [[draw_set(name, seed) for name in KINDS] for seed in (0, 1, 0)]
    assert drawn[0] == drawn[2]
    same = [one.name for one, other in zip(*drawn[:2]) if one[3:] == other[3:]]
    assert same == ["lines"]  # whose classes, clips and length are those of a known folder
    for one in drawn[1]:
        assert len(set(one.classes)) == len(one.classes) in one.kind.num_classes


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import small_clips
    from small_clips import draw_set, write_set

    monkeypatch.setattr(small_clips, "NUM_TEST", 44)
    drawn = draw_set("mirror")._replace(clips=(2, 1, 1, 1), rates=(12,), seconds=0.5)
    write_set(drawn, tmp_path / "set")
    counts = {
        folder.name: len(list(folder.glob("*.mp4")))
        for folder in sorted((tmp_path / "set" / "train").iterdir())
    }
    assert counts == {"kind 1": 2, "kind 2": 1, "kind 3": 1, "kind 4": 1}
    scored = list((tmp_path / "set" / "test").rglob("*.mp4"))
    assert len(scored) == 44
    with VideoReader(scored[0]) as reader:
        assert reader.num_frames in (5, 6, 7)
    write_set(drawn._replace(clips=(9, 9, 9, 9)), tmp_path / "set")  # is there already
    assert len(list((tmp_path / "set" / "train").rglob("*.mp4"))) == 5


def test_a_fifth_of_the_labels_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import small_clips

    monkeypatch.setattr(small_clips, "draw_video", lambda *_: (12, np.zeros((4, 16, 16, 3), "u1")))
    drawn = small_clips.draw_set("wrong_labels")._replace(clips=(10, 10, 10))
    small_clips.write_set(drawn, tmp_path / "set")
    for split, wrong in (("train", 6), ("test", 0)):
        paths = list((tmp_path / "set" / split).rglob("*.mp4"))
        assert sum(drawn.classes[int(p.name[0])] != p.parent.name for p in paths) == wrong


def test_classes_differ_by_their_motion_alone() -> None:
    from small_clips import MOVES, draw_motion

    time = np.arange(12) / 25
    clips = {name: draw_motion(name, time, np.random.default_rng(3)) for name in MOVES}
    assert {clip.shape for clip in clips.values()} == {(12, 56, 72, 3)}
    assert (clips["still"] == clips["still"][0]).all()
    for name, clip in clips.items():
        assert (clip != clip[0]).any() == (name != "still"), name
    # Time backwards turns each into the other, pixel by pixel where nothing is drawn for time.
    growing, shrinking = clips["growing"], clips["shrinking"]
    np.testing.assert_allclose(growing.astype(int), shrinking[::-1].astype(int), atol=1)


def test_the_documented_command_is_the_readme_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import small_sets

    commands = []

    def record(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        results = {"top1": 0.5, "mean_class_accuracy": 0.4, "num_videos": 8}
        (tmp_path / "results.json").write_text(json.dumps(results))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", record)
    result = small_sets.run(tmp_path, tmp_path / "set", Path("best.ckpt"), [])
    assert (result["top1"], result["num_videos"]) == (0.5, 8)
    readme = (REPOSITORY / "README.md").read_text()
    documented = re.search(r"^python (train.py experiment=finetune .*)$", readme, re.M)
    assert documented is not None
    keys = [word.split("=")[0] for word in documented[1].split()]
    assert [word.split("=")[0] for word in commands[0][1:]] == [*keys, "run_dir"]
    assert "experiment=finetune" in commands[0]


def test_goes_on_and_stops_at_a_high_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import small_sets

    scores = iter([0.8, 0.9, 0.96])
    monkeypatch.setattr(small_sets, "write_set", lambda *_: None)
    monkeypatch.setattr(small_sets, "resolve_checkpoint", Path)
    monkeypatch.setattr(small_sets, "run", lambda *_: {"top1": next(scores), "seconds": 90.0})
    words = ["--pretrained", "x", "--root", str(tmp_path), "--output", str(tmp_path / "o.json")]
    words += ["--sets", "imbalanced"]
    small_sets.main([*words, "--settings", "documented"])
    assert "| imbalanced | 3 | 5 to 100 | 25 | 1.6 | 0.80 | - | 1.5 |" in capsys.readouterr().out
    small_sets.main(words)
    assert "| imbalanced | 3 | 5 to 100 | 25 | 1.6 | 0.80 | 0.96 | 1.5 |" in capsys.readouterr().out
    report = small_sets.main(words)  # all is there: nothing is run
    assert [run["settings"] for run in report["runs"]] == ["documented", *list(small_sets.GRID)[:2]]
