"""A decoded frame as a picture: one rule for its colours, its orientation and its pixels' shape.

- Colours: libswscale, as PyAV brings it, with the matrix and range that the file names; BT.601 and
  limited range where it names none, also for HD. 10 and 12 bits are reduced to 8. The fields of an
  interlaced frame are converted each on its own. Transfer curves and primaries (HDR) are not.
- Orientation: upright and unmirrored, as players show it, by the file's display matrix.
- Shape: pixels as they are stored. The sample aspect ratio is ignored, so anamorphic video stays
  squeezed.
"""

from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from vivit_train.video.container import ONE_THREAD

# Formats whose first plane is brightness, a byte for each pixel.
WITH_LUMA = {
    *(f"yuv{letter}{kind}p" for letter in ("", "j") for kind in (420, 422, 440, 444)),
    *("yuv410p", "yuv411p", "yuva420p", "nv12", "nv21", "gray"),
}
# FFmpeg's display matrix: 3x3 in 16.16 fixed point, the last column in 2.30.
UPRIGHT = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], np.int32)


def to_rgb(frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    """A decoded frame as it is shown: uint8 [H, W, 3], RGB.

    Args:
        frame: As decoded.
        reformatter: One for all frames: each holds megabytes.
    """
    rgb = reformatter.reformat(frame, format="rgb24", **ONE_THREAD).to_ndarray()
    return upright(rgb, display_matrix(frame))


def luma(frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    """The brightness of a decoded frame as it is stored, not turned: uint8 [H, W].

    In most videos that is a part of the frame's memory, which nothing has to convert.

    Args:
        frame: As decoded.
        reformatter: One for all frames, and for nothing else: it sets itself up for a conversion.
    """
    if frame.format.name not in WITH_LUMA:
        frame = reformatter.reformat(frame, format="gray", **ONE_THREAD)
    plane: Any = frame.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return rows[: frame.height, : frame.width]


def display_matrix(frame: av.VideoFrame) -> np.ndarray:
    """How the file says that a frame is to be turned and mirrored: int32 [9], row by row."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    return UPRIGHT if matrix is None else np.frombuffer(matrix, np.int32)


def is_mirrored(matrix: np.ndarray) -> bool:
    """Whether a display matrix mirrors, and does not only turn."""
    a, b, _, c, d = matrix[:5].tolist()
    return a * d < b * c


def upright(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A picture, or a plane of one, as players show it.

    Args:
        picture: [H, W] or [H, W, 3].
        matrix: A display matrix: the pixel at (x, y) is shown at (a x + c y, b x + d y).

    Returns:
        A view: the sides change places where the matrix turns by 90 degrees.
    """
    a, b, _, c, d = matrix[:5]
    if abs(b) > abs(a):
        picture, a, d = picture.swapaxes(0, 1), c, b
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
