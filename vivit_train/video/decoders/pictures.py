"""A folder of numbered pictures, such as ``img_00001.jpg``, as a video of one frame each."""

import os
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vivit_train.errors import UserError
from vivit_train.video.container import MAX_FRAME_PIXELS, is_video
from vivit_train.video.decoders import ByNumber, span
from vivit_train.video.watch import go_on

_NUMBERED = re.compile(
    r"(?P<series>.*?)(?P<number>[0-9]+)(?P<suffix>\.(?:jpe?g|png|bmp|webp))", re.IGNORECASE
)
FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
# Optical flow lies beside the frames of some data sets: flow_x_00001.jpg.
FLOW = "flow"


def is_picture(name: str) -> bool:
    """Whether a file's name is that of a frame: a number and the suffix of a picture."""
    return _NUMBERED.fullmatch(name) is not None and not name.startswith((".", FLOW))


def holds_pictures(folder: str | Path) -> bool:
    """Whether a folder is a video, by names: it holds frames, and neither videos nor folders."""
    found = False
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_video(entry.name) or (entry.name[0] != "." and entry.is_dir()):
                    return False
                found = found or is_picture(entry.name)
    except OSError:
        return False
    return found


def list_pictures(folder: str | Path) -> list[str]:
    """The names of the frames in a folder, in order.

    Raises:
        ValueError: If there are none or several series, or a number is missing or there twice.
            They begin at 0 or 1.
    """
    series: dict[tuple[str, str], dict[int, str]] = {}
    for name in sorted(os.listdir(folder)):
        found = _NUMBERED.fullmatch(name)
        if found is None or not is_picture(name):
            continue
        numbers = series.setdefault((found["series"], found["suffix"]), {})
        number = int(found["number"])
        if number in numbers:
            raise ValueError(f"{numbers[number]} and {name} have the same number")
        numbers[number] = name
    if not series:
        raise ValueError("no numbered pictures, such as img_00001.jpg, in this folder")
    if len(series) > 1:
        told = " and ".join(f"{name}*{suffix}" for name, suffix in series)
        raise ValueError(f"pictures of several series, {told}: a folder must hold those of one")
    ((name, suffix), numbers) = next(iter(series.items()))
    first, last = min(min(numbers), 1), max(numbers)
    holes = last - first + 1 - len(numbers)
    if holes:
        hole = next(number for number in count(first) if number not in numbers)
        digits = min(len(picture) for picture in numbers.values()) - len(name) - len(suffix)
        raise ValueError(
            f"{name}{hole:0{digits}d}{suffix} is missing: of the numbers {first} to {last} "
            f"{holes} {'is' if holes == 1 else 'are'} not there"
        )
    return [numbers[number] for number in sorted(numbers)]


class Pictures(ByNumber):
    """See `Backend`. Pictures are decoded by Pillow, whatever decodes videos.

    Args:
        path: The folder.
        segment: See `VideoReader`.
        picture_rate: Frames per second; ``None``: unknown.

    Raises:
        UserError: If there is a segment and no rate.
        ValueError: See `list_pictures`.
    """

    def __init__(
        self, path: str, segment: tuple[float, float] | None, picture_rate: float | None
    ) -> None:
        self._folder = path
        self._segment = segment
        self.fps = picture_rate or 0.0
        names, self._first, self.promised = list_pictures(path), 0, 0
        self.num_frames = len(names)
        if segment:
            self._check_rate()
            self._first, self.num_frames = span(*segment, self.fps, len(names))
            self.promised = max(1, round((segment[1] - segment[0]) * self.fps))
        self._names = names[self._first : self._first + self.num_frames]

    @property
    def shown_at(self) -> np.ndarray:
        """See `VideoReader.shown_at`.

        Raises:
            UserError: If there is no rate.
        """
        self._check_rate()
        times = (self._first + np.arange(self.num_frames + 1)) / self.fps
        start, end = self._segment or (0.0, times[-1])
        times[-1] = min(times[-1], end)
        return times - start

    def _check_rate(self) -> None:
        if not self.fps:
            raise UserError(
                f"{self._folder} is a folder of pictures, which do not tell how many are shown per "
                "second: give it with data.picture_rate, in Python VideoReader(..., "
                "picture_rate=25)"
            )

    def decode_all(self) -> Iterator[int]:
        """Yields how many have been decoded."""
        size = None
        for index in range(self.num_frames):
            frame = self._frame(index)
            if size not in (None, frame.shape):
                raise ValueError(f"{self._names[index]} differs in size from those before it")
            size = frame.shape
            yield index + 1

    def close(self) -> None:
        """Nothing is open."""

    def _frame(self, index: int) -> np.ndarray:
        name = self._names[index]
        try:
            with Image.open(os.path.join(self._folder, name), formats=FORMATS) as picture:
                if picture.width * picture.height > MAX_FRAME_PIXELS:
                    raise ValueError(f"more than {MAX_FRAME_PIXELS:,} pixels")
                if picture.mode.startswith(("I", "F")):
                    raise ValueError("more than 8 bits per colour")
                frame = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
        except Exception as error:  # Pillow's are of many kinds
            is_known = isinstance(error, ValueError) and str(error)
            reason = error if is_known else getattr(error, "strerror", None) or "it is damaged"
            raise ValueError(f"{name} does not decode: {reason}") from error
        go_on()
        return frame
