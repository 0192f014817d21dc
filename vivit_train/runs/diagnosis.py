"""What a run says at its end: what to do next, or why nothing was learned."""

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from vivit_train.class_names import mirrored_pair
from vivit_train.classifier import sampling_of
from vivit_train.data.datamodule import VideoDataModule
from vivit_train.errors import UserError
from vivit_train.io.layout import METRICS_FILE
from vivit_train.io.terminal import say
from vivit_train.model.weights import read_weights
from vivit_train.recipe.contract import differ, same_moments, word
from vivit_train.recipe.preset import LEAST_STEPS, LR_RANGES
from vivit_train.runs.metrics_csv import Row, read_metrics
from vivit_train.video.decode import DecodeError, VideoReader
from vivit_train.video.guard import CAN_GUARD
from vivit_train.video.pool import guarded_map

# Of the loss of guessing: what is less than this is no change.
NO_CHANGE = 0.03
# A training top-1 or F1, from guessing (0) to all right (1), or a share of the loss of guessing,
# from which on the training clips count as learned.
LEARNED = 0.5
# Training clips of a class that a pretrained model generalises from, as in docs/finetuning.md.
FEW_CLIPS = 20
# Shares of a video below which a clip may miss what happens in it.
SHORT_CLIP = 1 / 3

# How much must speak for a cause that is named beside the likeliest.
DOUBTFUL = 0.1


@dataclass(frozen=True)
class Course:
    """How the training went.

    Attributes:
        steps: Optimiser steps in all.
        loss: float64 ``[N]``, of the training batches that were logged; N may be 0.
        score: float64 ``[N]``, top-1 of the same, multi-label F1; NaN where it was not logged.
    """

    steps: int
    loss: np.ndarray
    score: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Course":
        """From the rows of a metrics.csv."""
        rows = [row for row in rows if "test/loss" not in row.scores]  # which counts a step more
        logged = [row.scores for row in rows if "train/loss" in row.scores]
        loss = np.array([scores["train/loss"] for scores in logged])
        score = np.array(
            [scores.get("train/top1", scores.get("train/micro_f1", math.nan)) for scores in logged]
        )
        return cls(max((row.step for row in rows), default=-1) + 1, loss, score)

    def quarters(self) -> np.ndarray:
        """The mean loss of each quarter of the run, float64 ``[4]`` or fewer where N is less."""
        parts = np.array_split(self.loss, min(4, max(1, len(self.loss))))
        return np.array([part.mean() for part in parts if len(part)])


@dataclass(frozen=True)
class Case:
    """A run that has learned nothing which its test shows.

    Attributes:
        config: Resolved.
        course: How the training went.
        head_sizes: Classes of each head; of one head K alone.
        clips: Training clips.
        clip_share: Of a training video, that a clip covers; ``None``: unknown, or the whole.
        differences: In what the clips differ from those of the pretrained weights, in words.
        mirrored: Two classes whose names a flip from left to right turns into each other.
        prevalence: Multi-label, of each class the share of the training clips that show it; else
            empty.
    """

    config: Mapping[str, Any]
    course: Course
    head_sizes: Sequence[int]
    clips: int
    clip_share: float | None = None
    differences: Sequence[str] = ()
    mirrored: tuple[str, str] | None = None
    prevalence: Sequence[float] = ()

    @property
    def guess(self) -> float:
        """The loss of guessing, ln K; of several heads the mean; multi-label that of prevalence."""
        if self.prevalence:
            return sum(map(_entropy, self.prevalence)) / len(self.prevalence)
        return sum(map(math.log, self.head_sizes)) / len(self.head_sizes)

    @property
    def chance(self) -> float:
        """The top-1 of guessing; multi-label the F1 of naming every class."""
        if self.prevalence:
            mean = sum(self.prevalence) / len(self.prevalence)
            return 2 * mean / (1 + mean)
        return 1 / math.prod(self.head_sizes)

    @property
    def clips_per_class(self) -> float:
        """Training clips of a class, on average; of several heads of an action."""
        if self.prevalence:
            return self.clips * sum(self.prevalence) / len(self.prevalence)
        return self.clips / math.prod(self.head_sizes)

    @property
    def learned(self) -> bool:
        """Whether the training clips themselves were learned by the end."""
        if not len(self.course.loss):
            return False
        last = len(self.course.loss) - len(self.course.loss) // 4 - 1
        score = (np.nanmean(self.course.score[last:]) - self.chance) / (1 - self.chance)
        return bool(score > LEARNED or self.course.quarters()[-1] < LEARNED * self.guess)


Cause = tuple[float, str]  # how much speaks for it, from 0 to 1, and the words


