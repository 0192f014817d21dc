"""Classifiers: a model with all that it needs to name what a video shows.

Nothing here needs Lightning or Hydra, which only training does.
"""

import dataclasses
import inspect
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vivit_train.errors import UserError
from vivit_train.model.arguments import Arguments
from vivit_train.model.vivit import ViViT
from vivit_train.model.weights import Weights, load_weights, read_weights
from vivit_train.prediction import (
    THRESHOLD,
    Prediction,
    TopK,
    are_several,
    prediction_of,
    videos_in,
)
from vivit_train.transforms.frames import as_tensor
from vivit_train.transforms.processor import Processor
from vivit_train.transforms.shrink import for_evaluation
from vivit_train.video.decode import DecodeError, DecoderLost, VideoReader
from vivit_train.video.guard import CAN_GUARD, DECODE_SECONDS, Failure
from vivit_train.video.pool import guarded_map
from vivit_train.video.sampling import SPACINGS, Array, Sampling

# That decode ahead of the model; each holds a video's views in memory.
MOST_PROCESSES = 8

# Its path, or all of its frames, uint8 [T, H, W, 3].
Video = str | Path | Tensor


class NonFiniteLogits(UserError):
    """Logits of a video that are NaN or infinite, and so name no class.

    Attributes:
        reason: The message without the video's name.
    """

    def __init__(self, video: Video) -> None:
        self.reason = (
            "the logits are NaN or infinite, so no class is named: the weights diverged in "
            "training, or numbers overflow in the model's precision"
        )
        name = "the frames" if isinstance(video, Tensor) else video
        super().__init__(f"{name}: {self.reason}")


# Logits of a video, float [K] on the CPU, or why there are none.
Result = Tensor | DecodeError | NonFiniteLogits


