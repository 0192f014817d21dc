"""The values that the processor's settings may take: each comes back checked, or `UserError`."""

from collections.abc import Sequence

from vivit_train.errors import UserError
from vivit_train.io.foreign import is_of

RESAMPLE = {"nearest": 0, "bilinear": 2, "bicubic": 3}  # name -> PIL's code


# A side of a frame that is resized to: no clip of larger ones fits into memory.
MOST_PIXELS = 2**13


def switch(name: str, value: bool) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise UserError(f"{name} must be true or false, not {value!r:.80}")
    return value


def pixels(name: str, value: int) -> int:
    """A whole number of pixels, 1 or more."""
    if not is_of(value, int) or value < 1:
        raise UserError(f"{name} must be in whole pixels, 1 or more, not {value!r:.80}")
    if value > MOST_PIXELS:
        raise UserError(f"{name} may be {MOST_PIXELS} pixels at most, not {value}")
    return value


def pixel_pair(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    """(height, width); one number is a square."""
    pair = [value, value] if isinstance(value, int) else value
    if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
        raise UserError(f"{name} must be a number of pixels or (height, width), not {value!r:.80}")
    return pixels(name, pair[0]), pixels(name, pair[1])


def per_channel(name: str, value: float | Sequence[float]) -> tuple[float, float, float]:
    """A value for R, G and B each; one number is for all."""
    values = [value] * 3 if isinstance(value, (int, float)) else value
    if not is_of(values, list[float]) or len(values) != 3:
        raise UserError(f"{name} must be one number or three, for R, G and B, not {value!r:.80}")
    red, green, blue = map(float, values)
    return red, green, blue


def resample_name(resample: str | int) -> str:
    """The filter by its name or by PIL's code."""
    for name, code in RESAMPLE.items():
        if resample in (name, code):
            return name
    choices = ", ".join(f'"{name}" ({code})' for name, code in RESAMPLE.items())
    raise UserError(f"resample must be one of {choices}, not {resample!r:.80}")


def format_range(value_range: Sequence[tuple[float, float]]) -> str:
    """One range where the channels agree, else one for each."""
    ranges = [f"[{low:.4g}, {high:.4g}]" for low, high in value_range]
    return ranges[0] if len(set(ranges)) == 1 else " ".join(ranges)
