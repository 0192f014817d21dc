"""Runs that would fail, each for one cause: doctor names it, and nothing else."""

import re
import shutil
from pathlib import Path

import pytest

from tests.preflight.clips import SIDES, draw, write_sides
from vivit_train.config import compose_config, to_plain
from vivit_train.preflight.doctor import examine
from vivit_train.video.write import write_video

HEALTHY = (
    "data.batch_size=16",
    "data.num_workers=0",
    "optim=adamw",
    "optim.lr=3e-3",
    "trainer.max_epochs=200",
    "augment.horizontal_flip=0",
    "processor.crop_size=16",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sides(tmp_path_factory.mktemp("planted") / "sides")


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """The same set, to be spoilt."""
    return shutil.copytree(root, tmp_path / "sides")


@pytest.fixture
def words(small: tuple[str, ...]) -> list[str]:
    """A run on such a set that has no fault."""
    kept = [word for word in small if not word.startswith(("data.train", "data.val", "data.root"))]
    return [*kept, "data=folder", *HEALTHY]


def warnings(*words: str) -> dict[str, str]:
    """What is not in order, by the check that found it, but for what a busy machine decides."""
    found = examine(to_plain(compose_config(list(words))), seconds=4)
    bad = {finding.check: finding.text for finding in found if finding.verdict != "ok"}
    return {check: text for check, text in bad.items() if check not in ("overfitting", "time")}


def test_a_run_without_a_fault(words: list[str], root: Path) -> None:
    assert warnings(*words, f"data.root={root}") == {}


def test_a_flip_that_mirrors(words: list[str], root: Path) -> None:
    found = warnings(*words, f"data.root={root}", "augment.horizontal_flip=0.5")
    assert found.keys() == {"settings", "flip"}  # by the names, and by what is seen
    assert "of 20 clips of 'left' and 'right', flipped, " in found["flip"]
    assert "augment.horizontal_flip=0" in found["flip"]


def test_too_few_steps(words: list[str], root: Path) -> None:
    found = warnings(*words, f"data.root={root}", "trainer.max_epochs=30")
    assert found.keys() == {"steps"}
    assert found["steps"] == (
        "60 in all, 2 per epoch: too few to learn from 40 clips; "
        "trainer.max_epochs=500 trainer.max_steps=-1 gives 1000"
    )


def test_a_rate_for_the_other_optimiser(words: list[str], root: Path) -> None:
    found = warnings(*words, f"data.root={root}", "optim.lr=0.1")
    assert "optim.lr=0.1 is far from rates that train a ViViT with adamw" in found["settings"]


def test_copies_on_both_sides_of_the_split(words: list[str], copy: Path) -> None:
    shutil.copy(copy / "train/left/0.mp4", copy / "val/left/0.mp4")
    for i in (1, 2):  # encoded again, smaller and shorter
        frames = draw("top", i, num_frames=6, edge=48)
        write_video(copy / f"val/top/again {i}.mp4", frames)
    found = warnings(*words, f"data.root={copy}")
    assert found.keys() == {"copies"}
    assert found["copies"].startswith(
        "3 validation videos look like training videos, 1 to the bit "
        "(val/left/0.mp4 like train/left/0.mp4, val/top/again 1.mp4 like train/top/1.mp4, "
    ), found
    assert "data.group" in found["copies"]


def test_a_class_of_one_source(words: list[str], copy: Path) -> None:
    for split in ("train", "val"):
        for path in (copy / split / "top").iterdir():
            write_video(path, draw("top", int(path.stem), num_frames=8, edge=48), fps=36)
    found = warnings(*words, f"data.root={copy}")
    assert found.keys() == {"sources"}
    assert "frame size (48x48 pixels is 'top' alone)" in found["sources"]
    assert "frame rate (36 frames/s is 'top' alone)" in found["sources"]


def test_labels_that_are_mixed_up(words: list[str], copy: Path) -> None:
    names = list(SIDES)
    for i, name in enumerate(names):
        for seed in (0, 1):
            other = copy / "train" / names[(i + 1) % 4] / f"{seed} {name}.mp4"
            (copy / "train" / name / f"{seed}.mp4").rename(other)
    found = warnings(*words, f"data.root={copy}")
    assert found.keys() == {"labels"}
    assert "have another label, as if labels were mixed up" in found["labels"]
    # Which of them it is surest of depends on the order of floating-point sums.
    assert re.search(r"(left|right|top|bottom)\.mp4 \(like '\1'\)", found["labels"])


def test_a_stride_and_a_processor_that_are_not_the_weights(
    words: list[str], root: Path, finished_run: Path
) -> None:
    pretrained = f"model.pretrained={finished_run / 'checkpoints' / 'best.ckpt'}"
    others = ("data.frame_stride=2", "processor.offset=false")
    found = examine(
        to_plain(compose_config([*words, f"data.root={root}", pretrained, *others])), seconds=1
    )
    told = [finding.text for finding in found if finding.verdict == "warn"]
    assert any("As they were trained: data.frame_stride=1" in text for text in told), told
    assert any("were trained with another image processor" in text for text in told), told


def test_clips_that_are_too_short(words: list[str], copy: Path) -> None:
    for path in copy.glob("train/*/*.mp4"):
        write_video(path, draw(path.parent.name, int(path.stem), num_frames=90))
    found = warnings(*words, f"data.root={copy}")
    assert found["length"] == (
        "a clip covers 0.27 s of videos that last about 3 s: too little if a class shows only over "
        "time; data.frame_stride=null data.clip_seconds=3 covers them"
    )


def test_classes_that_are_empty_or_rare(words: list[str], copy: Path) -> None:
    for path in sorted((copy / "train" / "left").iterdir())[1:]:
        path.unlink()
    found = warnings(*words, f"data.root={copy}")
    assert "1 classes have one training video, left: one says nothing" in found["settings"]