class Classifier(nn.Module):
    """A model with all that it needs to name what a video shows.

    Attributes:
        model: The bare `ViViT`: float ``[B, 3, T, H, W]`` -> ``[B, K]``.
        processor: The image processor that the model was trained with.
        class_names: K names in the order of the logits.
        config: The configuration of the run that trained it; ``None`` for foreign weights.
        sampling: How clips are taken from a video.
        tells_sampling: Whether the checkpoint says how far apart their frames are; else it is two
            frames of the video, as of the published ViViTs.
        video_rate: Frames per second of the videos that it was trained on, the median; ``None``:
            unknown.
        eval_views: (temporal, spatial) views per video.
        tells_eval_views: Whether the checkpoint says so; else they are (4, 3), as in the paper.
        heads: Name and number of classes of each head, side by side in the logits, where a video
            has several classes (EPIC-Kitchens: nouns, verbs); empty for one head.
        multi_label: Whether a video has any number of the classes: of each the logit's sigmoid.
        lora: LoRA's matrices by name, which are in the model's weights already; empty without.
    """

    def __init__(
        self,
        model: ViViT,
        processor: Processor,
        class_names: list[str],
        config: dict[str, Any] | None = None,
        sampling: Sampling | None = None,
        eval_views: tuple[int, int] | None = None,
        heads: dict[str, int] | None = None,
        tells_sampling: bool = True,
        video_rate: float | None = None,
        multi_label: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        self.class_names = class_names
        self.config = config
        self.sampling = sampling or Sampling(model.arguments.num_frames)
        self.tells_sampling = tells_sampling and sampling is not None
        self.video_rate = video_rate
        self.eval_views = eval_views or (4, 3)
        self.tells_eval_views = eval_views is not None
        self.heads = heads or {}
        self.multi_label = multi_label
        self.lora: dict[str, Tensor] = {}

    def forward(self, frames: Tensor | np.ndarray | Sequence[Any]) -> Tensor:
        """Class logits of clips as decoded.

        Args:
            frames: uint8 ``[T, H, W, 3]`` or ``[B, T, H, W, 3]``, RGB: a tensor, a NumPy array or
                a list of frames. It is moved to the model's device.

        Returns:
            ``[B, K]`` (B = 1 for a single clip), of the model's type: float32, or bfloat16 after
            ``classifier.bfloat16()``.

        Raises:
            UserError: If it is something else.
        """
        frames = as_tensor(frames)
        return self._logits(frames.unsqueeze(0) if frames.ndim == 4 else frames)

    def _logits(self, clips: Tensor, spatial_views: int = 1) -> Tensor:
        """uint8 ``[B, T, H, W, 3]`` -> ``[B * spatial_views, K]``."""
        weight = self.model.head.weight
        return self.model(self.processor(clips.to(weight.device), spatial_views).to(weight.dtype))

    def predict(
        self,
        video: Any,
        top_k: TopK = "auto",
        views: tuple[int, int] | None = None,
        threshold: float = THRESHOLD,
    ) -> Prediction | list[Prediction]:
        """Names what videos show, with probabilities.

        Frames are taken from a video as in the model's training and test, in evaluation mode and
        without gradients. Files are decoded as by `classify`, several at a time.

        Args:
            video: The path of a video; a tensor or an array of its frames, uint8 ``[T, H, W, 3]``
                RGB, all of them in order as a file has them (for a clip that is sampled already
                call the classifier itself); or several videos: the path of a folder, which is
                searched with all below it, ``[B, T, H, W, 3]``, or a list of any of these.
                Where clips are taken by time, frames are assumed to be ``video_rate`` per second.
            top_k: How many classes to give; ``None``: all; ``auto``: 5, of a multi-label model
                all.
            views: (temporal, spatial) views to average; ``None``: as the model was tested.
            threshold: From 0 to 1, the probability from which on a class of a multi-label model is
                one of `Prediction.labels`.

        Returns:
            A prediction; for several videos a list in their order, where one that cannot be
            decoded, or has logits that are not finite, has `Prediction.error`.

        Raises:
            UserError: If it is none of these, or a folder holds no video.
            DecodeError: If the only video cannot be decoded.
            NonFiniteLogits: If the logits of the only video say nothing.
        """
        if isinstance(top_k, int) and top_k < 1:
            raise UserError(f"top_k must be 1 or more, or None for all classes, got {top_k}")
        if not 0 <= threshold <= 1:
            raise UserError(f"threshold must be from 0 to 1, got {threshold}")
        videos = videos_in(video)
        if are_several(video):
            return list(self.predictions(videos, top_k, views, threshold))
        return self._named(videos[0], self.classify(videos[0], views), top_k, threshold)

    def predictions(
        self,
        videos: Sequence[Video],
        top_k: TopK = "auto",
        views: tuple[int, int] | None = None,
        threshold: float = THRESHOLD,
    ) -> Iterator[Prediction]:
        """Predicts videos as `predict` does, and gives each in its turn when it is known.

        Args:
            videos: Paths, and frames uint8 ``[T, H, W, 3]``.
            top_k: As for `predict`.
            views: As for `predict`.
            threshold: As for `predict`.

        Yields:
            A prediction or error of each video, in their order.
        """
        early: dict[int, Prediction] = {}
        place = 0
        for index, logits in self._classified(videos, views):
            early[index] = self._named(videos[index], logits, top_k, threshold)
            while place in early:
                yield early.pop(place)
                place += 1

    def classify(
        self,
        video: Video,
        views: tuple[int, int] | None = None,
        timeout: float | None = DECODE_SECONDS,
    ) -> Tensor:
        """Logits of a video, averaged over views that are spread over it.

        A file is decoded in a process of its own (on Linux), whose memory is limited.

        Args:
            video: The path of a file, or all frames, uint8 ``[T, H, W, 3]``.
            views: (temporal, spatial) views; ``None``: as the model was tested.
            timeout: Seconds that decoding may take from one frame to the next; ``None``: no
                limit, and no other process.

        Returns:
            Float ``[K]`` on the CPU.

        Raises:
            DecodeError: If the file cannot be decoded.
            NonFiniteLogits: If they say nothing.
        """
        ((_, result),) = self._classified([video], views, timeout)
        if isinstance(result, Exception):
            raise result
        return result

    def _named(self, video: Video, result: Result, top_k: TopK, threshold: float) -> Prediction:
        path = None if isinstance(video, Tensor) else str(video)
        if isinstance(result, Exception):
            return Prediction(path, error=result.reason)
        least = threshold if self.multi_label else None
        return prediction_of(path, result, self.class_names, self.heads, top_k, least)

    @torch.no_grad()
    def _classified(
        self,
        videos: Sequence[Video],
        views: tuple[int, int] | None,
        timeout: float | None = DECODE_SECONDS,
    ) -> Iterator[tuple[int, Result]]:
        """Logits of videos, or why there are none; each with its place, as they are decoded."""
        temporal, spatial = views or self.eval_views
        trains = self.training
        self.eval()
        try:
            for index, clips in self._clips(videos, temporal, timeout):
                if isinstance(clips, DecodeError):
                    yield index, clips
                    continue
                # One temporal view at a time: the memory of a clip or three, however many views.
                logits = torch.cat([self._logits(clip[None], spatial) for clip in clips]).float()
                if logits.isfinite().all():
                    yield index, logits.mean(dim=0).cpu()
                else:
                    yield index, NonFiniteLogits(videos[index])
        finally:
            self.train(trains)

    def _clips(
        self, videos: Sequence[Video], num_views: int, timeout: float | None
    ) -> Iterator[tuple[int, Tensor | DecodeError]]:
        """Temporal views of videos, uint8 ``[V, T, H, W, 3]``, or errors; each with its place."""
        paths = {}
        for index, video in enumerate(videos):
            if isinstance(video, Tensor):
                yield index, video[self._windows(len(video), num_views)]  # [V, T, H, W, 3]
            else:
                paths[index] = video
        if timeout is None or not CAN_GUARD:
            for index, path in paths.items():
                yield index, self._decode(path, num_views)
            return
        processes = min(len(paths), MOST_PROCESSES, len(os.sched_getaffinity(0)))

        def decode(index: int) -> Tensor | DecodeError:
            return self._decode(paths[index], num_views)

        for index, clips in guarded_map(decode, paths, processes, timeout):
            if isinstance(clips, Failure):
                clips = DecoderLost(str(paths[index]), clips.reason)
            yield index, clips

    def _decode(self, path: str | Path, num_views: int) -> Tensor | DecodeError:
        """Temporal views of a video: uint8 ``[V, T, H, W, 3]``."""
        try:
            # Of a folder of pictures, as of frames without a file, the rate is that of training.
            with VideoReader(path, picture_rate=self.video_rate) as video:
                windows = self.sampling.spread(video, num_views)
                shrink = for_evaluation(self.processor)  # a minute of 4K would fill the memory
                frames = torch.from_numpy(video.read(windows.ravel(), shrink))  # [V*T, H, W, 3]
        except DecodeError as error:
            return error
        return frames.unflatten(0, windows.shape)

    def _windows(self, num_frames: int, num_views: int) -> np.ndarray:
        """Frame numbers of frames without a file: they are as many per second as in training."""
        if self.sampling.rate and not self.video_rate:
            raise UserError(
                f"this model takes {self.sampling}, and frames without a file do not say how many "
                "there are per second: give a file, or set classifier.video_rate"
            )
        shown_at = np.arange(num_frames + 1) / (self.video_rate or 1)
        return self.sampling.spread(Array(num_frames, shown_at), num_views)


def load_classifier(source: str | Path, **model: Any) -> Classifier:
    """See `vivit_train.load`."""
    weights = read_weights(source)
    known = [field.name for field in dataclasses.fields(Arguments)]
    if unknown := sorted(model.keys() - set(known)):
        raise UserError(
            f"load() takes arguments of ViViT, and {', '.join(unknown)} is not one. They are "
            f"{', '.join(known)}"
        )
    arguments = {**weights.model, **model}
    if weights.is_image:
        raise UserError(
            f"{weights.origin} classifies images; a video model starts from it with "
            f"`python train.py model=... model.pretrained={source}`"
        )
    needed = ["attention", "image_size", "num_frames", "num_heads"]
    if arguments.get("attention") == "factorised_self_attention":
        needed.insert(1, "attention_order")
    untold = [name for name in needed if name not in arguments]
    if untold:
        raise UserError(
            f"{weights.origin} does not contain {', '.join(untold)}: give it yourself, "
            f"load({str(source)!r}, {', '.join(f'{name}=...' for name in untold)})"
        )
    if "head.weight" not in weights.state:
        raise UserError(f"{weights.origin} has no head: it gives features, not classes")
    arguments.setdefault("num_classes", len(weights.state["head.weight"]))
    network = ViViT(**arguments)
    # Values from the file stay as they are: another image_size then interpolates the positions.
    load_weights(network, dataclasses.replace(weights, model={**model, **weights.model}))
    class_names = weights.class_names or [f"class {i}" for i in range(network.num_classes)]
    processor = processor_of(weights) or Processor(crop_size=network.arguments.image_size)
    if "image_size" in model:
        processor = with_crop(processor, network.arguments.image_size)
    told = weights.sampling
    clip_frames = model.get("num_frames", told.get("clip_frames", network.arguments.num_frames))
    sampling = sampling_of(told, clip_frames)
    classifier = Classifier(
        network,
        processor,
        class_names,
        config=weights.config,
        sampling=sampling or Sampling(clip_frames),
        eval_views=tuple(told["eval_views"]) if "eval_views" in told else None,
        heads=weights.heads,
        tells_sampling=sampling is not None,
        video_rate=told.get("video_rate"),
        multi_label=weights.multi_label,
    )
    classifier.lora = weights.lora
    return classifier.eval()


def sampling_of(told: dict[str, Any], clip_frames: int) -> Sampling | None:
    """How clips were taken, as the weights say; ``None`` where they do not give a spacing.

    Args:
        told: See `Weights.sampling`.
        clip_frames: Frames per clip, whatever the weights say.
    """
    keys = (*SPACINGS, "sampling")
    spacing = {key: told[key] for key in keys if told.get(key) not in (None, "window")}
    return Sampling(clip_frames, **spacing) if spacing else None


def processor_of(weights: Weights) -> Processor | None:
    """The image processor that weights were trained with; ``None`` where they do not say.

    Raises:
        UserError: If their settings are none that a processor has.
    """
    if weights.processor is None:
        return None
    try:
        if weights.format == "huggingface":
            return Processor.from_huggingface(weights.processor)
        known = inspect.signature(Processor).parameters
        if unknown := sorted(weights.processor.keys() - known.keys()):
            raise UserError(f"unknown settings of the processor: {', '.join(unknown)}")
        return Processor(**weights.processor)
    except UserError as error:
        raise UserError(f"{weights.origin}: {error}") from None


def with_crop(processor: Processor, crop_size: int | Sequence[int]) -> Processor:
    """The same processor for clips of another size: what it resizes to grows with the crop."""
    crop, before = Processor(crop_size=crop_size).crop_size, processor.settings()
    scale = min(crop) / min(before["crop_size"])
    size = before["size"]
    size = round(scale * size) if isinstance(size, int) else [round(scale * s) for s in size]
    return Processor(**before | {"crop_size": crop, "size": size})
