"""Whether clips show a window of a video or the whole of it, where `data.sampling=auto` asks."""

import sys
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch

from vivit_train.config.keys import AUTO
from vivit_train.data.datamodule import VideoDataModule
from vivit_train.io.terminal import is_rank_zero, said_if_long, say
from vivit_train.preflight.features import Features, features_of, pretrained_model
from vivit_train.preflight.flip import binomial_tail
from vivit_train.preflight.heads import read_heads
from vivit_train.preflight.probe import Probe
from vivit_train.recipe.contract import KEYS
from vivit_train.video.sampling import Sampling

# How often, at most, whole videos are taken where they show no more than windows.
LEVEL = 0.05


@dataclass(frozen=True)
class Span:
    """What a clip should show.

    Attributes:
        sampling: ``window`` or ``whole``.
        judged: Whether it was measured; if not, it is ``window``.
        text: Why, in a sentence without a full stop.
    """

    sampling: str
    judged: bool
    text: str


def fit_sampling(config: dict[str, Any], data: VideoDataModule) -> dict[str, Any]:
    """The configuration with the better of windows and whole videos; the reason is printed.

    The first process alone measures: `SameVideos` gives the others its choice, when they can talk
    to each other. Without pretrained weights there is nothing to measure with. Weights that were
    trained on whole videos keep that: they know no window to compare it with.

    Args:
        config: As `open_data` gives it; without ``data.sampling=auto`` nothing is measured.
        data: Set up for ``fit``; its ``sampling`` and ``sampling_reason`` become the choice.

    Raises:
        UserError: If the weights do not fit the model.
    """
    if config["data"]["sampling"] != AUTO:
        return config
    has_windows = config["model"]["pretrained"] is not None and data.sampling.sampling == "window"
    if has_windows and is_rank_zero():
        span = measure_span(config, data)
        say(f"data.sampling={span.sampling}: {span.text}", file=sys.stderr)
        if span.judged:
            data.sampling_reason = span.text
        if span.sampling == "whole":
            data.sampling = over_whole_videos(data.sampling)
    return config | {"data": config["data"] | {key: getattr(data.sampling, key) for key in KEYS}}


@said_if_long(
    "comparing windows with whole videos, in up to 256 videos seen by the pretrained model; "
    "data.sampling=window skips this"
)
def measure_span(config: dict[str, Any], data: VideoDataModule) -> Span:
    """Looks at training videos both ways with the model that training starts from.

    It takes as long as it takes: a choice must not depend on how busy the machine is.

    Args:
        config: The resolved configuration; `model`, `trainer.accelerator` and `seed` are read.
        data: Set up for ``fit``; its ``sampling`` says which windows.

    Raises:
        UserError: If the weights do not fit the model.
    """
    covered = data.sampling.seconds(data.video_rate)
    lengths = [head.seconds for head in read_heads(data, timeout=60.0)]
    if covered and lengths and 0 < median(lengths) <= covered:
        text = f"a clip covers {covered:.2g} s, and most videos last no longer"
        return Span("window", False, text)
    model = pretrained_model(config)
    window, whole = (
        features_of(model, data, "train", float("inf"), sampling=sampling, mirror=False)
        for sampling in (data.sampling, over_whole_videos(data.sampling))
    )
    return judge_span(window, whole, len(data.class_names))


def over_whole_videos(sampling: Sampling) -> Sampling:
    """The same number of frames, spread over the whole of a video."""
    return replace(
        sampling, sampling="whole", frame_stride=None, frame_rate=None, clip_seconds=None
    )


def judge_span(window: Features | None, whole: Features | None, num_classes: int) -> Span:
    """Whether a linear probe is clearly more often right where clips show whole videos.

    Both probes score each video after they were fitted to the others, and are compared on the same
    videos: of those that one alone gets right, clearly more than half (McNemar's exact test, two
    sided) must be the second's, which must also do better than guessing.

    Args:
        window: Features of training videos, each seen through a window; ``None``: there are none.
        whole: The same of whole videos. Videos that only one of them has do not count.
        num_classes: K.
    """
    if window is None or whole is None:
        text = "videos have several classes each, or cannot be decoded"
        return Span("window", False, f"whole videos were not compared: {text}")
    shared = set(window.rows.tolist()) & set(whole.rows.tolist())
    probes = []
    for features in (window, whole):
        has = torch.tensor([row in shared for row in features.rows.tolist()])
        if len(features.labels[has].unique()) < 2:
            text = "there are no videos of two classes that can be decoded both ways"
            return Span("window", False, f"whole videos were not compared: {text}")
        probes.append(Probe(features.values[has], features.labels[has], num_classes))
    is_right = [probe.left_out.argmax(dim=1) == probe.labels for probe in probes]
    losses, gains = (int((a & ~b).sum()) for a, b in (is_right, is_right[::-1]))
    p = min(1.0, 2 * binomial_tail(losses + gains, max(losses, gains)))
    by_window, by_whole = probes[0].accuracy, probes[1].accuracy
    text = "a linear probe on frozen features gets {:.2f} with {}, {:.2f} with {} (p = {:.1g})"
    if gains > losses and p < LEVEL and probes[1].knows_something:
        text = text.format(by_whole, "frames over the whole video", by_window, "windows", p)
        return Span("whole", True, text)
    text = text.format(by_window, "windows", by_whole, "frames over the whole video", p)
    if gains > losses:
        text += ", too little to leave what the weights were trained with"
    return Span("window", True, text)
