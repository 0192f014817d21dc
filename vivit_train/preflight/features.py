"""What the pretrained model sees in some of the videos, before anything is trained."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vivit_train.data.batch import DecodedBatch
from vivit_train.data.datamodule import VideoDataModule
from vivit_train.data.dataset import EvalDataset
from vivit_train.model.arguments import arguments_in
from vivit_train.model.vivit import ViViT, pool
from vivit_train.model.weights import FromImage, load_weights, read_weights
from vivit_train.video.sampling import Sampling

MOST_VIDEOS = 256  # of a split, that are looked at
BATCH_SIZE = 8
# Frames, height and width of the small grey clips by which copies are found.
PICTURE = (4, 16, 16)


@dataclass(frozen=True)
class Features:
    """Some videos of a split as a model sees them: of each the clip in its middle.

    Attributes:
        rows: int64 ``[N]``, of the split's records.
        labels: int64 ``[N]``.
        values: float32 ``[N, D]``: see `see`.
        mirrored: float32 ``[N, D]``: the same of the clips flipped from left to right; ``[N, 0]``
            where that was not asked for.
        pictures: float32 ``[N, 1024]``: the clips, small and grey.
        wanted: Videos that were to be looked at; N is less where the time was up or a video could
            not be decoded.
    """

    rows: Tensor
    labels: Tensor
    values: Tensor
    mirrored: Tensor
    pictures: Tensor
    wanted: int


def pretrained_model(config: dict[str, Any]) -> ViViT:
    """The model that training starts from, on the device of the run; its head is not used.

    Without `model.pretrained` its weights are random, the same every time. Draws nothing from the
    global generators.

    Raises:
        UserError: If the weights do not fit.
    """
    settings = config["model"]
    with torch.random.fork_rng():
        torch.manual_seed(config["seed"])
        model = ViViT(**arguments_in(settings), num_classes=1)
    if settings["pretrained"] is not None:
        weights = read_weights(settings["pretrained"])
        load_weights(model, weights, ["none of the weights'"], FromImage(**settings["from_image"]))
    return on_device(model, config)


def on_device(model: ViViT, config: dict[str, Any]) -> ViViT:
    """A model in evaluation mode on the device of the run."""
    on_gpu = config["trainer"]["accelerator"] != "cpu" and torch.cuda.is_available()
    return model.eval().to("cuda" if on_gpu else "cpu")


@torch.no_grad()
def see(model: ViViT, clips: Tensor) -> Tensor:
    """Features of clips: what the head would read, and how the tokens change over time.

    Args:
        model: In evaluation mode.
        clips: float ``[B, 3, T, H, W]`` on its device.

    Returns:
        float32 ``[B, (1 + t) * D]`` on the CPU: the pooled features, then for each of the t steps
        of the token grid the mean over its tokens.
    """
    with torch.autocast("cuda", torch.bfloat16, enabled=clips.is_cuda):
        tokens = model.features(clips)  # [B, N or 1 + N, D]
    steps = model.embed.grid(*clips.shape[2:])[0]
    has_cls = tokens.shape[1] % steps == 1  # Model 2 without a temporal encoder has none
    over_time = tokens[:, int(has_cls) :].unflatten(1, (steps, -1)).mean(dim=2)  # [B, t, D]
    pooled = pool(tokens, "cls" if has_cls else "mean")  # [B, D]
    return torch.cat([pooled[:, None], over_time], dim=1).flatten(1).float().cpu()


def features_of(
    model: ViViT,
    data: VideoDataModule,
    role: str,
    seconds: float,
    sampling: Sampling | None = None,
    mirror: bool = True,
) -> Features | None:
    """Looks at up to `MOST_VIDEOS` of a split, about as many of each class, until time is up.

    Args:
        model: As `pretrained_model` gives it.
        data: Set up for ``fit``; its processor is used.
        role: ``train`` or ``val``.
        seconds: After which no further batch is begun.
        sampling: How clips are taken; ``None``: the data's own.
        mirror: Whether to look at flipped clips too, which takes twice as long.

    Returns:
        ``None`` where videos have several classes each, of several heads or multi-label, or none
        could be decoded.
    """
    records = data.records[role]
    if records.labels.ndim > 1:
        return None
    rows = spread(records.labels, MOST_VIDEOS, data.seed)
    dataset = EvalDataset(records, sampling or data.sampling, 1, data.seed, data.processor)
    seen, start = [], time.monotonic()
    for batch in data.loader(dataset, rows, BATCH_SIZE):
        if batch.decoded.any():
            seen.append(_look(model, data, batch, mirror))
        if time.monotonic() - start > seconds:
            break
    if not seen:
        return None
    found, labels, values, mirrored, pictures = (torch.cat(parts) for parts in zip(*seen))
    return Features(found, labels, values, mirrored, pictures, len(rows))


def _look(
    model: ViViT, data: VideoDataModule, batch: DecodedBatch, mirror: bool
) -> tuple[Tensor, ...]:
    """All but the last attribute of `Features`, of one batch."""
    device, good = model.head.weight.device, batch.decoded
    clips = batch.to(device).processed(data.processor).clips[good.to(device)]
    grey = F.adaptive_avg_pool3d(clips.float().mean(dim=1), PICTURE).flatten(1).cpu()
    values = see(model, clips)
    mirrored = see(model, clips.flip(-1)) if mirror else values[:, :0]
    return batch.indices[good], batch.labels[good], values, mirrored, grey


def spread(labels: np.ndarray, most: int, seed: int) -> list[int]:
    """Rows in an order that takes one of each class in turn, of a class in random order.

    Args:
        labels: int ``[N]``.
        most: Rows to return.
        seed: For the order.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    turn = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return by_class[np.argsort(turn, kind="stable")][:most].tolist()
