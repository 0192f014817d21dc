"""From tokens back to the pixels of a video: which token saw a pixel, and pictures of it."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vivit_train.io.terminal import printable
from vivit_train.model.embedding import TubeletEmbedding, uniform_frames
from vivit_train.transforms.processor import Processor

MOST_COLUMNS, PANEL_HEIGHT, GAP, FONT_SIZE = 8, 144, 2, 13  # pixels but for the first
BACKGROUND = 0.45  # brightness of the grey frame below the heat
UNSEEN = 0.15  # and where the model saw nothing


def on_frames(
    heat: np.ndarray,
    embed: TubeletEmbedding,
    processor: Processor,
    size: tuple[int, int, int],
) -> np.ndarray:
    """The heat of each pixel: that of the token whose tubelet holds it, nothing smoothed.

    Args:
        heat: Of the tokens, float ``[t, h, w]``.
        embed: Cuts the model's clips into tubelets.
        processor: Resized and cropped the frames (the centre crop).
        size: Frames, height and width (T, H, W) of the clip before that, in pixels.

    Returns:
        Float ``[T, H, W]``, NaN where the model saw nothing: outside the crop, or in frames that
        uniform frame sampling leaves out.
    """
    num_frames, height, width = size
    pt, ph, pw = embed.tubelet_size
    resized = processor.resized_size(height, width)
    (top, left) = processor.corners(*resized)[0]
    if embed.sampled_frames is None:
        times = np.arange(num_frames) // pt
    else:
        times = np.full(num_frames, -1)
        taken = uniform_frames(num_frames, embed.sampled_frames)
        times[taken] = np.arange(len(taken))
    rows = _tokens(height, resized[0], top, ph)
    columns = _tokens(width, resized[1], left, pw)
    # A last line of NaN on each axis is what an index outside means.
    padded = np.pad(heat.astype(np.float32), (0, 1), constant_values=np.nan)
    inside = [
        np.where((tokens >= 0) & (tokens < count), tokens, count)
        for tokens, count in zip((times, rows, columns), heat.shape)
    ]
    return padded[np.ix_(*inside)]  # [T, H, W]


def _tokens(length: int, resized: int, start: int, patch: int) -> np.ndarray:
    """The token, by its number along an axis, that holds each pixel's centre: int ``[length]``."""
    centres = (np.arange(length) + 0.5) * resized / length - start
    return np.floor(centres / patch).astype(int)


def overlay(frames: np.ndarray, heat: np.ndarray, even: float) -> np.ndarray:
    """Grey frames with the heat over them, from black through red to white.

    A token with its even share or less has no colour; white is the hottest, or twice the even
    share if that is more: heat that is nearly even shows nearly nothing. Between them colour goes
    by the square root, as few tokens often have most of the heat.

    Args:
        frames: uint8 ``[T, H, W, 3]``.
        heat: Float ``[T, H, W]``; NaN: unseen, and dark.
        even: The heat of a token if all had the same.

    Returns:
        uint8 ``[T, H, W, 3]``.
    """
    excess = np.clip(np.nan_to_num(heat, nan=0.0) / even - 1, 0, None)
    scale = max(1.0, float(excess.max()))
    laid = np.empty_like(frames)
    for frame, seen, level, out in zip(frames, ~np.isnan(heat), np.sqrt(excess / scale), laid):
        grey = frame.mean(axis=-1) * np.where(seen, BACKGROUND, UNSEEN)  # [H, W]
        colour = np.clip(3 * level[..., None] - np.arange(3), 0, 1) * 255  # [H, W, 3]
        # Some grey stays under the hottest, so that its content can be seen.
        alpha = level[..., None] * 0.75
        out[:] = np.rint((1 - alpha) * grey[..., None] + alpha * colour)
    return laid


def strip(frames: np.ndarray, laid: np.ndarray, lines: Sequence[str]) -> Image.Image:
    """One picture: lines of text, some frames side by side, and below them the same with heat.

    Args:
        frames: uint8 ``[T, H, W, 3]``.
        laid: The same with heat.
        lines: What to write above; what is not printable is escaped.
    """
    num_frames, height, width = frames.shape[:3]
    columns = np.linspace(0, num_frames - 1, min(num_frames, MOST_COLUMNS)).round().astype(int)
    size = (max(1, round(width * PANEL_HEIGHT / height)), PANEL_HEIGHT)
    top = 8 + len(lines) * (FONT_SIZE + 5)
    step = (size[0] + GAP, size[1] + GAP)
    picture = Image.new("RGB", (step[0] * len(columns), top + 2 * step[1]))
    text = "\n".join(printable(line) for line in lines)
    font = ImageFont.load_default(FONT_SIZE)
    ImageDraw.Draw(picture).multiline_text((6, 4), text, fill="white", font=font)
    for row, images in enumerate((frames, laid)):
        for place, index in enumerate(columns):
            panel = Image.fromarray(images[index]).resize(size)
            picture.paste(panel, (place * step[0], top + row * step[1]))
    return picture
