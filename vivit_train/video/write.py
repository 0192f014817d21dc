"""Frames to a video file, whole or not at all."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from vivit_train.errors import UserError


def write_video(
    path: str | Path,
    frames: np.ndarray,
    fps: int | Fraction = 30,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
) -> None:
    """Encode frames into the container that the suffix of ``path`` names.

    The file appears under its name only once complete. The encoder has one thread: the number of
    cores does not change what it writes.

    Args:
        path: Where to write; ``.mp4``, ``.mkv``, ``.webm`` (VP9, AV1), ``.avi``, ...
        frames: uint8 [T, H, W, 3], RGB. Colour is stored at half resolution (``yuv420p``, which
            every player reads); with an odd height or width at full resolution (``yuv444p``),
            as half of an odd size does not exist.
        fps: Frames per second.
        codec: An FFmpeg encoder: ``libx264``, ``libvpx-vp9``, ``mpeg4``, ``libsvtav1``, ...
        options: The encoder's own options, e.g. ``{"crf": "20", "preset": "veryfast"}``.

    Raises:
        UserError: If the frames, the suffix, the codec or an option is not one that can be
            written.
    """
    path = Path(path)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise UserError(
            f"frames are {frames.dtype} {list(frames.shape)}; a video is written from uint8 "
            "[T, H, W, 3] with at least one frame"
        )
    if fps <= 0 or not path.parent.is_dir():
        raise UserError(
            f"{path} at {fps} frames per second cannot be written: the folder must exist and the "
            "rate be above 0"
        )
    _, height, width, _ = frames.shape
    # The suffix stays last: the container is chosen by it.
    partial = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
    try:
        with av.open(str(partial), "w") as container:
            stream = container.add_stream(codec, rate=fps, options=dict(options or {}))
            stream.width, stream.height = width, height
            stream.pix_fmt = "yuv444p" if height % 2 or width % 2 else "yuv420p"
            stream.thread_count = 1
            for image in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
        os.replace(partial, path)
    except (av.error.FFmpegError, ValueError) as error:
        raise UserError(
            f"{path}: {codec} with options {options} cannot write {width}x{height} frames into a "
            f"{path.suffix or 'suffixless'} file ({error}); change one of these"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
