"""Planted courses of a training, each with the cause that is named for it."""

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vivit_train.runs.diagnosis import Case, Course, case_of, likely_causes, say_last
from vivit_train.runs.metrics_csv import read_metrics
from vivit_train.video.sampling import Sampling

CLASSES = 4
GUESS = math.log(CLASSES)


def course(*loss: float, steps: int = 1000, top1: float = 0.25, noise: float = 0.02) -> Course:
    """A loss that goes through these values, with the noise of batches, and a constant top-1."""
    points = np.interp(np.linspace(0, 1, 100), np.linspace(0, 1, len(loss)), loss)
    points = points + np.random.default_rng(0).normal(0, noise, 100)
    return Course(steps, points, np.full(100, top1))


def config(**values: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "optim.name": "adamw", "optim.lr": 5e-4, "optim.freeze": None,
        "trainer.max_epochs": 100, "augment.horizontal_flip": 0.0,
    }  # fmt: skip
    plain: dict[str, Any] = {"model": {"pretrained": None}, "data": {}}
    for key, value in (settings | values).items():
        group, name = key.split(".")
        plain.setdefault(group, {})[name] = value
    return plain


def case(course: Course, clips: int = 400, settings: dict | None = None, **facts: Any) -> Case:
    return Case(config(**settings or {}), course, [CLASSES], clips, **facts)


LEARNED = course(GUESS, 0.6, 0.1, 0.05, top1=0.95)
FLAT = course(GUESS, GUESS)
NAN = course(GUESS, 1.0)
NAN.loss[60:] = np.nan


@pytest.mark.parametrize(
    ("planted", "words"),
    [
        (case(NAN), r"rate is too high, .* became NaN: lower it, optim\.lr=5e-05$"),
        (case(course(GUESS, 3.0, 3.0)), r"rate is too high, .* ended at 3\.0\d\d, above 1\.386"),
        (
            case(course(GUESS, GUESS, noise=0.6)),
            r"rate is too high, the training loss jumps between [\d.]+ and [\d.]+: lower it",
        ),
        (
            case(FLAT, settings={"optim.lr": 2e-6}),
            r"rate is too low, .* stays at 1\.386, .* raise it, optim\.lr=0\.0002$",
        ),
        (
            case(course(GUESS, 1.2, 1.0, 0.9)),
            r"too few steps, 1000: .* still falling, 1\.\d+ -> 0\.\d+; .*max_epochs=300, 3000",
        ),
        (case(Course(8, np.array([]), np.array([]))), r"too few steps, 8: even a .* some 1000;"),
        (
            case(course(GUESS, 1.3, steps=8), settings={"trainer.max_epochs": -1}),
            r"too few steps, 8: .*; train longer, trainer\.max_steps=1000$",
        ),
        (
            case(LEARNED, clips=40),
            r"^overfitting: the 40 training clips were .* 10 clips per class may be too few",
        ),
        (case(LEARNED), "labels of the validation split may mean something else than those"),
        (
            case(FLAT, differences=["data.frame_stride=2, theirs was data.frame_stride=1"]),
            r"^the clips are not those that the pretrained .*: data\.frame_stride=2, theirs was",
        ),
        (
            case(FLAT, settings={"optim.freeze": "all_but_head"}),
            r"optim\.freeze=all_but_head: the features of the frozen parts .* optim\.freeze=null$",
        ),
        (
            case(FLAT, settings={"augment.horizontal_flip": 0.5}, mirrored=("left", "right")),
            r"horizontal_flip=0\.5 turns 'left' into 'right' .*: augment\.horizontal_flip=0$",
        ),
        (case(FLAT, clip_share=0.1), r"^a clip covers 10% of a video .*: data\.sampling=whole, or"),
        (case(FLAT), r"^the labels may be mixed up: 1000 steps did not learn even the training"),
    ],
)  # fmt: skip
def test_the_planted_cause_is_the_first(planted: Case, words: str) -> None:
    first, *others = likely_causes(planted)
    assert re.search(words, first), first
    assert len(others) < 2


def test_smoothed_and_mixed_labels_have_no_low_loss() -> None:
    """Then the top-1 tells that the training clips were learned."""
    mixed = course(GUESS, 1.0, 1.0, 1.0, top1=0.8)
    assert case(mixed).learned
    assert not case(course(GUESS, 1.0, 1.0, 1.0, top1=0.4)).learned


