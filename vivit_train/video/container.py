"""Opening a video file: a container that holds its own frames, and never another file."""

import os
from io import BytesIO
from pathlib import Path

import av

from vivit_train.errors import UserError

# Older releases ignore the colour space that a file names: up to 45 grey levels off.
MIN_AV = 17
AV = int(av.__version__.split(".")[0])
# From 18 on PyAV's colour converter can be kept from starting a thread per core.
ONE_THREAD = {"threads": 1} if AV >= 18 else {}
# FFmpeg goes by content, whatever the name. Its formats of playlists and session descriptions
# (concat, hls, dash, sdp, ...) open other files and network ports, so only these are opened.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2",
    "matroska,webm",
    "avi",
    "mpegts",
    "mpeg",
    "asf",
    "flv",
    "ogg",
    "mxf",
    "nut",
    "rm",
    "dv",
    "wtv",
    "ivf",
    "gif",
    # No containers: one stream of one codec.
    "h264",
    "hevc",
    "av1",
    "obu",
    "m4v",
    "mpegvideo",
    "mjpeg",
    "yuv4mpegpipe",
)
# By which data sets know videos, without a look at the files.
VIDEO_SUFFIXES = frozenset(
    [
        ".3gp",
        ".avi",
        ".flv",
        ".m2ts",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".ogv",
        ".ts",
        ".webm",
        ".wmv",
    ]
)
# Nor are files opened that an allowed container names: mov refers to others only on request
# (its option enable_drefs is off), and no protocol but that of local files is there.
OPTIONS = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}
# A larger frame is refused before it is decoded, which takes 20 bytes of memory for each pixel: of
# this size 1.3 GB. 8K is half of it.
MAX_FRAME_PIXELS = 8192 * 8192
LIMITS = {"max_pixels": str(MAX_FRAME_PIXELS)}
# Containers that record when each frame is shown. In others frames are told apart by counting.
TIMED = ("mov", "matroska")


def is_video(name: str) -> bool:
    """Whether a file name has the suffix of a video."""
    return name[name.rfind(".") :].lower() in VIDEO_SUFFIXES


def check_av() -> None:
    """Refuses a PyAV that was installed against pyproject.toml.

    Raises:
        UserError: If it is older than `MIN_AV`.
    """
    if AV < MIN_AV:
        raise UserError(
            f"av {av.__version__} reads colours differently: install a newer one with "
            f"pip install 'av>={MIN_AV}'"
        )


def local(path: str | Path) -> str:
    """A path that FFmpeg takes for one, whatever its name: it reads ``12:30.mp4`` as a protocol."""
    return os.path.join(os.curdir, path)


def open_video(
    path: str | Path, data: bytes | None = None
) -> tuple[av.container.InputContainer, av.VideoStream]:
    """Open a video file, with one thread.

    Args:
        path: A file on disk.
        data: Its content, where it is not on disk.

    Returns:
        The container, and the video stream that players show: the one marked as default, then
        the largest.

    Raises:
        UserError: If PyAV is too old.
        ValueError: If it is not one of `CONTAINERS`, has no video stream that can be decoded, or
            frames of more than `MAX_FRAME_PIXELS`.
        av.error.FFmpegError: If it cannot be read.
    """
    check_av()
    try:
        container = av.open(
            local(path) if data is None else BytesIO(data),
            "r",
            container_options=OPTIONS,
            options=LIMITS,  # of the streams: to learn what they are, FFmpeg may decode a frame
        )
    except av.error.ArgumentError:
        raise ValueError(
            "not a video container that is read (mp4, mkv, webm, avi, ...); playlists and scripts "
            "that name other files are never followed"
        ) from None
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream):
        container.close()
        raise ValueError("no video stream")
    if stream.codec_context is None:
        container.close()
        raise ValueError("no decoder for its video stream")
    width, height = stream.codec_context.width, stream.codec_context.height
    if not 0 < width * height <= MAX_FRAME_PIXELS:
        container.close()
        size = f"{width}x{height} pixels" if width * height else "a size that cannot be decoded"
        raise ValueError(
            f"frames of {size}; at most {MAX_FRAME_PIXELS:,} pixels, such as 8192x8192, are decoded"
        )
    stream.codec_context.options = LIMITS  # its frames may be larger than the container says
    stream.codec_context.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    return container, stream


def is_timed(container: av.container.InputContainer) -> bool:
    """Whether a container records when each frame is shown."""
    return container.format.name.startswith(TIMED)
