"""Frames that come while they are watched, from a camera or standard input."""

import io
import sys
from collections import deque
from collections.abc import Callable, Iterator
from math import inf
from typing import BinaryIO

import numpy as np
from PIL import Image

from vivit_train.errors import UserError
from vivit_train.timeline.still import Changes, Still
from vivit_train.timeline.windows import Windows
from vivit_train.video.container import MAX_FRAME_PIXELS
from vivit_train.video.sampling import ROUNDING, frames_at

# A second, counted from the first frame, and the frame: uint8 [h, w, 3].
Shown = tuple[float, np.ndarray]
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_JPEG_END = 0xD9
_NO_LENGTH = {0x00, 0x01, *range(0xD0, 0xD8)}  # what follows 0xFF and has no content
MOST_PICTURE_BYTES, BYTES_AT_ONCE = 2**28, 2**16


def watched(frames: Iterator[Shown], still: Still) -> Iterator[Shown]:
    """The same frames, while it is found out whether the picture stands still."""
    is_new = Changes()
    for time, frame in frames:
        if still.least and is_new(frame[..., 1]):  # most of a colour's brightness is its green
            still.change(time)
        else:
            still.last(time)
        yield time, frame


def live_clips(
    frames: Iterator[Shown],
    windows: Windows,
    clip_frames: int,
    shrink: Callable[[np.ndarray], np.ndarray],
    drops: bool = False,
) -> Iterator[tuple[int, np.ndarray]]:
    """The clip of each window as soon as its last frame has been on the screen.

    Args:
        frames: In order.
        windows: Over what has no end.
        clip_frames: T of a clip.
        shrink: What is done to each frame first.
        drops: Windows that are over by the time that they could be shown are left out, but for the
            last of them. A camera goes on while the model works.

    Yields:
        The number of a window and its clip, uint8 ``[T, h, w, 3]``. A window that the end of the
        frames cuts off is none.
    """
    held: deque[Shown] = deque()
    number = 0

    def clip() -> np.ndarray:
        shown_at = np.array([time for time, _ in held] + [inf])
        places = frames_at(shown_at, windows.moments(number, clip_frames))
        return np.stack([held[place][1] for place in places.tolist()])

    def is_over(k: int) -> bool:
        return time > windows.moments(k, clip_frames)[-1] + ROUNDING

    time = lasts = 0.0
    for time, frame in frames:
        if drops:
            while is_over(number + 1):
                number += 1
        while held and is_over(number):
            yield number, clip()
            number += 1
        # The last one before the next window begins is on the screen when it does.
        while len(held) > 1 and held[1][0] <= windows.start(number) + ROUNDING:
            held.popleft()
        lasts = time - held[-1][0] if held else 0.0
        held.append((time, shrink(frame)))
    while held and windows.start(number) + windows.seconds <= time + lasts + ROUNDING:
        yield number, clip()
        number += 1


def raw_frames(file: BinaryIO, size: tuple[int, int], rate: float) -> Iterator[Shown]:
    """Frames of raw rgb24, one after the other.

    Args:
        file: Where they come from.
        size: Height and width in pixels.
        rate: Frames per second.

    Raises:
        UserError: If the last one is not whole.
    """
    height, width = size
    number = 0
    while content := file.read(3 * height * width):
        if len(content) < 3 * height * width:
            raise UserError(
                f"standard input ended within frame {number}, after {len(content)} of "
                f"{3 * height * width} bytes: are the frames rgb24 of {width}x{height} pixels "
                "(--size)?"
            )
        yield number / rate, np.frombuffer(content, np.uint8).reshape(height, width, 3)
        number += 1


def picture_frames(file: BinaryIO, rate: float) -> Iterator[Shown]:
    """JPEG or PNG files, one after the other.

    Args:
        file: Where they come from.
        rate: Pictures per second.

    Raises:
        UserError: If something else comes, a picture is damaged, or of another size than the first.
    """
    size = None
    for number, content in enumerate(_pictures(file)):
        try:
            with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as picture:
                if picture.width * picture.height > MAX_FRAME_PIXELS:
                    raise ValueError(f"{picture.width}x{picture.height} pixels are too many")
                frame = np.array(picture.convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UserError(f"standard input, picture {number}: {error}") from None
        if size not in (None, frame.shape):
            raise UserError(
                f"standard input, picture {number} differs in size from those before it"
            )
        size = frame.shape
        yield number / rate, frame


def _pictures(file: BinaryIO) -> Iterator[bytes]:
    """The files one by one, each as soon as its last byte is there.

    Raises:
        UserError: If one is neither JPEG nor PNG, or not whole.
    """
    held = bytearray()
    number = 0

    def have(count: int) -> None:
        """Waits for so many bytes from the beginning of the file."""
        while len(held) < count:
            if count > MOST_PICTURE_BYTES:
                raise UserError(f"standard input, picture {number} has more than 256 MiB")
            if not (part := file.read1(BYTES_AT_ONCE)):  # type: ignore[attr-defined]
                raise UserError(f"standard input ended within picture {number}")
            held.extend(part)

    while held or (part := file.read1(BYTES_AT_ONCE)):  # type: ignore[attr-defined]
        if not held:
            held.extend(part)
        have(2)
        if held[:2] == _JPEG:
            end = _end_of_jpeg(held, have)
        elif held[:2] == _PNG[:2]:
            end = _end_of_png(held, have)
        else:
            raise UserError(
                f"standard input, picture {number} is neither JPEG nor PNG: give --size "
                "WIDTHxHEIGHT for raw rgb24 frames"
            )
        yield bytes(held[:end])
        del held[:end]
        number += 1


def _end_of_png(held: bytearray, have: Callable[[int], None]) -> int:
    """Where the file that begins here ends: chunks of length, name, content and checksum."""
    place, name = len(_PNG), b""
    while name != b"IEND":
        have(place + 8)
        name = bytes(held[place + 4 : place + 8])
        place += 12 + int.from_bytes(held[place : place + 4], "big")
    have(place)
    return place


def _end_of_jpeg(held: bytearray, have: Callable[[int], None]) -> int:
    """Where the file that begins here ends: segments, of which a scan has no length.

    In a scan 0xFF is followed by 0, or by a marker that stands alone.
    """
    place = len(_JPEG)
    while True:
        while (found := held.find(b"\xff", place)) < 0:
            place = len(held)
            have(place + 1)
        place = found + 1
        have(place + 1)
        code = held[place]
        if code == 0xFF:  # a marker may have several before it
            continue
        place += 1
        if code == _JPEG_END:
            return place
        if code not in _NO_LENGTH:
            have(place + 2)
            place += max(2, int.from_bytes(held[place : place + 2], "big"))
            have(place)


def camera_frames(number: int) -> Iterator[Shown]:
    """What a camera sees, by the clock of the camera.

    Args:
        number: Of the device: 0 for /dev/video0.

    Raises:
        UserError: If there is none, or it cannot be read here.
    """
    import av

    if sys.platform != "linux":
        raise UserError("--camera reads the cameras of Linux (/dev/video0); pipe frames in with -")
    device = f"/dev/video{number}"
    try:
        with av.open(device, format="video4linux2") as container:
            start = None
            for frame in container.decode(video=0):
                time = float(frame.time or 0.0)
                start = time if start is None else start
                yield time - start, frame.to_ndarray(format="rgb24")
    except (av.error.FFmpegError, OSError) as error:
        raise UserError(f"--camera {number}: {device} cannot be read ({error.strerror})") from None
