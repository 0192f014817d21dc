"""What decord and TorchCodec are told by PyAV: which frames there are, and what to leave to it.

They are given what they were shown to read as PyAV does; all else is refused by name. Their
conversion of colours is another: they know nothing of fields, round 10 bits otherwise, and place
the colours of odd heights elsewhere. Neither mirrors.
"""

from contextlib import closing, suppress
from typing import NamedTuple

import av
import numpy as np

from vivit_train.video.container import open_video
from vivit_train.video.decoders.pyav import PyAV
from vivit_train.video.picture import display_matrix, is_mirrored
from vivit_train.video.watch import go_on

# Subsampled colour, whose last line is shared by two lines or, with an odd height, by one.
SUBSAMPLED = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p")
PIXELS = (*SUBSAMPLED, "yuv444p", "yuvj444p", "gray", "gbrp")


class Listing(NamedTuple):
    """The frames of a video, or of a segment of it.

    Attributes:
        stream: Number of the video stream in the file.
        in_all: Frames of the whole video.
        first: Number in the whole video of the segment's first frame.
        num_frames: Frames of the segment.
        times: When each of them is shown, in seconds; ``None`` where the file does not record it.
        fps: See `VideoReader`.
        promised: See `VideoReader`.
        shown_at: See `VideoReader`; ``None`` where the file does not tell.
    """

    stream: int
    in_all: int
    first: int
    num_frames: int
    times: list[float] | None
    fps: float
    promised: int
    shown_at: np.ndarray | None


def list_frames(path: str, segment: tuple[float, float] | None, data: bytes | None) -> Listing:
    """Have PyAV list the frames: the libraries assume a constant rate, or count hidden ones."""
    with closing(PyAV(path, None, data)) as whole:
        stream, in_all, fps, times = whole.stream_index, whole.num_frames, whole.fps, whole.times
        if segment is None:
            return Listing(stream, in_all, 0, in_all, times, fps, whole.promised, whole.shown_at)
    with closing(PyAV(path, segment, data)) as part:
        if part.offset is not None:
            first = part.offset
        elif times is None or part.times is None:
            raise ValueError("some frames share a time, so a segment cannot be found: choose pyav")
        else:
            first = times.index(part.times[0])
        return Listing(
            stream, in_all, first, part.num_frames, part.times, fps, part.promised, part.shown_at
        )


def refuse_unproven(
    library: str,
    path: str,
    data: bytes | None,
    containers: tuple[str, ...],
    codecs: tuple[str, ...] | None = None,
    one_stream: bool = False,
) -> None:
    """Refuse a video of which a library may show other pixels than PyAV, by its first frame.

    Args:
        library: Its name, for the message.
        path: A file on disk.
        data: Its content, where it is not on disk.
        containers: How FFmpeg's names of the formats begin that the library reads right.
        codecs: FFmpeg's names of the codecs that it reads right; ``None``: all.
        one_stream: Whether it may choose another one of several video streams.

    Raises:
        ValueError: If it is such a video, or none of its frames decodes.
    """
    container, stream = open_video(path, data)
    with container:
        name, codec = container.format.name, stream.codec_context.name
        if not name.startswith(containers):
            trait: str | None = f"{name.split(',')[0]} files"
        elif codecs is not None and codec not in codecs:
            trait = f"{codec} video"
        elif one_stream and len(container.streams.video) > 1:
            trait = "several video streams"
        else:
            trait = _unproven(_first_frame(container, stream))
    if trait:
        raise ValueError(f"{library} may read {trait} differently: choose pyav")


def _first_frame(container: av.container.InputContainer, stream: av.VideoStream) -> av.VideoFrame:
    """The first one that decodes: damage is for the library to find, where it is asked for it."""
    for packet in container.demux(stream):
        go_on()
        with suppress(av.error.InvalidDataError):
            for frame in packet.decode():
                assert isinstance(frame, av.VideoFrame)
                return frame
    raise ValueError("no frame decodes")


def _unproven(frame: av.VideoFrame) -> str | None:
    """The trait of a frame by which the libraries differ; ``None`` if it has none of these."""
    if frame.format.name not in PIXELS:
        return f"{frame.format.name} pixels"
    if frame.interlaced_frame:
        return "interlaced video"
    if is_mirrored(display_matrix(frame)):
        return "mirrored video"
    if frame.height % 2 and frame.format.name in SUBSAMPLED:
        return f"an odd height ({frame.height}) of {frame.format.name} pixels"
    return None
