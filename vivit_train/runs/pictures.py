"""Pictures of what the model sees, and where they go beside the numbers of a run."""

import textwrap
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vivit_train.data.batch import ClipBatch
from vivit_train.data.datamodule import VideoDataModule
from vivit_train.io.terminal import printable
from vivit_train.runs.loggers import Wandb
from vivit_train.transforms.processor import Processor

MAX_COLUMNS = 8
PANEL_WIDTH, FONT_SIZE = 256, 13


def log_picture(loggers: Iterable[Logger], name: str, picture: np.ndarray, step: int) -> None:
    """Gives a picture to TensorBoard and Weights & Biases, where they are used.

    Args:
        loggers: Of the run.
        name: ``pictures/...``.
        picture: uint8 ``[H, W, 3]``.
        step: Of the training.
    """
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, picture, step, dataformats="HWC")
            logger.experiment.flush()
        elif isinstance(logger, Wandb):
            logger.attempt(logger.log_image, name, [picture])


def takes_pictures(loggers: Iterable[Logger]) -> bool:
    """Whether one of them shows pictures."""
    return any(isinstance(logger, TensorBoardLogger | Wandb) for logger in loggers)


def picture_of(clips: np.ndarray, labels: Sequence[list[str]]) -> np.ndarray:
    """Clips below each other, a few frames of each, and beside them lines of text.

    Args:
        clips: uint8 ``[B, T, h, w, 3]``.
        labels: The lines of each clip.

    Returns:
        uint8 ``[B * h, W, 3]``.
    """
    panels = np.stack([panel(lines, clips.shape[2]) for lines in labels])  # [B, h, width, 3]
    num_frames = clips.shape[1]
    columns = np.linspace(0, num_frames - 1, min(num_frames, MAX_COLUMNS)).round().astype(int)
    parts = [*clips[:, columns].swapaxes(0, 1), panels]  # each [B, h, w, 3]
    picture: np.ndarray = np.concatenate(np.concatenate(parts, axis=2), axis=0)
    return picture


def describe_labels(batch: ClipBatch, row: int, data: VideoDataModule) -> list[str]:
    """The classes of one clip by name, with their shares where they are mixed.

    Args:
        batch: Has the clip.
        row: Its place there.
        data: Knows the names.

    Returns:
        A line for each class: ``name``, or ``name 70%``, the largest share of each head first.
        ``(no class)`` where it has none.
    """
    names = data.class_names
    if data.multi_label:
        values = batch.targets[row].float().cpu()
        order = values.argsort(descending=True, stable=True).tolist()
        shown = [(names[k], float(values[k])) for k in order if values[k] > 0]
        lines = [name if value == 1 else f"{name} {value:.0%}" for name, value in shown]
        return lines or ["(no class)"]
    sizes = list(data.heads.values()) or [len(names)]
    starts = np.cumsum([0, *sizes])
    if batch.shares is None:
        labels = batch.labels[row].view(-1).tolist()  # one per head
        return [names[int(start) + label] for start, label in zip(starts, labels)]
    lines = []
    for start, shares in zip(starts, batch.shares[row].float().cpu().split(sizes)):
        for place in shares.argsort(descending=True, stable=True).tolist():
            if shares[place] > 0:
                share = "" if shares[place] == 1 else f" {float(shares[place]):.0%}"
                lines.append(names[int(start) + place] + share)
    return lines


def to_pixels(clips: Tensor, processor: Processor) -> np.ndarray:
    """Undoes the processor's scaling.

    Args:
        clips: Float ``[B, 3, T, h, w]`` in ``processor.value_range``.
        processor: The one that made them.

    Returns:
        uint8 ``[B, T, h, w, 3]``.
    """
    pixels = clips.float().cpu()
    shifts, scales = torch.tensor(processor.affine()).view(3, 2, 1, 1, 1).unbind(1)
    pixels = (pixels * scales + shifts).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 4, 1).numpy()


def panel(lines: list[str], height: int) -> np.ndarray:
    """Lines of text on black, long ones wrapped: uint8 ``[height, PANEL_WIDTH, 3]``."""
    image = Image.new("RGB", (PANEL_WIDTH, height))
    characters = PANEL_WIDTH // (FONT_SIZE // 2) - 6
    text = "\n".join(textwrap.fill(printable(line), characters) for line in lines)
    font = ImageFont.load_default(FONT_SIZE)
    ImageDraw.Draw(image).multiline_text((8, 4), text, fill="white", font=font)
    return np.array(image)