def likely_causes(case: Case) -> list[str]:
    """The likeliest causes, one or two, each with what mends it."""
    found = [
        cause
        for judge in (
            rate_too_high,
            too_few_clips,
            labels_differ,
            too_few_steps,
            rate_too_low,
            other_clips,
            frozen,
            flip,
            clips_too_short,
            labels_mixed_up,
        )
        for cause in judge(case)
    ]
    found.sort(key=lambda cause: -cause[0])  # of equals the first named stays first
    first, *others = found[:2]
    return [first[1], *(text for sure, text in others if sure > DOUBTFUL)]


def rate_too_high(case: Case) -> Iterator[Cause]:
    """A loss that is not finite, ends above that of guessing, or jumps."""
    loss, rate = case.course.loss, case.config["optim"]["lr"]
    cure = f"lower it, optim.lr={rate / 10:.2g}"
    if not np.isfinite(loss).all():
        yield 1.0, f"the learning rate is too high, the training loss became NaN: {cure}"
        return
    if len(loss) < 4:
        return
    late = loss[len(loss) // 2 :]
    # Multi-label the loss begins at ln 2, that of logits of 0, which is above guessing.
    begin = math.log(2) if case.prevalence else case.guess
    if late.mean() > 1.2 * begin:
        told = f"the training loss ended at {late.mean():.3f}, above {case.guess:.3f} of guessing"
        yield 1.0, f"the learning rate is too high, {told}: {cure}"
    elif np.abs(np.diff(late)).mean() > 0.25 * case.guess and not case.learned:
        told = f"the training loss jumps between {late.min():.3f} and {late.max():.3f}"
        yield 0.9, f"the learning rate is too high, {told}: {cure}"


def too_few_clips(case: Case) -> Iterator[Cause]:
    """Overfitting: the training clips are learned, and others are not recognised."""
    per_class = case.clips_per_class
    if case.learned:
        yield (
            0.95 if per_class < FEW_CLIPS else 0.6,
            f"overfitting: the {case.clips} training clips were learned (loss "
            f"{case.course.quarters()[-1]:.3f}, guessing is {case.guess:.3f}), others are not "
            f"recognised; {per_class:.0f} clips per class may be too few: add clips, start from "
            "model.pretrained, or train less of the model, optim.freeze=all_but_head",
        )


def labels_differ(case: Case) -> Iterator[Cause]:
    """The training clips are learned, and there were enough of them."""
    if case.learned:
        yield (
            0.8,
            "the labels of the validation split may mean something else than those of the training "
            "split: compare them, `vivit show-batch` and predictions.csv",
        )


def too_few_steps(case: Case) -> Iterator[Cause]:
    """A loss that was still falling, or a run that is short."""
    steps, epochs = case.course.steps, case.config["trainer"]["max_epochs"]
    quarters = case.course.quarters()
    falling = len(quarters) == 4 and quarters[-2] - quarters[-1] > NO_CHANGE * case.guess
    if case.learned or not (falling or steps < LEAST_STEPS):
        return
    more = max(3 * steps, LEAST_STEPS)
    cure = f"trainer.max_steps={more}"
    if epochs and epochs > 0:
        cure = f"trainer.max_epochs={-(-epochs * more // max(1, steps))}, {more} steps"
    if falling:
        told = f"the training loss was still falling, {quarters[0]:.3f} -> {quarters[-1]:.3f}"
    else:
        told = f"even a small set takes some {LEAST_STEPS}"
    sure = 0.85 if falling or steps < LEAST_STEPS / 4 else 0.5
    yield sure, f"too few steps, {steps}: {told}; train longer, {cure}"


def rate_too_low(case: Case) -> Iterator[Cause]:
    """A loss that has not moved, at a rate at the lower end of what trains, or below."""
    name, rate = case.config["optim"]["name"], case.config["optim"]["lr"]
    low, _ = LR_RANGES.get(name, (0.0, 0.0))
    if rate < 10 * low and _is_flat(case):
        yield (
            0.9,
            f"the learning rate is too low, the training loss stays at {case.guess:.3f}, that of "
            f"guessing, with optim.lr={rate:g}: raise it, optim.lr={100 * rate:.2g}",
        )


def other_clips(case: Case) -> Iterator[Cause]:
    """Frames that are taken otherwise than the pretrained weights had them."""
    if case.differences:
        yield (
            0.7 if not case.learned else 0.5,
            "the clips are not those that the pretrained weights were trained on: "
            + "; ".join(case.differences),
        )


def frozen(case: Case) -> Iterator[Cause]:
    """Most of the model does not train, and what it sees does not tell the classes apart."""
    what = case.config["optim"]["freeze"]
    if what is not None and not case.learned:
        yield (
            0.65,
            f"optim.freeze={what}: the features of the frozen parts do not separate the classes of "
            "these videos: train all of the model, optim.freeze=null",
        )


def flip(case: Case) -> Iterator[Cause]:
    """A mirror that makes another class of a class."""
    share = case.config["augment"]["horizontal_flip"]
    if share and case.mirrored:
        a, b = case.mirrored
        yield (
            0.75,
            f"augment.horizontal_flip={share:g} turns {a!r} into {b!r} and keeps the label: "
            "augment.horizontal_flip=0",
        )


def clips_too_short(case: Case) -> Iterator[Cause]:
    """A clip that covers a small part of a video."""
    if case.clip_share is not None and case.clip_share < SHORT_CLIP:
        yield (
            0.6,
            f"a clip covers {case.clip_share:.0%} of a video (median), and what tells the classes "
            "apart may lie outside: data.sampling=whole, or a larger data.clip_seconds",
        )


def labels_mixed_up(case: Case) -> Iterator[Cause]:
    """What is left: the training clips were not learned, though there was time to."""
    if not case.learned:
        yield (
            0.4 if case.course.steps >= LEAST_STEPS else 0.1,
            f"the labels may be mixed up: {case.course.steps} steps did not learn even the "
            "training clips; look at some, `vivit show-batch`, and at whether the pretrained "
            "model's features tell the classes apart, `vivit doctor`",
        )


def _entropy(share: float) -> float:
    """The binary cross-entropy of a share that is known, in nats."""
    return -sum(p * math.log(p) for p in (share, 1 - share) if p > 0)


def _is_flat(case: Case) -> bool:
    quarters = case.course.quarters()
    return len(quarters) > 0 and bool(
        (np.abs(quarters - case.guess) < 2 * NO_CHANGE * case.guess).all()
    )


def case_of(run_dir: Path, config: Mapping[str, Any], data: VideoDataModule) -> Case:
    """The facts of a run that has ended.

    Args:
        run_dir: With its metrics.csv.
        config: Resolved, with numbers for what was ``auto``.
        data: That it was trained on.
    """
    return Case(
        config=config,
        course=Course.of(read_metrics(run_dir / METRICS_FILE)),
        head_sizes=list(data.heads.values()) or [len(data.class_names)],
        clips=len(data.records["train"]),
        clip_share=_clip_share(data),
        differences=_differences(config, data),
        mirrored=mirrored_pair(data.class_names),
        prevalence=data.records["train"].labels.mean(axis=0).tolist() if data.multi_label else (),
    )


def _differences(config: Mapping[str, Any], data: VideoDataModule) -> list[str]:
    """In what the time of the clips differs from the pretrained weights', where these tell.

    What was measured to be better is no slip.
    """
    source, mine = config["model"]["pretrained"], data.sampling
    try:
        told = {} if source is None else read_weights(source, with_tensors=False).sampling
    except (UserError, OSError):  # the run may have been resumed long after it had started
        return []
    found = []
    frames = told.get("clip_frames", mine.clip_frames)
    if frames != mine.clip_frames:
        found.append(f"data.clip_frames={mine.clip_frames}, theirs was data.clip_frames={frames}")
    theirs = sampling_of(told, mine.clip_frames)
    if theirs is not None and not data.sampling_reason:
        theirs = same_moments(theirs, told.get("video_rate"), data.train_rates.values())
        if differ(mine, theirs, data.video_rate):
            found.append(f"{word(mine)}, theirs was {word(theirs)}")
    return found


def _clip_share(data: VideoDataModule, most: int = 16, seconds: float = 10.0) -> float | None:
    """The share of a training video that a clip covers: the median of some."""
    is_whole = data.sampling.sampling == "whole"
    span = 0.0 if is_whole else data.sampling.span(data.video_rate or 0.0)
    records = data.records["train"]
    rows = np.linspace(0, len(records) - 1, min(most, len(records))).astype(int).tolist()
    rows = [row for row in rows if records.span(row) is None]
    if not span or not CAN_GUARD:
        return None

    def count(row: int) -> int:
        path, segment = records.source(row)
        try:
            rate = records.picture_rate
            with VideoReader(path, segment=segment, picture_rate=rate) as video:
                return video.num_frames
        except DecodeError:
            return 0

    counts = [n for _, n in guarded_map(count, rows, 1, seconds) if isinstance(n, int) and n]
    return min(1.0, span / median(counts)) if counts else None


def say_last(
    run_dir: Path, told: str | None, config: Mapping[str, Any], data: VideoDataModule
) -> None:
    """Prints what to do with a run that has ended, or why it has learned nothing.

    Args:
        run_dir: The run's folder.
        told: That the score is no better than guessing; ``None``: it is better, or there is none.
        config: As for `case_of`.
        data: As for `case_of`.
    """
    run = shlex.quote(str(run_dir))
    if told is None:
        say(f"next: vivit predict {run} VIDEO...  |  vivit evaluate {run} data.eval_views=[4,3]")
        return
    first, *others = likely_causes(case_of(run_dir, config, data))
    say(f"likely cause: {first}")
    for other in others:
        say(f"or: {other}")