def test_what_is_fine_is_no_cause() -> None:
    """A flip without mirrored names, a clip that covers most of a video."""
    facts = {"clip_share": 0.9, "mirrored": None}
    told = likely_causes(case(FLAT, settings={"augment.horizontal_flip": 0.5}, **facts))
    assert [line.split(":")[0] for line in told] == ["the labels may be mixed up"]
    unflipped = likely_causes(case(FLAT, mirrored=("left", "right")))
    assert not any("flip" in line for line in unflipped)


def test_several_heads_guess_each() -> None:
    both = Case(config(), course(1.5, 1.5), [4, 6], 100)
    assert both.guess == pytest.approx((math.log(4) + math.log(6)) / 2)


def test_guessing_of_videos_with_any_number_of_classes() -> None:
    """What is known is how many videos show each class."""
    shares = [0.5, 0.25, 0.0, 1.0]
    guess = (math.log(2) + 0.25 * math.log(4) + 0.75 * math.log(4 / 3)) / 4
    many = Case(config(), course(guess, guess, top1=0.6), [4], 32, prevalence=shares)
    assert many.guess == pytest.approx(guess)
    assert many.clips_per_class == 32 * 1.75 / 4
    assert many.chance == pytest.approx(2 * 0.4375 / 1.4375)  # the F1 of naming each class
    assert not many.learned
    learned = Case(config(), course(guess, guess, top1=0.9), [4], 32, prevalence=shares)
    assert learned.learned
    (first, *_) = likely_causes(learned)
    assert re.match(r"overfitting: the 32 training clips .* 14 clips per class", first)


def test_where_the_loss_of_several_labels_begins_is_not_too_high() -> None:
    """Logits of 0 have a loss of ln 2, which is above that of guessing where classes are rare."""
    shares = [0.1, 0.2]
    begun, risen = (
        likely_causes(Case(config(), course(0.693, last), [2], 32, prevalence=shares))
        for last in (0.692, 0.9)
    )
    assert not any("rate is too high" in line for line in begun)
    assert "rate is too high, the training loss ended at 0." in risen[0]


def test_a_course_is_read_from_metrics(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(
        "epoch,step,train/loss,train/top1,val/loss,test/loss\n"
        "0,9,1.4,0.25,,\n0,15,,,1.3,\n1,19,1.2,0.5,,\n1,31,,,1.1,\n2,32,,,,1.1\n"
    )
    read = Course.of(read_metrics(tmp_path / "metrics.csv"))
    assert read.steps == 32
    assert (read.loss.tolist(), read.score.tolist()) == ([1.4, 1.2], [0.25, 0.5])
    assert read.quarters().tolist() == [1.4, 1.2]
    (tmp_path / "metrics.csv").write_text("epoch,step,train/loss,train/micro_f1\n0,9,0.6,0.25\n")
    assert Course.of(read_metrics(tmp_path / "metrics.csv")).score.tolist() == [0.25]


def test_the_last_lines(
    finished_run: Path, small: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    from vivit_train import build
    from vivit_train.config import compose_config, to_plain

    plain = to_plain(compose_config([*small, f"model.pretrained={finished_run}"]))
    plain["data"]["frame_stride"] = 2
    _, data = build.open_data(plain)
    found = case_of(finished_run, plain, data)
    assert (found.head_sizes, found.clips, found.course.steps) == ([8], 32, 16)
    assert len(found.course.loss) == 16
    assert found.clip_share == 4 * 2 / 32
    assert found.differences == ["data.frame_stride=2, theirs was data.frame_stride=1"]
    assert found.mirrored is not None
    theirs = "theirs was data.frame_stride=1"
    for sampling, share, differences in (
        (Sampling(4, frame_rate=25), 4 / 32, []),  # as theirs: the videos have 25 frames a second
        (Sampling(4, frame_rate=12.5), 4 * 2 / 32, [f"data.frame_rate=12.5, {theirs}"]),
        (Sampling(4, clip_seconds=0.64), 0.5, [f"data.clip_seconds=0.64, {theirs}"]),
        (Sampling(4, sampling="whole"), None, [f"data.sampling=whole, {theirs}"]),
    ):
        data.sampling = sampling
        found = case_of(finished_run, plain, data)
        assert (found.clip_share, found.differences) == (share, differences)
    data.sampling_reason = "measured"
    assert case_of(finished_run, plain, data).differences == []
    capsys.readouterr()
    say_last(finished_run, "no better than guessing", plain, data)
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("likely cause: too few steps, 16: ")
    assert others
    assert all(line.startswith("or: ") for line in others)
    say_last(Path("my run"), None, plain, SimpleNamespace())
    assert capsys.readouterr().out == (
        "next: vivit predict 'my run' VIDEO...  |  vivit evaluate 'my run' data.eval_views=[4,3]\n"
    )
