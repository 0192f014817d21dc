"""A film with the rows of its timeline drawn on it."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vivit_train.io.terminal import printable
from vivit_train.timeline.rows import Row
from vivit_train.video.write import redraw_video

# Seconds by which a frame's time may be too early, as containers round it to their ticks.
ROUNDED = 1e-3
LEAST_FONT_PX = 10
FRAME_PARTS = 18  # of a frame's height that a line of text takes one


def label_film(
    source: str, target: Path, rows: Sequence[Row], advance: Callable[[str], None]
) -> None:
    """Copies a film, without its sound, with the name and probability of each row on its frames.

    Args:
        source: The film.
        target: Where to write: ``.mp4``, ``.mkv`` or ``.mov``.
        rows: Of its timeline, in order.
        advance: Called after each frame.

    Raises:
        DecodeError: If the film cannot be decoded to its end, or its frames have no one size.
    """
    starts = [row.start for row in rows]

    def draw(shown: float, picture: np.ndarray) -> np.ndarray:
        advance("drawn")
        shown += ROUNDED
        place = bisect_right(starts, shown) - 1
        if place < 0 or shown >= rows[place].end:
            return picture
        return labelled(picture, f"{rows[place].name} {rows[place].probability:.0%}")

    redraw_video(source, target, draw)


def labelled(picture: np.ndarray, text: str) -> np.ndarray:
    """A picture with a line of text on a dark ground in its upper left corner: uint8 [H, W, 3]."""
    label = _label(text, max(LEAST_FONT_PX, picture.shape[0] // FRAME_PARTS))
    height, width = (min(a, b) for a, b in zip(label.shape, picture.shape[:2]))
    picture = picture.copy()
    picture[:height, :width] = label[:height, :width, None]
    return picture


@lru_cache(maxsize=1)
def _label(text: str, font_px: int) -> np.ndarray:
    """White text on black: uint8 [h, w]."""
    font, text = ImageFont.load_default(font_px), printable(text)
    margin = font_px // 3
    _, _, right, bottom = font.getbbox(text)
    image = Image.new("L", (round(right) + 2 * margin, round(bottom) + 2 * margin))
    ImageDraw.Draw(image).text((margin, margin), text, fill=255, font=font)
    return np.asarray(image)
