"""Pillow's resize to the bit, for whole clips on a CPU, and only where a crop keeps the result.

Pillow (``src/libImaging/Resample.c``) resizes 8-bit images in two passes, along the rows, then
along the columns. An output value is a weighted sum of neighbours, with weights in fixed point of
22 bits, and is rounded to 8 bits after each pass. Integers make that repeatable: equal weights give
equal pixels in whatever order the sum is taken. Pillow itself takes one frame at a time, and cannot
leave out what is cropped away afterwards: its ``box`` is in single precision, so a box that starts
between two pixels changes the weights.

Here the frames lie side by side, the axis that is resized first. A pass then is a few multiply-adds
of long contiguous rows, for which NumPy uses the processor's vector instructions.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]

PRECISION_BITS = 32 - 8 - 2
# Values in a row of one operation, and rows that are rounded together: enough to outweigh the
# calls, few enough to stay in a core's cache.
_ROW_VALUES = 12_000
_BLOCK_ROWS = 8

_PILLOW = int(PIL.__version__.split(".")[0])


class Window(NamedTuple):
    """The part of a resized frame that is wanted, in pixels of the resized frame."""

    top: int
    left: int
    height: int
    width: int


class Taps(NamedTuple):
    """The neighbours whose weighted sum is one output pixel, along one axis."""

    start: int
    weights: tuple[int, ...]

    @property
    def stop(self) -> int:
        """One past the last neighbour."""
        return self.start + len(self.weights)


def resize(
    frames: UInt8, size: tuple[int, int], resample: str, window: Window, num_threads: int = 1
) -> UInt8:
    """Resize every frame and keep a window of it: Pillow's ``resize`` and ``crop``, to the bit.

    Args:
        frames: uint8 [N, H, W, 3].
        size: (height, width) of the whole resized frame, in pixels.
        resample: "nearest", "bilinear" or "bicubic".
        window: What to keep of it. It lies inside ``size``.
        num_threads: How many threads share the frames.

    Returns:
        uint8 [N, 3, h, w] of the window's size; its order in memory is not specified.
    """
    before = frames.shape[1:3]
    wanted_rows = slice(window.top, window.top + window.height)
    wanted_columns = slice(window.left, window.left + window.width)
    if resample == "nearest":
        y = nearest_pixels(before[0], size[0])[wanted_rows]
        x = nearest_pixels(before[1], size[1])[wanted_columns]
        return frames[:, y[:, None], x].transpose(0, 3, 1, 2)  # [N, h, w, 3] -> [N, 3, h, w]

    vertical = axis_taps(before[0], size[0], resample)[wanted_rows]
    horizontal = axis_taps(before[1], size[1], resample)[wanted_columns]
    top, bottom = vertical[0].start, vertical[-1].stop
    left, right = horizontal[0].start, horizontal[-1].stop
    resized = np.empty((window.height, len(frames), 3, window.width), np.uint8)

    def resize_part(part: slice) -> None:
        source = frames[part, top:bottom, left:right]
        if vertical_first(before, size):
            columns = weighted_sums(source.transpose(1, 0, 3, 2), vertical)  # [h, n, 3, W]
            rows = weighted_sums(columns.transpose(3, 1, 2, 0), horizontal)  # [w, n, 3, h]
            resized[:, part] = rows.transpose(3, 1, 2, 0)  # [w, n, 3, h] -> [h, n, 3, w]
        else:
            columns = weighted_sums(source.transpose(2, 0, 3, 1), horizontal)  # [w, n, 3, H]
            resized[:, part] = weighted_sums(columns.transpose(3, 1, 2, 0), vertical)

    values = 3 * max(bottom - top, window.width)  # of one frame in a row
    step = min(max(1, _ROW_VALUES // values), math.ceil(len(frames) / num_threads))
    parts = [slice(start, start + step) for start in range(0, len(frames), step)]
    if num_threads == 1:
        for part in parts:
            resize_part(part)
    else:  # NumPy works outside Python's lock
        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(resize_part, parts))  # list: raises what a thread raised
    return resized.transpose(1, 2, 0, 3)  # [h, N, 3, w] -> [N, 3, h, w]


def vertical_first(before: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether Pillow resizes the columns first: it rounds in between, so the order shows.

    Until version 13 it never did; since then (pull request 9549) where that makes the intermediate
    picture much smaller.

    Args:
        before: (height, width) of the frame, in pixels.
        size: (height, width) of the resized frame.
    """
    fewer_rows, fewer_columns = before[0] - size[0], before[1] - size[1]
    return _PILLOW >= 13 and fewer_rows > 0 and fewer_rows > 2 * fewer_columns


