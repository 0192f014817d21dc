"""How many frames a second the videos of a split have, by a quick look at some of them."""

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from math import ceil, floor, inf, log2
from statistics import median

import av
import numpy as np

from vivit_train.class_names import shorten
from vivit_train.data.records import Records
from vivit_train.errors import UserError
from vivit_train.io.terminal import said_if_long
from vivit_train.video.container import open_video
from vivit_train.video.decode import why_no_file
from vivit_train.video.decoders import known_rate
from vivit_train.video.decoders.pictures import holds_pictures
from vivit_train.video.guard import CAN_GUARD, Failure, Guard
from vivit_train.video.sampling import Sampling

# That the head of one video may take.
SECONDS = 5.0
# More different rates than that are counted in tens.
MOST_RATES = 8
LONGEST_BAR = 32


def video_rates(records: Records, most: int = 64, seconds: float = 30.0) -> dict[str, float]:
    """The frame rates that the heads of some videos name; no frame is shown.

    Args:
        records: The split.
        most: Videos to look at: evenly chosen, in an order of which any beginning is as even.
        seconds: After which no further one is opened, as the storage may be slow. It is long, as
            what is found decides how clips are taken, by every process on its own.

    Returns:
        Name -> average frames per second of each video that names its rate; empty where none does.
    """
    rows = np.linspace(0, len(records) - 1, min(most, len(records))).astype(int)

    rates: dict[str, float] = {}
    look = partial(_rate, records)
    guard = Guard(look, min(seconds, SECONDS)) if CAN_GUARD else None
    end = time.monotonic() + seconds
    with said_if_long(f"looking at the frame rates of {len(rows)} videos"):
        for row in np.random.default_rng(0).permutation(rows).tolist():
            if time.monotonic() > end:
                break
            try:
                rates[records.name(row)] = (guard or look)(row)
            except Failure:
                continue
    if guard:
        guard.close()
    return {name: rate for name, rate in rates.items() if rate}


def _rate(records: Records, row: int) -> float:
    """Average frames per second of a video; 0 where it names none, or cannot be opened."""
    path, _ = records.source(row)
    if os.path.isdir(path) and holds_pictures(path):
        return records.picture_rate or 0.0
    opened = open_head(records, row)
    if opened is None:
        return 0.0
    container, stream = opened
    with container:
        return known_rate(stream.average_rate)


def open_head(
    records: Records, row: int
) -> tuple[av.container.InputContainer, av.VideoStream] | None:
    """A row's video as `open_video` gives it; ``None`` where it cannot, or has no head: pictures.

    Raises:
        UserError: If PyAV is too old.
    """
    (path, _), span = records.source(row), records.span(row)
    try:
        if span is None and (why_no_file(path) or os.path.isdir(path)):
            return None
        return open_video(path, None if span is None else span.read(path))
    except UserError:
        raise
    except Exception:  # of whatever kind: training and `vivit check` say what is wrong with it
        return None


def is_other_rate(rate: float, usual: float) -> bool:
    """Whether motion looks so much faster or slower that it matters: by more than a third."""
    return abs(rate - usual) > usual / 3


def other_rates(
    rates: Mapping[str, float], usual: float | None, sampling: Sampling, whose: str
) -> str | None:
    """The warning about videos whose rate is not that of the training videos.

    Args:
        rates: Name -> frames per second.
        usual: The training videos' median; ``None``: unknown.
        sampling: How clips are taken.
        whose: What the videos are called, e.g. ``validation videos``.

    Returns:
        ``None`` where there are none, or it does not matter: clips are taken by time.
    """
    if not usual or not sampling.frame_stride:
        return None
    others = {name: rate for name, rate in rates.items() if is_other_rate(rate, usual)}
    if not others:
        return None
    return (
        f"{len(others)} of {len(rates)} {whose} have another frame rate than the training videos, "
        f"{median(others.values()):.4g} for {usual:.4g} frames/s: {shorten(list(others), 3)}. With "
        f"data.frame_stride={sampling.frame_stride} their motion looks faster or slower; clips of "
        f"the same moments: data.frame_rate={usual / sampling.frame_stride:.4g}"
    )


def compare_rates(
    records: Records, usual: float | None, sampling: Sampling, whose: str
) -> str | None:
    """`other_rates` of some videos of a split, which are opened only where it matters."""
    if not usual or not sampling.frame_stride:
        return None
    return other_rates(video_rates(records), usual, sampling, whose)


def clip_in_words(sampling: Sampling, rate: float | None) -> str:
    """``16 frames, 2 frames of the video apart: 1.28 s at 25 frames/s``; without what is unknown.

    Args:
        sampling: How clips are taken.
        rate: Frames per second of the videos.
    """
    seconds = sampling.seconds(rate)
    if seconds is None:
        return str(sampling)
    at = f" at {rate:.4g} frames/s" if sampling.frame_stride else ""
    return f"{sampling}: {seconds:.3g} s{at}"


def by_length(seconds: Iterable[float]) -> dict[str, int]:
    """How many videos last how long, in steps that double: ``{"1 to 2 s": 3}``."""
    steps = Counter(floor(log2(s)) for s in seconds if 0 < s < inf)
    every = range(min(steps), max(steps) + 1) if steps else ()
    return {f"{2.0**step:g} to {2.0 ** (step + 1):g} s": steps[step] for step in every}


def by_rate(rates: Iterable[float]) -> dict[str, int]:
    """How many videos have which rate, rounded: ``{"25 frames/s": 3}``; of many rates in tens."""
    rates = [rate for rate in rates if 0 < rate < inf]
    counts = Counter(map(round, rates))
    if len(counts) <= MOST_RATES:
        return {f"{rate} frames/s": counts[rate] for rate in sorted(counts)}
    counts = Counter(int(rate) // 10 for rate in rates)
    return {f"{10 * ten} to {10 * ten + 10} frames/s": counts[ten] for ten in sorted(counts)}


def bars(counts: Mapping[str, int]) -> Iterator[str]:
    """Counts as lines of text, the longest bar `LONGEST_BAR` signs long."""
    widest, most = max(map(len, counts), default=0), max(counts.values(), default=0)
    for name, count in counts.items():
        yield f"  {name:>{widest}}  {'#' * ceil(LONGEST_BAR * count / most)} {count}"
