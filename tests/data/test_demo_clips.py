import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vivit_train.data import demo_clips
from vivit_train.data.demo_clips import CLASS_NAMES, render, write_demo
from vivit_train.errors import UserError
from vivit_train.video.decode import VideoReader

OPPOSITES = [
    ("moving_down", "moving_up"),
    ("moving_left", "moving_right"),
    ("moving_down_left", "moving_up_right"),
    ("moving_down_right", "moving_up_left"),
]


def rng(seed=0):
    return np.random.default_rng(seed)


def tree(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_class_names_are_sorted_pairs():
    assert list(CLASS_NAMES) == sorted(CLASS_NAMES)
    assert sorted(CLASS_NAMES) == sorted(name for pair in OPPOSITES for name in pair)


@pytest.mark.parametrize("size", [{}, {"num_frames": 5, "height": 30, "width": 24}])
def test_shape(size):
    clip = render("moving_left", rng(), **size)
    expected = {"num_frames": 32, "height": 56, "width": 72} | size
    assert clip.shape == (*expected.values(), 3)
    assert clip.dtype == np.uint8


@pytest.mark.parametrize("pair", OPPOSITES)
@pytest.mark.parametrize("num_frames", [16, 17])
def test_opposites_are_reversals(pair, num_frames):
    for seed in range(5):
        one, other = (render(name, rng(seed), num_frames=num_frames) for name in pair)
        np.testing.assert_array_equal(one[::-1], other)
        assert (one != other).any(axis=(1, 2, 3)).sum() >= num_frames - 1


def test_classes_share_the_scene():
    """The middle frame of a generator's clip is the same in all classes, whatever moves."""
    for seed in range(5):
        middle = [render(name, rng(seed), num_frames=17)[8] for name in CLASS_NAMES]
        for frame in middle[1:]:
            np.testing.assert_array_equal(frame, middle[0])


@pytest.mark.parametrize("moment", [0, 11])
def test_one_frame_tells_nothing(moment):
    """Probes of a frame, its pixels and their products, stay at chance on other clips."""
    per_class = 150
    frames = np.stack(
        [
            render(name, rng([k, i]), num_frames=12, height=28, width=36)[moment].mean(-1)
            for i in range(per_class)
            for k, name in enumerate(CLASS_NAMES)
        ]
    ).reshape(-1, 7, 4, 9, 4)
    labels = np.tile(np.arange(8), per_class)
    coarse = frames.mean((2, 4)).reshape(len(frames), -1) / 128 - 1  # [N, 63]
    spread = frames.std((2, 4)).reshape(len(frames), -1) / 128
    features = np.concatenate([coarse, coarse**2, spread, np.ones((len(frames), 1))], axis=1)
    half = len(frames) // 2
    weights = np.linalg.solve(
        features[:half].T @ features[:half] + 3 * np.eye(features.shape[1]),
        features[:half].T @ np.eye(8)[labels[:half]],
    )
    accuracy = ((features[half:] @ weights).argmax(1) == labels[half:]).mean()
    # Chance is 0.125; four standard deviations of 600 guesses are 0.054.
    assert 0.07 < accuracy < 0.18


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_directions_are_what_they_are_called(name):
    """Following the scene the way that the class says fits better than the opposite way."""
    right = ("right" in name) - ("left" in name)
    down = ("down" in name) - ("up" in name)
    fits = 0
    for seed in range(10):
        clip = render(name, rng(seed)).astype(float).mean(-1)
        moving = clip - np.median(clip, axis=0)  # the background stands still
        along, against = (
            np.abs(np.roll(moving[:-1], (sign * down, sign * right), (1, 2)) - moving[1:]).mean()
            for sign in (1, -1)
        )
        fits += along < against / 1.5
    assert fits == 10


def test_unknown_class_is_refused():
    with pytest.raises(UserError, match="'waving' is not one of.*moving_left"):
        render("waving", rng())


def test_written_tree(tmp_path):
    write_demo(tmp_path / "a" / "demo", 2, 1, num_workers=0)
    root = tmp_path / "a" / "demo"
    assert set(tree(root)) == {
        "demo.json",
        *(f"train/{name}/{n:03d}.mp4" for name in CLASS_NAMES for n in range(2)),
        *(f"val/{name}/000.mp4" for name in CLASS_NAMES),
    }
    assert os.listdir(root.parent) == ["demo"]
    with VideoReader(root / "train" / "moving_left" / "001.mp4") as reader:
        assert reader.num_frames == 32
        assert reader.fps in (24, 25, 30)
        assert reader.read(range(32)).shape == (32, 56, 72, 3)


def test_encoding_keeps_the_clip(tmp_path):
    write_demo(tmp_path / "demo", 1, 1, num_workers=0)
    generator = rng((0, 0, CLASS_NAMES.index("moving_left"), 0))
    generator.choice(3)  # the frame rate comes first
    rendered = render("moving_left", generator).astype(int)
    with VideoReader(tmp_path / "demo" / "train" / "moving_left" / "000.mp4") as reader:
        decoded = reader.read(range(32))
    assert np.abs(decoded - rendered).mean() < 6


def test_same_seed_same_clips_whatever_the_workers(tmp_path):
    write_demo(tmp_path / "a", 2, 1, num_workers=0)
    write_demo(tmp_path / "b", 2, 1, num_workers=2)
    write_demo(tmp_path / "more", 3, 1, num_workers=0)
    write_demo(tmp_path / "seed", 2, 1, seed=1, num_workers=0)
    clips = tree(tmp_path / "a")
    assert tree(tmp_path / "b") == clips
    assert len({content for path, content in clips.items() if path.endswith(".mp4")}) == 24
    more, other = tree(tmp_path / "more"), tree(tmp_path / "seed")
    for path, content in clips.items():
        if path.endswith(".mp4"):
            assert more[path] == content
            assert other[path] != content


def test_complete_set_is_left_alone(tmp_path):
    write_demo(tmp_path / "demo", 1, 1, num_workers=0)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("*")}
    write_demo(tmp_path / "demo", 1, 1, num_workers=0)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("*")}


