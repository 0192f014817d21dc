"""The contract of pretrained weights: how clips were taken from their videos, and their pixels.

What the configuration leaves open (null) is the weights' own. What it sets otherwise than theirs is
a warning, with the words that remove it.
"""

import dataclasses
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from vivit_train.classifier import processor_of, sampling_of, with_crop
from vivit_train.config.keys import in_words
from vivit_train.data.rates import compare_rates, is_other_rate, other_rates
from vivit_train.io.terminal import is_rank_zero, say
from vivit_train.model.weights import Weights, read_weights
from vivit_train.transforms.processor import Processor
from vivit_train.video.sampling import SPACINGS, Sampling

if TYPE_CHECKING:
    from vivit_train.data.datamodule import VideoDataModule

# The keys of `data` that say how clips are taken. All are null where that is left open.
KEYS = (*SPACINGS, "sampling")


def adopt(config: dict[str, Any], data: "VideoDataModule") -> dict[str, Any]:
    """The configuration with nothing left open: see `KEYS`, and the group ``processor``.

    Args:
        config: Resolved.
        data: Built from it and set up.

    Raises:
        UserError: If the pretrained weights are not there, or their settings are broken.
    """
    sampling, processor, told = data.sampling, data.processor, []
    if config["model"]["pretrained"] is not None:
        weights = read_weights(config["model"]["pretrained"], with_tensors=False)
        sampling, *told = _clips(config["data"], data, weights)
        processor, *more = _pixels(config["processor"], data, weights)
        told += more
    if told and is_rank_zero():
        say(f"from the pretrained weights: {'; '.join(told)}", file=sys.stderr)
    if is_rank_zero():
        _warn_of_rates(data, sampling)
    clips = {name: getattr(sampling, name) for name in KEYS}
    is_set = {name: value for name, value in config["processor"].items() if value is not None}
    pixels = processor.settings() | is_set  # a crop_size of one number stays one
    return config | {"data": config["data"] | clips, "processor": pixels}


def _clips(chosen: dict[str, Any], data: "VideoDataModule", weights: Weights) -> tuple[Any, ...]:
    """How clips are taken, and what of it is the weights' own in words if anything is."""
    mine, is_spaced = data.sampling, any(chosen[name] for name in SPACINGS)
    frames = weights.sampling.get("clip_frames") or weights.model.get("num_frames")
    if frames not in (None, mine.clip_frames) and not weights.is_image:
        rank_zero_warn(
            f"clips of {mine.clip_frames} frames, but the pretrained weights were trained with "
            f"{frames}: their positions are interpolated. As they were trained: "
            f"model.num_frames={frames}"
        )
    theirs = sampling_of(weights.sampling, mine.clip_frames)
    if theirs is None:
        nothing = "nothing on how far apart a clip's frames were, so as in the published ViViTs"
        is_open = not is_spaced and mine.sampling == "window"
        return (mine, f"{nothing} {word(mine)}") if is_open else (mine,)
    is_open = not is_spaced and chosen["sampling"] in (None, theirs.sampling)
    if not is_open and not is_rank_zero():  # what follows is a warning at most
        return (mine,)
    rate, their_rate = data.video_rate, weights.sampling.get("video_rate")
    rates = sorted(data.train_rates.values())
    wanted = same_moments(theirs, their_rate, rates)
    told = word(wanted)
    if wanted != theirs:
        have = " to ".join(dict.fromkeys(f"{rate:.4g}" for rate in (rates[0], rates[-1])))
        told += f" (theirs: {word(theirs)} at {their_rate:.4g} frames/s; these have {have})"
    if is_open:
        return wanted, f"{frames} frames, {told}" if frames == mine.clip_frames else told
    if differ(mine, wanted, rate):
        rank_zero_warn(
            f"{word(mine)}, but for the moments that the pretrained weights were trained on it is "
            f"{told}: motion looks faster or slower to them. As they were trained: {word(wanted)}"
        )
    return (mine,)


def same_moments(theirs: Sampling, their_rate: float | None, rates: Iterable[float]) -> Sampling:
    """How clips are taken from other videos so that they show the same moments.

    As they were, but a stride becomes a frame rate where some of the videos have another one.

    Args:
        theirs: What a model was trained with.
        their_rate: Frames per second of the videos that it was trained on; ``None``: unknown.
        rates: The same of the other videos, as far as they are known.
    """
    is_other = their_rate and any(is_other_rate(rate, their_rate) for rate in rates)
    if theirs.frame_stride and their_rate and is_other:
        frame_rate = round(their_rate / theirs.frame_stride, 3)
        return dataclasses.replace(theirs, frame_stride=None, frame_rate=frame_rate)
    return theirs


def differ(mine: Sampling, theirs: Sampling, rate: float | None) -> bool:
    """Whether two ways to take clips show motion at different speeds.

    Ways of different kinds, such as a stride and a frame rate, are compared by the seconds that a
    clip covers.

    Args:
        mine: One way.
        theirs: Another.
        rate: Frames per second of the videos; ``None``: unknown.
    """
    one, other = _spacing(mine), _spacing(theirs)
    if one.keys() == other.keys():
        return one != other
    seconds, their_seconds = mine.seconds(rate), theirs.seconds(rate)
    return not (seconds and their_seconds) or is_other_rate(seconds, their_seconds)


def _spacing(sampling: Sampling) -> dict[str, Any]:
    """The one of `KEYS` that says how clips are taken: ``{"frame_stride": 2}``."""
    if sampling.sampling == "whole":
        return {"sampling": "whole"}
    return {name: value for name in SPACINGS if (value := getattr(sampling, name))}


def word(sampling: Sampling) -> str:
    """``data.frame_stride=2``."""
    return " ".join(f"data.{name}={in_words(value)}" for name, value in _spacing(sampling).items())


def _pixels(chosen: dict[str, Any], data: "VideoDataModule", weights: Weights) -> tuple[Any, ...]:
    """The processor, and what of it is the weights' own in words if anything is."""
    theirs = processor_of(weights)
    if theirs is None:
        return (data.processor,)
    theirs = with_crop(theirs, data.processor.crop_size)
    settings = theirs.settings()
    is_set = {name: value for name, value in chosen.items() if value is not None}
    mine = Processor(**settings | is_set)
    if differences := mine.differences(settings):
        words = (
            f"processor.{name}={in_words(settings[name])}"
            for name, value in mine.settings().items()
            if value != settings[name]
        )
        rank_zero_warn(
            "the pretrained weights were trained with another image processor: "
            f"{'; '.join(differences)}. As they were trained: {' '.join(words)}"
        )
    return (mine, f"processor {mine.extra_repr()}") if is_set.keys() < settings.keys() else (mine,)


def _warn_of_rates(data: "VideoDataModule", sampling: Sampling) -> None:
    """Names videos whose motion looks faster or slower than that of most."""
    if not sampling.frame_stride:
        return
    told = [other_rates(data.train_rates, data.video_rate, sampling, "training videos")]
    if "val" in data.records:
        val = data.records["val"]
        told.append(compare_rates(val, data.video_rate, sampling, "validation videos"))
    for line in filter(None, told):
        rank_zero_warn(f"{line}. `vivit check` looks at all of them")
