"""Whether a mirror makes another class of a class, measured with what the pretrained model sees."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from torch import Tensor

from vivit_train.preflight.features import Features
from vivit_train.preflight.probe import Probe

# How often, at most, pairs are found among classes of which the features tell nothing.
LEVEL = 0.05
# With fewer videos per class no pair could be found.
FEWEST_PER_CLASS = 5


@dataclass(frozen=True)
class Flip:
    """What flipping clips from left to right does to the classes.

    Attributes:
        pairs: Classes of which a mirror makes the other, the clearest first; none where that was
            not measured.
        text: What was found, in a sentence without a full stop.
    """

    pairs: list[tuple[str, str]]
    text: str


def judge_flip(features: Features | None, class_names: Sequence[str]) -> Flip:
    """Whether flipped clips of one class are taken for another.

    A linear probe scores each video, and its mirror image, after it was fitted to the other videos
    as they are. A mirror makes b of a and a of b if, by the scores of these two, clearly more than
    half of their videos are right as they are, and clearly more than half are wrong when flipped:
    two one-sided binomial tests.

    Args:
        features: Of training videos; ``None``: there are none, or they have several classes each.
        class_names: In the order of the labels.
    """
    if features is None:
        text = "videos have several classes each, or cannot be decoded"
        return Flip([], f"what a flip does was not measured: {text}")
    labels, present = features.labels, features.labels.unique().tolist()
    count = f"{len(labels)} training videos of {len(present)} classes"
    if len(present) < 2 or len(labels) < FEWEST_PER_CLASS * len(present):
        return Flip([], f"what a flip does was not measured: {count} are too few")
    probe = Probe(features.values, labels, len(class_names))
    if not probe.knows_something:
        text = f"a linear probe on the model's features cannot tell the classes of {count} apart"
        return Flip([], f"what a flip does was not measured: {text}")
    mirrored = probe.left_out_of(features.mirrored)
    level = min(LEVEL, math.sqrt(LEVEL / math.comb(len(present), 2)))
    found = []
    for a, b in combinations(present, 2):
        number, right = _right(probe.left_out, labels, a, b)
        _, flipped_right = _right(mirrored, labels, a, b)
        wrong = number - flipped_right
        chances = [binomial_tail(number, count) for count in (right, wrong)]
        if max(chances) < level:
            found.append((chances[1], wrong, number, (class_names[a], class_names[b])))
    found.sort()
    if not found:
        return Flip([], f"flipped clips of {count} keep their class")
    _, wrong, number, (a, b) = found[0]
    more = f", and {len(found) - 1} more pairs alike" if len(found) > 1 else ""
    text = f"of {number} clips of {a!r} and {b!r}, flipped, {wrong} are taken for the other{more}"
    return Flip([pair for *_, pair in found], text)


def _right(scores: Tensor, labels: Tensor, a: int, b: int) -> tuple[int, int]:
    """Videos of two classes, and how many of them score higher in their own than in the other."""
    prefers_a = scores[:, a] > scores[:, b]
    own = ((labels == a) & prefers_a) | ((labels == b) & ~prefers_a)
    return int(((labels == a) | (labels == b)).sum()), int(own.sum())


def binomial_tail(number: int, least: int) -> float:
    """The probability of ``least`` or more heads in ``number`` throws of a fair coin."""
    return sum(math.comb(number, k) for k in range(least, number + 1)) / 2**number
