"""From the logits of windows to the rows of a timeline."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from math import inf
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vivit_train.classifier import Classifier, NonFiniteLogits
from vivit_train.prediction import Guess, prediction_of
from vivit_train.timeline.decoded import Film
from vivit_train.timeline.windows import Windows
from vivit_train.video.sampling import ROUNDING

# Clips that the model gets at once.
BATCH = 8


class Row(NamedTuple):
    """What is shown from ``start`` to ``end``, in seconds; the probability is a fraction."""

    start: float
    end: float
    name: str
    probability: float


class Joiner:
    """Makes rows of spans that come in order: neighbours of one class are one.

    A row's probability is the mean over its seconds.

    Args:
        threshold: A span of a lower probability is in no row.
    """

    def __init__(self, threshold: float = 0.0) -> None:
        self.threshold = threshold
        self._spans: list[tuple[float, float]] = []  # start and end of the current row
        self._name = ""
        self._sum = 0.0  # of probability times seconds

    def add(self, span: tuple[float, float], guess: Guess) -> Row | None:
        """Adds a span; gives the row that ended with it, if one did."""
        name, probability = guess
        is_shown = probability >= self.threshold
        weighted = probability * (span[1] - span[0])
        if self._spans and is_shown and name == self._name:
            self._spans = [(self._spans[0][0], span[1])]
            self._sum += weighted
            return None
        ended = self.end()
        if is_shown:
            self._spans, self._name, self._sum = [span], name, weighted
        return ended

    def end(self) -> Row | None:
        """The current row, if there is one: it ends here."""
        if not self._spans:
            return None
        ((start, end),) = self._spans
        self._spans = []
        return Row(start, end, self._name, self._sum / (end - start))


def rows_of(
    classifier: Classifier,
    film: Film,
    name: str,
    threshold: float = 0.0,
    smooth: int = 1,
    advance: Callable[[str], object] = str,
) -> Iterator[Row]:
    """The rows of a film, each when it has ended; the last also where the work is stopped.

    Args:
        classifier: In evaluation mode.
        film: That is being read.
        name: Of the film, for the message.
        threshold: As for `Joiner`.
        smooth: Windows over which probabilities are averaged.
        advance: Called after each window.

    Raises:
        DecodeError: When a clip cannot be decoded.
        NonFiniteLogits: If logits say nothing.
    """

    def counted() -> Iterator[Tensor]:
        for probability in smoothed(probabilities(classifier, film.clips, name), smooth):
            yield probability
            advance("windows")

    joiner = Joiner(threshold)
    try:
        for span, probability in by_moment(counted(), film.windows):
            guess = guess_of(probability, classifier.class_names, classifier.heads)
            row = joiner.add(span, guess)
            if row is not None:
                yield row
    except (Exception, KeyboardInterrupt):  # not GeneratorExit, after which nothing is taken
        if (row := joiner.end()) is not None:
            yield row
        raise
    if (row := joiner.end()) is not None:
        yield row


def by_moment(
    values: Iterable[Tensor], windows: Windows
) -> Iterator[tuple[tuple[float, float], Tensor]]:
    """What is shown from one border of windows to the next: the mean of all that contain it.

    Where windows leave gaps, each speaks for the seconds to which its middle is the nearest.

    Args:
        values: Of each window, in order.
        windows: Over the film.

    Yields:
        Spans, seconds, that follow each other from 0 to the film's end, and their values. Where
        ``values`` ends in an exception, first those of the windows so far.
    """
    if windows.every > windows.seconds:
        yield from ((windows.span(number), value) for number, value in enumerate(values))
        return
    at = 0.0
    containing: deque[tuple[float, Tensor]] = deque()  # until when, and what

    def until(limit: float) -> Iterator[tuple[tuple[float, float], Tensor]]:
        nonlocal at
        while containing and at + ROUNDING < limit:
            end = min(containing[0][0], limit)
            if at + ROUNDING < end:
                yield (at, end), torch.stack([value for _, value in containing]).mean(dim=0)
                at = end
            while containing and containing[0][0] <= at + ROUNDING:
                containing.popleft()

    try:
        for number, value in enumerate(values):
            start = windows.start(number)
            yield from until(start)
            containing.append((start + windows.seconds, value))
    except (Exception, KeyboardInterrupt):
        yield from until(inf)
        raise
    yield from until(inf)


def smoothed(values: Iterable[Tensor], number: int) -> Iterator[Tensor]:
    """The mean of each value and its neighbours, ``number`` in all; at the ends of those there are.

    Of an even number one more comes after than before.
    """
    after = number // 2
    before = number - 1 - after
    held: deque[Tensor] = deque(maxlen=number)
    seen = 0
    for value in values:
        held.append(value)
        seen += 1
        if seen > after:
            yield torch.stack([*held]).mean(dim=0)
    for left in range(min(after, seen), 0, -1):
        yield torch.stack([*held][-(before + left) :]).mean(dim=0)


@torch.no_grad()
def probabilities(
    classifier: Classifier, clips: Iterator[np.ndarray], video: str
) -> Iterator[Tensor]:
    """What each clip may show: float ``[K]`` on the CPU, which adds up to 1 for each head.

    Args:
        classifier: In evaluation mode.
        clips: uint8 ``[T, h, w, 3]``.
        video: Its name, for the message.

    Raises:
        NonFiniteLogits: If logits say nothing.
    """
    while batch := list(islice(clips, BATCH)):
        logits = classifier(np.stack(batch)).float().cpu()  # [B, K]
        if not logits.isfinite().all():
            raise NonFiniteLogits(video)
        heads = list(classifier.heads.values()) or [logits.shape[1]]
        yield from torch.cat([part.softmax(dim=1) for part in logits.split(heads, dim=1)], dim=1)


def guess_of(probability: Tensor, class_names: list[str], heads: Mapping[str, int]) -> Guess:
    """The most probable class of `probabilities`; of several heads the action."""
    return prediction_of(None, probability.log(), class_names, heads, top_k=1).classes[0]
