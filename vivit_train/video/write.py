"""Frames to a video file, and a video to one that decodes faster: whole, or not at all."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, cast

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from vivit_train.errors import UserError
from vivit_train.video.container import ONE_THREAD, check_av, is_timed, local, open_video
from vivit_train.video.decode import DecodeError, DecoderLost, VideoReader
from vivit_train.video.picture import display_matrix, to_rgb, upright
from vivit_train.video.watch import go_on

UNSPECIFIED = 2  # FFmpeg's number for a colour space that the file does not name
# The coarsest tick of a container in which a copy is written, Matroska's: 1 ms.
HALF_TICK = Fraction(1, 2000)
# Grey levels by which thumbnails of any contrast may differ, in the mean.
MIN_DIFFERENCE = 8


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
    try:
        images = (av.VideoFrame.from_ndarray(image, format="rgb24") for image in frames)
        tick, fps = 1 / Fraction(fps), Fraction(fps)
        with _whole(path) as partial:
            _encode(partial, enumerate(images), tick, fps, codec, options or {})
    except UserError:
        raise
    except (av.error.FFmpegError, ValueError) as error:
        raise UserError(
            f"{path}: {codec} with options {options} cannot write {width}x{height} frames into a "
            f"{path.suffix or 'suffixless'} file ({error}); change one of these"
        ) from error


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A name beside a file, to write to: the file takes its place once all within is done."""
    # The suffix stays last: the container is chosen by it.
    partial = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _encode(
    path: Path,
    frames: Iterable[tuple[int, av.VideoFrame]],
    tick: Fraction,
    fps: Fraction,
    codec: str,
    options: dict[str, str],
    container_format: str | None = None,
) -> None:
    """Encode pairs of a time, in ticks, and a frame; ``tick`` is in seconds."""
    check_av()
    with av.open(local(path), "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=fps, options=dict(options))
        assert isinstance(stream, av.VideoStream)
        stream.thread_count = 1
        stream.codec_context.time_base = tick
        for index, (time, frame) in enumerate(frames):
            if index == 0:
                height, width = stream.height, stream.width = frame.height, frame.width
                stream.pix_fmt = "yuv444p" if height % 2 or width % 2 else "yuv420p"
                stream.codec_context.colorspace = frame.colorspace
                stream.codec_context.color_range = frame.color_range
            frame.pts, frame.time_base = time, tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


class Encoding(NamedTuple):
    """How a video is re-encoded.

    Attributes:
        short_edge: Pixels, even, of the shorter edge; a smaller video keeps its size.
        keyframe_interval: Frames from one key frame to the next, at most.
        crf: x264's constant rate factor, 0 (lossless) to 51.
    """

    short_edge: int
    keyframe_interval: int
    crf: int

    def options(self) -> dict[str, str]:
        """x264's options: what makes decoding slow, and frames depend on later ones, is off."""
        return {
            "preset": "veryfast",
            "tune": "fastdecode",  # no deblocking, no arithmetic coding, no weighted prediction
            "bf": "0",
            "g": str(self.keyframe_interval),
            "crf": str(self.crf),
        }


def reencode_video(
    source: str | Path,
    target: str | Path,
    encoding: Encoding,
) -> int:
    """Copy a video into one that decodes faster: H.264, no sound, upright, each frame in its place.

    Frame ``i`` of the copy shows frame ``i`` of the source, at the same time; both are read back
    to be sure. One frame at a time is in memory.

    Args:
        source: Any video that `VideoReader` opens.
        target: Where to write. The file appears under its name only once it has passed. A suffix
            whose container cannot hold H.264, or not so that frames can be sought (``.webm``,
            ``.avi``, ...), gets the content of an mp4 file: FFmpeg goes by content.
        encoding: Size and quality.

    Returns:
        The number of frames.

    Raises:
        DecodeError: If the source cannot be decoded to its end.
        ValueError: If the copy would not have the same frames at the same times.
        OSError: If the target cannot be written.
    """
    target = Path(target)
    container_format = {".mkv": "matroska", ".mov": "mov"}.get(target.suffix.lower(), "mp4")
    with VideoReader(source, "pyav") as reader:
        num_frames = reader.num_frames
    samples = sorted({0, (num_frames - 1) // 2, num_frames - 1})
    times: list[int] = []
    thumbnails: list[np.ndarray] = []
    to_small, to_picture = VideoReformatter(), VideoReformatter()

    def small(frames: Iterable[tuple[int, av.VideoFrame]]) -> Iterator[tuple[int, av.VideoFrame]]:
        for index, (time, frame) in enumerate(frames):
            if index in samples:
                thumbnails.append(_thumbnail(to_rgb(frame, to_picture)))
            times.append(time)
            go_on()
            yield time, _small(frame, to_small, encoding.short_edge)

    container, stream = open_video(source)
    try:
        with _whole(target) as partial:
            with container:
                tick, fps = _clock(container, stream)
                frames = small(_frames(str(source), container, stream, num_frames))
                _encode(partial, frames, tick, fps, "libx264", encoding.options(), container_format)
            _check_copy(partial, [time * tick for time in times])
            _check_content(partial, samples, np.stack(thumbnails))
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise ValueError(f"no copy can be encoded: {error}") from error
    return num_frames


def redraw_video(
    source: str | Path, target: Path, draw: Callable[[float, np.ndarray], np.ndarray]
) -> None:
    """Copy a video with each frame drawn anew, at the same time: H.264, no sound, upright.

    It is decoded in a process of its own, whose memory is limited.

    Args:
        source: Any video that `VideoReader` opens.
        target: Where to write: ``.mp4``, ``.mkv`` or ``.mov``. The file appears under its name
            only once complete. A few frames at a time are in memory.
        draw: From the second at which a frame is shown and the frame, uint8 [H, W, 3], one of the
            same size.

    Raises:
        DecodeError: If the source cannot be decoded to its end, or cannot be copied so.
        OSError: If the target cannot be written.
    """
    # torch, which the processes that write the demo's clips do without.
    from vivit_train.video.guard import DECODE_SECONDS, Failure
    from vivit_train.video.stream import guarded_stream

    try:
        with (
            _whole(target) as partial,
            closing(guarded_stream(lambda: _pictures(str(source)), DECODE_SECONDS)) as pieces,
        ):
            tick, fps, _ = next(pieces)
            frames = (
                (time, av.VideoFrame.from_ndarray(draw(shown, picture.numpy()), format="rgb24"))
                for time, shown, picture in pieces
            )
            _encode(partial, frames, tick, fps, "libx264", {"preset": "veryfast"})
    except Failure as failure:
        raise DecoderLost(str(source), failure.reason) from None
    except (av.error.FFmpegError, ValueError) as error:
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise DecodeError(str(source), f"no copy can be encoded: {error}") from error


def _pictures(source: str) -> Iterator[tuple[Any, Any, Any]]:
    """A tick and frames per second, and then of each frame its tick, its second and the picture."""
    import torch

    with VideoReader(source, "pyav") as reader:
        shown_at = reader.shown_at.tolist()
    reformatter = VideoReformatter()
    try:
        container, stream = open_video(source)
        with container:
            yield *_clock(container, stream), None
            frames = _frames(source, container, stream, len(shown_at) - 1)
            for (time, frame), shown in zip(frames, shown_at):
                go_on()
                picture = np.ascontiguousarray(to_rgb(frame, reformatter))
                yield time, shown, torch.from_numpy(picture)
    except (av.error.FFmpegError, ValueError) as error:  # the former cannot be sent
        raise DecodeError(source, f"no copy can be made: {error}") from error


def scaled_size(height: int, width: int, short_edge: int) -> tuple[int, int]:
    """Even height and width, in pixels, with a shorter edge of at most ``short_edge``."""
    scale = min(1.0, short_edge / min(height, width))
    # An odd edge loses its last line: H.264 with half the colour has even ones.
    new_height, new_width = (2 * min(round(e * scale / 2), e // 2) for e in (height, width))
    return new_height, new_width


def _clock(
    container: av.container.InputContainer, stream: av.VideoStream
) -> tuple[Fraction, Fraction]:
    """Seconds per tick of the times that `_frames` gives, and frames per second."""
    fps = Fraction(stream.average_rate or stream.base_rate or 25)
    tick = stream.time_base if is_timed(container) else None
    return tick or 1 / fps, fps


def _frames(
    path: str, container: av.container.InputContainer, stream: av.VideoStream, num_frames: int
) -> Iterator[tuple[int, av.VideoFrame]]:
    """All frames in order, with their times in ticks from the video's start.

    Raises:
        DecodeError: If one of them does not decode.
        ValueError: If they are not as many as listed, their times do not increase, or their
            colours change.
    """
    has_times = is_timed(container)
    size, colours, last = None, None, None
    frames = container.decode(stream)
    for index in range(num_frames):
        try:
            frame = next(frames, None)
        except av.error.FFmpegError as error:
            raise DecodeError(path, f"frame {index}: {error.strerror}") from error
        if frame is None or frame.is_corrupt:
            raise DecodeError(path, f"frame {index} of {num_frames} does not decode")
        if size not in (None, (frame.height, frame.width)):
            raise DecodeError(path, f"frame {index} differs in size from those before it")
        if colours not in (None, (frame.colorspace, frame.color_range)):
            # A reader would convert it otherwise; a copy has one colour space for all.
            raise ValueError(f"frame {index} is of another colour space than those before it")
        size, time = (frame.height, frame.width), index
        colours = (frame.colorspace, frame.color_range)
        if has_times:
            if frame.pts is None or (last is not None and frame.pts <= last):
                raise ValueError(f"frame {index} has no time after that of the one before it")
            last, time = frame.pts, frame.pts - (stream.start_time or 0)
        yield time, frame
    if next(frames, None) is not None:
        raise ValueError(f"more frames decode than the {num_frames} that are listed")


def _small(frame: av.VideoFrame, reformatter: VideoReformatter, short_edge: int) -> av.VideoFrame:
    """A frame as the copy holds it: upright ``yuv420p``, in the colour space of the source."""
    height, width = scaled_size(frame.height, frame.width, short_edge)
    if not (height and width):
        raise ValueError(f"{frame.height}x{frame.width} pixels are too few for H.264")
    matrix = display_matrix(frame)
    if frame.interlaced_frame:
        # The copy is progressive: kept as they are, the colours of a field would be read as those
        # of both. RGB has them at every line.
        frame = av.VideoFrame.from_ndarray(
            reformatter.reformat(frame, format="rgb24", **ONE_THREAD).to_ndarray(), format="rgb24"
        )
    size = {"height": height, "width": width} if short_edge < min(frame.height, frame.width) else {}
    frame = reformatter.reformat(
        frame, format="yuv420p", interpolation="BICUBIC", **size, **ONE_THREAD
    )
    planes = []
    for plane, halved in zip(frame.planes, (1, 2, 2)):  # colour has half the lines
        lines = np.frombuffer(cast(Any, plane), np.uint8).reshape(plane.height, plane.line_size)
        # Of a frame that keeps its size, an odd line goes.
        lines = lines[: height // halved, : width // halved]
        planes.append(upright(lines, matrix))
    layout = np.concatenate([plane.reshape(-1) for plane in planes])
    small = av.VideoFrame.from_ndarray(layout.reshape(-1, planes[0].shape[1]), format="yuv420p")
    # The new frame has no display matrix, and is not RGB (0) any more.
    small.colorspace, small.color_range = frame.colorspace or UNSPECIFIED, frame.color_range
    return small


def _check_copy(path: Path, times: list[Fraction]) -> None:
    """Decode what was written.

    Raises:
        ValueError: If it has not as many frames as there are times, or not at these times.
    """
    try:
        with VideoReader(path, "pyav") as reader:
            found = sum(1 for _ in reader.decode_all())
    except DecodeError as error:
        raise ValueError(f"the copy does not decode: {error.reason}") from error
    if found != len(times):
        raise ValueError(f"the copy has {found} frames, not {len(times)}")
    container, stream = open_video(path)
    with container:
        tick, start = stream.time_base or Fraction(0), stream.start_time or 0
        shown = [((p.pts or 0) - start) * tick for p in container.demux(stream) if p.size]
    off = max(abs(time - due) for time, due in zip(shown, times))
    if off > HALF_TICK:
        raise ValueError(f"the copy shows frames up to {float(off):.3f} s too early or late")


def _check_content(path: Path, samples: list[int], thumbnails: np.ndarray) -> None:
    """Compare some frames of what was written with those of the source.

    Args:
        path: The copy.
        samples: Frame numbers.
        thumbnails: These frames of the source: uint8 [len(samples), 8, 8, 3].

    Raises:
        ValueError: If one shows something else, or is turned, mirrored or of other colours.
    """
    with VideoReader(path, "pyav") as reader:
        copied = reader.read(samples, _thumbnail).astype(float)
    frames = (1, 2, 3)  # the axes within one
    contrasts = np.abs(thumbnails - thumbnails.mean((1, 2), keepdims=True)).mean(frames)
    differences = np.abs(copied - thumbnails).mean(frames)
    # Compression at crf 51 takes half of the contrast; another picture is 1 to 2 times away.
    excess = differences - np.maximum(MIN_DIFFERENCE, 0.75 * contrasts)
    worst = int(excess.argmax())
    if excess[worst] > 0:
        raise ValueError(
            f"frame {samples[worst]} of the copy looks different from the source's, by "
            f"{differences[worst]:.0f} grey levels"
        )


def _thumbnail(frame: np.ndarray) -> np.ndarray:
    """[H, W, 3] -> [8, 8, 3], averages of blocks: what survives any compression."""
    height, width = (max(1, edge // 2 * 2) for edge in frame.shape[:2])  # a copy has no odd line
    image = Image.fromarray(frame[:height, :width])
    return np.asarray(image.resize((8, 8), Image.Resampling.BOX))