def weighted_sums(pixels: UInt8, taps: Sequence[Taps]) -> UInt8:
    """One pass, along the first axis: Pillow's ``ImagingResampleVertical_8bpc``.

    Args:
        pixels: uint8 [L, ...], in any order in memory. Its first row is the first tap's start.
        taps: For each row of the result, in the order of their starts.

    Returns:
        uint8 [len(taps), ...], contiguous.
    """
    first = taps[0].start
    # Copied once into the order of the sums. A sum stays below 2**31: weights add up to 2**22, and
    # their absolute values, with bicubic's negative ones, to 5/4 of that.
    rows = list(pixels.astype(np.int32, order="C").reshape(len(pixels), -1))
    clip = any(min(tap.weights) < 0 for tap in taps)  # only then can a sum leave 0..255
    sums = np.empty((len(taps), rows[0].size), np.uint8)
    totals, product = np.empty((_BLOCK_ROWS, rows[0].size), np.int32), np.empty_like(rows[0])
    for block in range(0, len(taps), _BLOCK_ROWS):
        some = taps[block : block + _BLOCK_ROWS]
        for total, (start, weights) in zip(totals, some):
            np.multiply(rows[start - first], weights[0], out=total)
            for row, weight in enumerate(weights[1:], start - first + 1):
                np.multiply(rows[row], weight, out=product)
                np.add(total, product, out=total)
        np.add(totals, 1 << (PRECISION_BITS - 1), out=totals)  # half: rounds
        np.right_shift(totals, PRECISION_BITS, out=totals)
        if clip:
            np.clip(totals, 0, 255, out=totals)
        sums[block : block + _BLOCK_ROWS] = totals[: len(some)]
    return sums.reshape(len(taps), *pixels.shape[1:])


@lru_cache(maxsize=64)
def nearest_pixels(length: int, resized: int) -> NDArray[np.intp]:
    """Which pixel each resized one copies along an axis: Pillow's ``ImagingScaleAffine``.

    It adds up the scale pixel after pixel, and so do we: the error decides between two neighbours.
    """
    scale = length / resized
    steps = np.full(resized, scale)
    steps[0] = 0.5 * scale
    return np.add.accumulate(steps).astype(np.intp)


@lru_cache(maxsize=64)
def axis_taps(length: int, resized: int, resample: str) -> list[Taps]:
    """What each output pixel is made of, as Pillow's ``precompute_coeffs`` has it.

    Every operation is Pillow's, in double precision and in its order: the last bit of a weight can
    decide which way a sum halfway between two levels is rounded.

    Args:
        length: Pixels along the axis before.
        resized: Pixels along the axis afterwards.
        resample: "bilinear" or "bicubic".

    Returns:
        One for each output pixel, along the axis. The weights are in units of 2**-22.
    """
    scale = length / resized
    kernel, support = _KERNELS[resample]
    widening = max(scale, 1.0)  # a smaller picture averages: that is the antialiasing
    support *= widening
    centres = (np.arange(resized) + 0.5) * scale
    starts = np.maximum((centres - support + 0.5).astype(int), 0)
    stops = np.minimum((centres + support + 0.5).astype(int), length)
    neighbours = np.arange((stops - starts).max())
    distances = (neighbours + starts[:, None] - centres[:, None] + 0.5) * (1.0 / widening)
    weights = np.where(neighbours < (stops - starts)[:, None], kernel(distances), 0.0)
    weights /= np.add.accumulate(weights, axis=1)[:, -1:]  # unlike sum, from left to right
    fixed = np.trunc(weights * (1 << PRECISION_BITS) + np.copysign(0.5, weights)).astype(int)
    return [
        Taps(start, tuple(row[: stop - start]))
        for start, stop, row in zip(starts.tolist(), stops.tolist(), fixed.tolist())
    ]


def _bilinear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    a, x = -0.5, np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


# The function and how far it reaches, in pixels of the smaller picture.
_KERNELS: dict[str, tuple[Callable[[NDArray[Any]], NDArray[np.float64]], float]] = {
    "bilinear": (_bilinear, 1.0),
    "bicubic": (_bicubic, 2.0),
}
