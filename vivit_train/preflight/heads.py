"""What the headers of videos say: does the source give a class away, are clips too short?"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from statistics import median
from typing import NamedTuple

from vivit_train.class_names import shorten
from vivit_train.data.datamodule import VideoDataModule
from vivit_train.data.rates import open_head
from vivit_train.data.records import Records
from vivit_train.preflight.features import MOST_VIDEOS, spread
from vivit_train.preflight.finding import Finding
from vivit_train.video.decoders import known_rate
from vivit_train.video.guard import CAN_GUARD, Failure
from vivit_train.video.pool import guarded_map

# Of a class: fewer videos may be alike by chance.
FEWEST = 5
# This part of a class's videos, and of the videos that are like them, make a source of its own.
NEARLY_ALL = 0.9
# Of a video: a clip that covers less may miss what happens in it.
SMALL_PART = 0.25


class Head(NamedTuple):
    """What the head of a video says; an entry is 0 or empty where it does not say it.

    Attributes:
        label: Class.
        size: ``1280x720 pixels``.
        rate: Average frames per second.
        codec: ``h264``.
        container: ``mov,mp4,...``, by its content.
        seconds: Duration, or that of the segment.
    """

    label: int
    size: str
    rate: float
    codec: str
    container: str
    seconds: float


def read_heads(data: VideoDataModule, timeout: float = 10.0) -> list[Head]:
    """The heads of up to `MOST_VIDEOS` training videos, about as many of each class.

    No frame is shown.

    Args:
        data: Set up for ``fit``.
        timeout: Seconds after which nothing is known, as the storage may be slow.

    Returns:
        One of each video that can be opened; none where videos have several classes each.
    """
    records = data.records["train"]
    if records.labels.ndim > 1:
        return []
    rows = spread(records.labels, MOST_VIDEOS, data.seed)
    if not CAN_GUARD:
        return _heads(records, rows)
    ((_, heads),) = guarded_map(partial(_heads, records), [rows], 1, timeout)
    return [] if isinstance(heads, Failure) else heads


def _heads(records: Records, rows: Sequence[int]) -> list[Head]:
    return [head for row in rows if (head := _head(records, row))]


def _head(records: Records, row: int) -> Head | None:
    opened = open_head(records, row)
    if opened is None:
        return None
    container, stream = opened
    with container:
        start, end = records.segment(row) or (0, (container.duration or 0) / 1e6)
        return Head(
            int(records.labels[row]),
            f"{stream.codec_context.width}x{stream.codec_context.height} pixels",
            known_rate(stream.average_rate),
            stream.codec_context.name,
            container.format.name,
            end - start,
        )


def of_the_sources(heads: Sequence[Head], class_names: Sequence[str]) -> Finding:
    """Whether what a video was made with gives its class away.

    A model then learns the source: it is right on such videos for the wrong reason.
    """
    kinds = {
        "frame size": [head.size for head in heads],
        "frame rate": [f"{head.rate:.3g} frames/s" for head in heads],
        "codec": [head.codec for head in heads],
        "container": [head.container for head in heads],
        "length": [_length(head.seconds) for head in heads],
    }
    labels = [head.label for head in heads]
    told = [
        f"{kind} ({value} is {class_names[label]!r} alone)"
        for kind, values in kinds.items()
        for label, value in _tells(values, labels)
    ]
    if not told:
        text = f"frame size, rate, codec and length of {len(heads)} videos give no class away"
        return Finding("ok", "sources", text)
    return Finding(
        "warn",
        "sources",
        f"a class can be recognised by its {shorten(told, 3)}: a model may learn how the videos "
        "were made instead of what they show, and fail on others. Give each class videos of every "
        "source, or make them alike with `vivit prepare`",
    )


def _length(seconds: float) -> str:
    """A duration to within a factor of 1.4."""
    return f"about {2 ** (round(2 * math.log2(seconds)) / 2):.2g} s" if seconds > 0 else ""


def _tells(values: Sequence[str], labels: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Classes nearly all of which have a value that nearly nothing else has, with that value."""
    by_class, by_value = Counter(labels), Counter(values)
    for (label, value), both in Counter(zip(labels, values)).items():
        least = NEARLY_ALL * max(by_class[label], by_value[value])
        if value and len(by_class) > 1 and both >= max(FEWEST, least):
            yield label, value


def of_the_length(heads: Sequence[Head], data: VideoDataModule) -> Finding:
    """How much of the videos a clip covers."""
    covered = data.sampling.seconds(data.video_rate)
    usual = median(head.seconds for head in heads)
    if covered is None or not usual:
        text = "a clip covers the whole video, as far as is known"
    else:
        text = f"a clip covers {covered:.2g} s of videos that last about {usual:.2g} s"
    if data.sampling_reason:
        return Finding("ok", "length", f"{text}; {data.sampling_reason}")
    if covered is None or not usual or covered >= SMALL_PART * usual:
        return Finding("ok", "length", text)
    cure = f"data.frame_stride=null data.clip_seconds={usual:.2g} covers them"
    return Finding("warn", "length", f"{text}: too little if a class shows only over time; {cure}")
