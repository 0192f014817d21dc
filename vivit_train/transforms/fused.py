"""The training transforms of a batch in two CUDA kernels, written in Triton.

Operator by operator the transforms of 16 clips are over a thousand launches, each of which reads
and writes all pixels. Here the first kernel resizes what is kept of each clip, whatever its size,
and the second does the colours, erases and scales. Results are those of `resize`, `recolor` and
`Processor.to_float`, up to rounding; the tests compare them.

Imported on CUDA only: importing Triton takes a second.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from vivit_train.transforms.colors import Colors
from vivit_train.transforms.plan import Plan
from vivit_train.transforms.processor import Processor
from vivit_train.transforms.rand_augment import RandAugment

BLOCK = 1024  # pixels of a frame that one program makes


def apply(
    frames: Sequence[Tensor],
    plans: Sequence[Plan],
    processor: Processor,
    rand_augment: RandAugment | None,
) -> Tensor:
    """All that `Augment.clips` does.

    Args:
        frames: B clips, each uint8 ``[T, H, W, 3]``; H and W may differ.
        plans: What becomes of each.
        processor: Gives crop and scaling.
        rand_augment: In place of the colours; ``None``: off.

    Returns:
        float32 ``[B, 3, T, h, w]``.
    """
    crop, kept = processor.output_size, []
    assert crop is not None
    for clip, plan in zip(frames, plans):
        height, width = clip.shape[1:3]
        *box, size = plan.resize or (0, 0, height, width, (height, width))
        kept.append(keep(box, size, plan.corner, crop, plan.flip, processor.resample))
    colors = [plan.colors for plan in plans]
    images, grays = resize(frames, kept, colors)  # uint8 [B, T, h, w, 3]
    if rand_augment is not None:
        images = torch.stack(
            [
                rand_augment(clip.movedim(-1, 1), plan.seed).movedim(1, -1)
                for clip, plan in zip(images, plans)
            ]
        )
    erased = [plan.erased for plan in plans]
    return color_and_scale(images, grays, colors, erased, processor.affine())


class Taps(NamedTuple):
    """What n output rows (or columns) are sums of.

    Attributes:
        starts: int32 ``[n]``, the first input row of each.
        weights: float32 ``[n, K]``, of that row and those after it; zeros at the end.
    """

    starts: np.ndarray
    weights: np.ndarray


class Kept(NamedTuple):
    """What one clip becomes: its output rows and columns, flipped columns in reverse."""

    rows: Taps
    columns: Taps


def taps(length: int, size: int, resample: str) -> Taps:
    """How ``F.interpolate`` with antialiasing resizes ``length`` pixels to ``size``.

    Args:
        length: Pixels along an edge.
        size: The same after the resize.
        resample: "nearest" (at pixel centres), "bilinear" or "bicubic".
    """
    if length == size:
        return Taps(np.arange(size, dtype=np.int32), np.ones((size, 1), np.float32))
    scale = length / size
    centers = scale * (np.arange(size) + 0.5)
    if resample == "nearest":
        return Taps(centers.astype(np.int32), np.ones((size, 1), np.float32))
    shrink = max(scale, 1.0)
    support = shrink * (1 if resample == "bilinear" else 2)
    starts = np.maximum((centers - support + 0.5).astype(np.int64), 0)
    ends = np.minimum((centers + support + 0.5).astype(np.int64), length)
    places = starts[:, None] + np.arange((ends - starts).max())  # [size, K]
    distances = np.abs((places - centers[:, None] + 0.5) / shrink)
    weights = np.maximum(1 - distances, 0) if resample == "bilinear" else _cubic(distances)
    weights *= places < ends[:, None]
    weights /= weights.sum(axis=1, keepdims=True)
    return Taps(starts.astype(np.int32), weights.astype(np.float32))


def _cubic(x: np.ndarray) -> np.ndarray:
    a = -0.5  # Pillow's and antialiasing torch's
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def keep(
    box: Sequence[int],
    size: tuple[int, int],
    corner: tuple[int, int],
    crop: tuple[int, int],
    flip: bool,
    resample: str,
) -> Kept:
    """The taps of a clip's crop.

    Args:
        box: Top, left, height and width of what is resized, in pixels of the frame.
        size: Height and width to which it is resized.
        corner: Top and left of the crop in that.
        crop: Height and width of the crop.
        flip: Whether columns are in reverse.
        resample: As for `taps`.
    """
    cut = []
    for first, length, target, start, count in zip(box[:2], box[2:], size, corner, crop):
        starts, weights = taps(length, target, resample)
        part = slice(start, start + count)
        cut.append(Taps(starts[part] + first, weights[part]))
    rows, columns = cut
    return Kept(rows, Taps(columns.starts[::-1], columns.weights[::-1]) if flip else columns)


def resize(
    clips: Sequence[Tensor], kept: Sequence[Kept], colors: Sequence[Colors]
) -> tuple[Tensor, Tensor]:
    """Resize and crop clips of any sizes.

    Along the rows, then the columns, each rounded to 8 bits, as ``transforms.resize`` does.

    Args:
        clips: B clips, each uint8 ``[T, H, W, 3]``.
        kept: What becomes of each; all of one size.
        colors: Of each; what contrast needs is measured on the way.

    Returns:
        uint8 ``[B, T, h, w, 3]``, and of each of its frames the sums of the grey values in 0..1
        that contrast is relative to, over `BLOCK` pixels each: float32 ``[B, T, blocks]``.
    """
    clips = [clip.contiguous() for clip in clips]
    num_clips, num_frames, device = len(clips), len(clips[0]), clips[0].device
    height, width = len(kept[0].rows.starts), len(kept[0].columns.starts)
    blocks = triton.cdiv(height * width, BLOCK)
    num_taps = max(axis.weights.shape[1] for each in kept for axis in each)
    # Per clip: the address of its pixels, bytes of a frame, bytes of a row.
    places = np.array([(c.data_ptr(), c[0].numel(), c.shape[2] * 3) for c in clips], np.int64)
    starts = np.stack([np.concatenate([axis.starts for axis in each]) for each in kept])
    weights = np.zeros((num_clips, height + width, num_taps), np.float32)
    for table, (rows, columns) in zip(weights, kept):
        table[:height, : rows.weights.shape[1]] = rows.weights
        table[height:, : columns.weights.shape[1]] = columns.weights
    factors = np.array(colors, np.float32)  # [B, 6]
    tables = _to_device([places, starts, weights, factors], device)
    images = torch.empty(
        (num_clips, num_frames, height, width, 3), dtype=torch.uint8, device=device
    )
    grays = torch.empty((num_clips, num_frames, blocks), device=device)
    _resize_kernel[(num_clips * num_frames, blocks)](
        *tables, images, grays, num_frames, height, width, num_taps, BLOCK
    )
    return images, grays


def color_and_scale(
    images: Tensor,
    grays: Tensor,
    colors: Sequence[Colors],
    erased: Sequence[tuple[int, int, int, int]],
    affine: Sequence[tuple[float, float]],
) -> Tensor:
    """Colours, random erasing and scaling, each pixel read and written once.

    Args:
        images: uint8 ``[B, T, h, w, 3]``.
        grays: As `resize` returns them.
        colors: Of each clip.
        erased: Of each clip top, left, height and width of a box that becomes mid-grey; of
            height 0: none.
        affine: Of each channel (shift, scale) of ``(pixel - shift) / scale``.

    Returns:
        float32 ``[B, 3, T, h, w]``.
    """
    num_clips, num_frames, height, width, _ = images.shape
    device = images.device
    table = np.array([(*color, *box) for color, box in zip(colors, erased)], np.float32)  # [B, 10]
    factors, scaling = _to_device([table, np.array(affine, np.float32)], device)
    clips = torch.empty((num_clips, 3, num_frames, height, width), device=device)
    blocks = grays.shape[-1]
    _color_kernel[(num_clips * num_frames, blocks)](
        images, grays, factors, scaling, clips, num_frames, height, width, blocks,
        triton.next_power_of_2(blocks), BLOCK,
    )  # fmt: skip
    return clips


def _to_device(arrays: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """Copies that nobody waits for."""
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    if device.type == "cuda":
        tensors = [tensor.pin_memory() for tensor in tensors]
    return [tensor.to(device, non_blocking=True) for tensor in tensors]


@triton.jit
def _resize_kernel(  # type: ignore[no-untyped-def]
    places, starts, weights, factors, images, grays, num_frames, height, width, num_taps,
    BLOCK: tl.constexpr,
):  # fmt: skip
    frame, block = tl.program_id(0), tl.program_id(1)
    clip = frame // num_frames
    source = tl.load(places + 3 * clip)
    source += tl.load(places + 3 * clip + 1) * (frame % num_frames)
    row_bytes = tl.load(places + 3 * clip + 2)
    pixel = block * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < height * width
    row, column = pixel // width, pixel % width
    row = clip * (height + width) + row  # of the tables, in which rows come before columns
    column = clip * (height + width) + height + column
    first_row = tl.load(starts + row, mask=inside, other=0).to(tl.int64)
    first_column = tl.load(starts + column, mask=inside, other=0).to(tl.int64)
    red = tl.full((BLOCK,), 0.0, tl.float32)
    green = tl.full((BLOCK,), 0.0, tl.float32)
    blue = tl.full((BLOCK,), 0.0, tl.float32)
    for i in range(num_taps):
        of_row = tl.load(weights + row * num_taps + i, mask=inside, other=0.0)
        line = source + (first_row + i) * row_bytes
        r = tl.full((BLOCK,), 0.0, tl.float32)
        g = tl.full((BLOCK,), 0.0, tl.float32)
        b = tl.full((BLOCK,), 0.0, tl.float32)
        for j in range(num_taps):
            of_column = tl.load(weights + column * num_taps + j, mask=inside, other=0.0)
            used = inside & (of_row != 0) & (of_column != 0)
            place = (line + (first_column + j) * 3).to(tl.pointer_type(tl.uint8))
            r += of_column * tl.load(place, mask=used, other=0).to(tl.float32)
            g += of_column * tl.load(place + 1, mask=used, other=0).to(tl.float32)
            b += of_column * tl.load(place + 2, mask=used, other=0).to(tl.float32)
        # Halves up, as in Pillow; bicubic overshoots.
        red += of_row * tl.clamp(tl.floor(r + 0.5), 0.0, 255.0)
        green += of_row * tl.clamp(tl.floor(g + 0.5), 0.0, 255.0)
        blue += of_row * tl.clamp(tl.floor(b + 0.5), 0.0, 255.0)
    red = tl.clamp(tl.floor(red + 0.5), 0.0, 255.0)
    green = tl.clamp(tl.floor(green + 0.5), 0.0, 255.0)
    blue = tl.clamp(tl.floor(blue + 0.5), 0.0, 255.0)
    target = images + (frame.to(tl.int64) * height * width + pixel) * 3
    tl.store(target, red.to(tl.uint8), mask=inside)
    tl.store(target + 1, green.to(tl.uint8), mask=inside)
    tl.store(target + 2, blue.to(tl.uint8), mask=inside)
    red, green, blue = _bright_and_saturated(red, green, blue, factors + 6 * clip)
    gray = tl.where(inside, _gray(red, green, blue), 0.0)
    tl.store(grays + frame * tl.num_programs(1) + block, tl.reduce(gray, 0, _add))


@triton.jit
def _color_kernel(  # type: ignore[no-untyped-def]
    images, grays, factors, scaling, clips, num_frames, height, width, num_blocks,
    BLOCKS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    frame, block = tl.program_id(0), tl.program_id(1)
    clip = frame // num_frames
    factors += 10 * clip
    pixel = block * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < height * width
    source = images + (frame.to(tl.int64) * height * width + pixel) * 3
    red_byte = tl.load(source, mask=inside, other=0).to(tl.float32)
    green_byte = tl.load(source + 1, mask=inside, other=0).to(tl.float32)
    blue_byte = tl.load(source + 2, mask=inside, other=0).to(tl.float32)
    jitter, drops_color = tl.load(factors) != 0, tl.load(factors + 5) != 0

    red, green, blue = _bright_and_saturated(red_byte, green_byte, blue_byte, factors)
    contrast, hue = tl.load(factors + 3), tl.load(factors + 4)
    parts = tl.arange(0, BLOCKS)
    sums = tl.load(grays + frame * num_blocks + parts, mask=parts < num_blocks, other=0.0)
    mean = tl.reduce(sums, 0, _add) / (height * width)
    red = _blend(red, mean, contrast)
    green = _blend(green, mean, contrast)
    blue = _blend(blue, mean, contrast)
    if hue != 0:
        red, green, blue = _rotate_hue(red, green, blue, hue)
    red = tl.where(jitter, red, red_byte / 255)
    green = tl.where(jitter, green, green_byte / 255)
    blue = tl.where(jitter, blue, blue_byte / 255)
    gray = _gray(red, green, blue)
    red = tl.where(drops_color, gray, red) * 255
    green = tl.where(drops_color, gray, green) * 255
    blue = tl.where(drops_color, gray, blue) * 255
    recolored = jitter | drops_color
    red = tl.where(recolored, red, red_byte)
    green = tl.where(recolored, green, green_byte)
    blue = tl.where(recolored, blue, blue_byte)

    row, column = (pixel // width).to(tl.float32), (pixel % width).to(tl.float32)
    top, left = tl.load(factors + 6), tl.load(factors + 7)
    erased = (row >= top) & (row < top + tl.load(factors + 8))
    erased = erased & (column >= left) & (column < left + tl.load(factors + 9))
    mid_gray = tl.where(recolored, 127.5, 127.0)  # the same as a byte
    red = tl.where(erased, mid_gray, red)
    green = tl.where(erased, mid_gray, green)
    blue = tl.where(erased, mid_gray, blue)

    # [B, 3, T, h, w]: the frames of a channel are side by side.
    channel = clip.to(tl.int64) * 0 + height * width * num_frames
    target = clips + 3 * clip * channel + (frame % num_frames) * height * width + pixel
    red = (red - tl.load(scaling)) / tl.load(scaling + 1)
    green = (green - tl.load(scaling + 2)) / tl.load(scaling + 3)
    blue = (blue - tl.load(scaling + 4)) / tl.load(scaling + 5)
    tl.store(target, red, mask=inside)
    tl.store(target + channel, green, mask=inside)
    tl.store(target + 2 * channel, blue, mask=inside)


@triton.jit
def _bright_and_saturated(red, green, blue, factors):  # type: ignore[no-untyped-def]
    """Bytes to 0..1, with the first two changes."""
    brightness, saturation = tl.load(factors + 1), tl.load(factors + 2)
    red = tl.clamp(red / 255 + brightness, 0.0, 1.0)
    green = tl.clamp(green / 255 + brightness, 0.0, 1.0)
    blue = tl.clamp(blue / 255 + brightness, 0.0, 1.0)
    gray = _gray(red, green, blue)
    return (
        _blend(red, gray, saturation), _blend(green, gray, saturation),
        _blend(blue, gray, saturation),
    )  # fmt: skip


@triton.jit
def _add(a, b):  # type: ignore[no-untyped-def]
    return a + b


@triton.jit
def _gray(red, green, blue):  # type: ignore[no-untyped-def]
    # torchvision's weights.
    return 0.2989 * red + 0.587 * green + 0.114 * blue


@triton.jit
def _blend(value, other, factor):  # type: ignore[no-untyped-def]
    return tl.clamp(value * factor + other * (1 - factor), 0.0, 1.0)


@triton.jit
def _rotate_hue(red, green, blue, turn):  # type: ignore[no-untyped-def]
    """RGB to HSV and back, as torchvision does it."""
    value = tl.maximum(tl.maximum(red, green), blue)
    spread = value - tl.minimum(tl.minimum(red, green), blue)
    is_gray = spread == 0
    saturation = spread / tl.where(is_gray, 1.0, value)
    divisor = tl.where(is_gray, 1.0, spread)
    r, g, b = (value - red) / divisor, (value - green) / divisor, (value - blue) / divisor
    hue = tl.where(value == red, b - g, tl.where(value == green, 2.0 + r - b, 4.0 + g - r))
    hue = hue / 6 + 1 + turn  # 0.3 to 2.4
    sixth = (hue - tl.floor(hue)) * 6
    corner = tl.floor(sixth)
    rest = sixth - corner
    low = value * (1 - saturation)
    falling = value * (1 - saturation * rest)
    rising = value * (1 - saturation * (1 - rest))
    # Red, green and blue in the six parts of the colour circle; the last one is also the seventh.
    first, second, third = corner == 0, corner == 1, corner == 2
    fourth, fifth = corner == 3, corner == 4
    red = tl.where(second, falling, tl.where(third | fourth, low, tl.where(fifth, rising, value)))
    green = tl.where(first, rising, tl.where(second | third, value,
                     tl.where(fourth, falling, low)))  # fmt: skip
    blue = tl.where(first | second, low, tl.where(third, rising,
                    tl.where(fourth | fifth, value, falling)))  # fmt: skip
    return red, green, blue
