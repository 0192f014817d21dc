"""What a video shows: its most probable classes, by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from vivit_train.data.class_folders import scan_videos
from vivit_train.errors import UserError
from vivit_train.io.files import user_path
from vivit_train.transforms.frames import as_tensor, check_frames
from vivit_train.video.decoders.pictures import holds_pictures

# A name and its probability, a fraction.
Guess = tuple[str, float]
# How many classes to give; None: all.
TopK = int | None | Literal["auto"]
# The probability from which on a class of a multi-label model is a label.
THRESHOLD = 0.5


@dataclass(frozen=True)
class Prediction:
    """What a video shows.

    Attributes:
        video: Its path; ``None`` of an array.
        classes: The most probable classes, the best first. Of a model with several heads the
            actions, one class of each head. Of a multi-label model each class has a probability
            of its own, and these do not add up to 1.
        labels: Of a multi-label model the classes whose probability is the threshold or more, the
            best first, which may be none; ``None`` of others.
        heads: Of a model with several heads (EPIC-Kitchens) the best classes of each, e.g. of
            ``nouns`` and ``verbs``; empty for one head.
        error: Why there is none, where the video cannot be decoded; ``classes`` is then empty.
    """

    video: str | None
    classes: list[Guess] = field(default_factory=list)
    heads: dict[str, list[Guess]] = field(default_factory=dict)
    error: str | None = None
    labels: list[str] | None = None

    @property
    def name(self) -> str:
        """The most probable class.

        Raises:
            UserError: If there is an error instead.
        """
        return self._best()[0]

    @property
    def probability(self) -> float:
        """That of the most probable class, a fraction.

        Raises:
            UserError: If there is an error instead.
        """
        return self._best()[1]

    def _best(self) -> Guess:
        if self.error is not None:
            raise UserError(f"{self.video}: {self.error}")
        return self.classes[0]


def prediction_of(
    video: str | None,
    logits: Tensor,
    class_names: Sequence[str],
    heads: Mapping[str, int],
    top_k: TopK,
    threshold: float | None = None,
) -> Prediction:
    """The prediction that logits mean.

    Args:
        video: Its path.
        logits: Float ``[K]``, of several heads side by side.
        class_names: K names; of several heads such as ``noun: tap``.
        heads: Name and number of classes of each head; empty: one head.
        top_k: How many classes to give; ``None``: all; ``auto``: 5, of a multi-label model all.
        threshold: Of a multi-label model the probability from which on a class is a label;
            ``None``: the model is another one.
    """
    if threshold is not None:
        every = best(logits, class_names, None, multi_label=True)
        shown = every if top_k == "auto" else every[:top_k]
        labels = [name for name, probability in every if probability >= threshold]
        return Prediction(video, shown, labels=labels)
    top_k = 5 if top_k == "auto" else top_k
    if not heads:
        return Prediction(video, best(logits, class_names, top_k))
    from vivit_train.metrics import joint_logits  # torchmetrics, which takes seconds to import

    sizes = list(heads.values())
    ends = np.cumsum(sizes).tolist()
    names = [class_names[end - size : end] for end, size in zip(ends, sizes)]
    actions = [
        (", ".join(of[int(k)] for of, k in zip(names, np.unravel_index(index, sizes))), probability)
        for index, probability in _top(joint_logits(logits[None], heads)[0], top_k)
    ]
    parts = zip(heads, logits.split(sizes), names)
    of_heads = {f"{head}s": best(part, of, top_k) for head, part, of in parts}
    return Prediction(video, actions, of_heads)


def best(
    logits: Tensor, names: Sequence[str], top_k: int | None, multi_label: bool = False
) -> list[Guess]:
    """The most probable of K classes: float ``[K]`` and K names."""
    top = _top(logits, top_k, multi_label)
    return [(names[index], probability) for index, probability in top]


def _top(logits: Tensor, top_k: int | None, multi_label: bool = False) -> list[tuple[int, float]]:
    """Places and probabilities of the highest logits of float ``[K]``, the highest first."""
    number = len(logits) if top_k is None else min(top_k, len(logits))
    top = (logits.sigmoid() if multi_label else logits.softmax(dim=0)).topk(number)
    return list(zip(top.indices.tolist(), top.values.tolist()))


def videos_in(source: Any) -> list[str | Tensor]:
    """The videos that a user means, in order; a folder's sorted by name.

    Args:
        source: The path of a video (a file, or a folder of its frames as pictures) or of a folder
            of videos, a tensor or an array uint8 ``[T, H, W, 3]`` or
            ``[B, T, H, W, 3]``, or a list of any of these.

    Returns:
        Paths, and uint8 ``[T, H, W, 3]``.

    Raises:
        UserError: If it is something else, or a folder holds no video.
    """
    if isinstance(source, list | tuple):
        return [video for part in source for video in videos_in(part)]
    if isinstance(source, str | Path):
        path = user_path(source)
        return list(scan_videos(path)) if are_several(path) else [str(path)]
    if not isinstance(source, Tensor | np.ndarray):
        raise UserError(
            "a video is the path of a file or a folder, or a tensor or an array uint8 "
            f"[T, H, W, 3], not {type(source).__name__}"
        )
    frames = as_tensor(source)
    videos = list(frames) if frames.ndim == 5 else [frames]
    for video in videos:
        check_frames(video, "[T, H, W, 3]")
    return list(videos)


def are_several(source: Any) -> bool:
    """Whether such a source stands for a number of videos, be it one or none."""
    if isinstance(source, str | Path):
        path = user_path(source)
        return path.is_dir() and not holds_pictures(path)
    return isinstance(source, list | tuple) or source.ndim == 5