def test_other_arguments_are_refused(tmp_path):
    write_demo(tmp_path / "demo", 1, 1, num_workers=0)
    with pytest.raises(UserError, match="'seed': 1.*delete the folder"):
        write_demo(tmp_path / "demo", 1, 1, seed=1)


def test_foreign_folder_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="something other than demo clips"):
        write_demo(tmp_path, 1, 1)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_empty_folder_is_used(tmp_path):
    (tmp_path / "demo").mkdir()
    write_demo(tmp_path / "demo", 1, 1, num_workers=0)
    assert json.loads((tmp_path / "demo" / "demo.json").read_text())["train_per_class"] == 1


@pytest.mark.parametrize("change", [{"train_per_class": 0}, {"val_per_class": -1}, {"seed": -1}])
def test_bad_counts_are_refused(tmp_path, change):
    arguments = {"train_per_class": 1, "val_per_class": 1} | change
    with pytest.raises(UserError, match=f"{next(iter(change))}=.* must be at least"):
        write_demo(tmp_path / "demo", **arguments)
    assert os.listdir(tmp_path) == []


def test_interrupted_writing_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(path, *_, **__):
        path.touch()
        if path.match("moving_left/*"):
            raise KeyboardInterrupt

    monkeypatch.setattr(demo_clips, "write_video", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_demo(tmp_path / "demo", 1, 1, num_workers=0)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("is_file", [False, True])
def test_a_script_that_its_processes_cannot_read_is_told(tmp_path: Path, is_file: bool) -> None:
    """One from standard input, and one without the usual line that guards what it does."""
    code = (
        "from vivit_train.data.demo_clips import write_demo\n"
        f"write_demo({str(tmp_path / 'demo')!r}, 1, 1, num_workers=2)"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script) if is_file else "-"], input=code, capture_output=True,
        text=True, timeout=120, cwd=Path(__file__).parents[2], check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert 'below `if __name__ == "__main__":`' in done.stderr.splitlines()[-1]
    assert os.listdir(tmp_path) == ["script.py"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_killed_writing_starts_over(tmp_path):
    root = tmp_path / "demo"
    code = (
        "from vivit_train.data.demo_clips import write_demo\n"
        f"write_demo({str(root)!r}, 50, 50, num_workers=0)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("demo.partial-*/train/*/*.mp4")):
            assert writer.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        writer.kill()
        writer.wait()
    assert not root.exists()
    write_demo(root, 1, 1, num_workers=0)
    assert len(list(root.rglob("*.mp4"))) == 16
