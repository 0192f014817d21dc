"""From the logits of windows to the rows of a timeline."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from math import inf
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vivit_train.classifier import Classifier, NonFiniteLogits
from vivit_train.prediction import Guess, prediction_of
from vivit_train.timeline.decoded import Film
from vivit_train.timeline.still import Still
from vivit_train.timeline.windows import Windows
from vivit_train.video.sampling import ROUNDING

# Clips that the model gets at once.
BATCH = 8
# From when to when, in seconds, and what is shown then: ``None`` where the picture stands still.
Moment = tuple[tuple[float, float], Tensor | None]


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
        self._span: tuple[float, float] | None = None  # of the current row
        self._name = ""
        self._sum = 0.0  # of probability times seconds

    def add(self, span: tuple[float, float], guess: Guess) -> Row | None:
        """Adds a span; gives the row that ended with it, if one did."""
        name, probability = guess
        is_shown = probability >= self.threshold
        weighted = probability * (span[1] - span[0])
        if self._span and is_shown and name == self._name:
            self._span = (self._span[0], span[1])
            self._sum += weighted
            return None
        ended = self.end()
        if is_shown:
            self._span, self._name, self._sum = span, name, weighted
        return ended

    def end(self) -> Row | None:
        """The current row, if there is one: it ends here."""
        if self._span is None:
            return None
        (start, end), self._span = self._span, None
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

    Those of a multi-label model may overlap: each class has rows of its own.

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

    windows, still = film.windows, film.still

    def moving_clips() -> Iterator[np.ndarray | None]:
        for number, clip in enumerate(film.clips):
            start = windows.start(number)
            yield None if still.covers(start, start + windows.seconds) else clip

    def counted() -> Iterator[Tensor | None]:
        for probability in smoothed(probabilities(classifier, moving_clips(), name), smooth):
            yield probability
            advance("windows")

    joiners = [Joiner(threshold)]
    if classifier.multi_label:
        joiners = [Joiner(threshold) for _ in classifier.class_names]

    def ended() -> list[Row]:
        return sorted(row for joiner in joiners if (row := joiner.end()) is not None)

    try:
        for span, probability in without_still(by_moment(counted(), windows), windows, still):
            if probability is None:
                yield from ended()
                continue
            for joiner, guess in zip(joiners, guesses_of(probability, classifier)):
                if (row := joiner.add(span, guess)) is not None:
                    yield row
    except (Exception, KeyboardInterrupt):  # not GeneratorExit, after which nothing is taken
        yield from ended()
        raise
    yield from ended()


def without_still(moments: Iterable[Moment], windows: Windows, still: Still) -> Iterator[Moment]:
    """Cuts out of moments where the picture stands still, as soon as that is known.

    Args:
        moments: In order, see `by_moment`.
        windows: Over the film.
        still: Is told of the film's frames while ``moments`` are taken.

    Yields:
        As `by_moment`.
    """
    waiting: deque[Moment] = deque()

    def until(limit: float) -> Iterator[Moment]:
        while waiting and waiting[0][0][1] <= limit + ROUNDING:
            (start, end), value = waiting.popleft()
            still.forget(start)
            for first, last, is_still in still.parts(start, end):
                yield (first, last), None if is_still else value

    try:
        for moment in moments:
            waiting.append(moment)
            yield from until(still.known)
    except (Exception, KeyboardInterrupt):
        yield from until(inf)
        raise
    still.last(windows.duration)
    yield from until(inf)


def by_moment(values: Iterable[Tensor | None], windows: Windows) -> Iterator[Moment]:
    """What is shown from one border of windows to the next: the mean of all that contain it.

    Where windows leave gaps, each speaks for the seconds to which its middle is the nearest.

    Args:
        values: Of each window, in order; ``None`` where it shows a still picture, and has no say.
        windows: Over the film.

    Yields:
        Spans, seconds, that follow each other from 0 to the film's end, and their values. Where
        ``values`` ends in an exception, first those of the windows so far.
    """
    if windows.every > windows.seconds:
        yield from ((windows.span(number), value) for number, value in enumerate(values))
        return
    at = 0.0
    containing: deque[tuple[float, Tensor | None]] = deque()  # until when, and what

    def until(limit: float) -> Iterator[Moment]:
        nonlocal at
        while containing and at + ROUNDING < limit:
            end = min(containing[0][0], limit)
            if at + ROUNDING < end:
                yield (at, end), _mean([value for _, value in containing])
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


def _mean(values: Sequence[Tensor | None]) -> Tensor | None:
    """Of those there are."""
    there = [value for value in values if value is not None]
    return torch.stack(there).mean(dim=0) if there else None


def smoothed(values: Iterable[Tensor | None], number: int) -> Iterator[Tensor | None]:
    """The mean of each value and its neighbours, ``number`` in all; at the ends of those there are.

    Of an even number one more comes after than before. ``None`` stays, and is in no mean.
    """
    after = number // 2
    before = number - 1 - after
    held: deque[Tensor | None] = deque(maxlen=number)
    seen = 0
    for value in values:
        held.append(value)
        seen += 1
        if seen > after:
            yield None if held[-1 - after] is None else _mean(held)
    for left in range(min(after, seen), 0, -1):
        yield None if held[-left] is None else _mean([*held][-(before + left) :])


@torch.no_grad()
def probabilities(
    classifier: Classifier, clips: Iterator[np.ndarray | None], video: str
) -> Iterator[Tensor | None]:
    """What each clip may show: float ``[K]`` on the CPU, which adds up to 1 for each head.

    Multi-label each class has a probability of its own.

    Args:
        classifier: In evaluation mode.
        clips: uint8 ``[T, h, w, 3]``; ``None``: there is nothing to look at, and so is what it may
            show.
        video: Its name, for the message.

    Raises:
        NonFiniteLogits: If logits say nothing.
    """
    while batch := list(islice(clips, BATCH)):
        shown = [clip for clip in batch if clip is not None]
        found = iter(_of_batch(classifier, np.stack(shown), video) if shown else ())
        yield from (None if clip is None else next(found) for clip in batch)


def _of_batch(classifier: Classifier, clips: np.ndarray, video: str) -> Tensor:
    """`probabilities` of uint8 ``[B, T, h, w, 3]``: float ``[B, K]``."""
    logits = classifier(clips).float().cpu()
    if not logits.isfinite().all():
        raise NonFiniteLogits(video)
    if classifier.multi_label:
        return logits.sigmoid()
    heads = list(classifier.heads.values()) or [logits.shape[1]]
    return torch.cat([part.softmax(dim=1) for part in logits.split(heads, dim=1)], dim=1)


def guesses_of(probability: Tensor, classifier: Classifier) -> list[Guess]:
    """The most probable class of `probabilities`; of several heads the action; multi-label all."""
    names = classifier.class_names
    if classifier.multi_label:
        return list(zip(names, probability.tolist()))
    return prediction_of(None, probability.log(), names, classifier.heads, top_k=1).classes
