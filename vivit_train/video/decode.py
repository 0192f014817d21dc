"""Exact frames from a video file, or a loud error.

The only file that touches a decoder. Open a reader where it is used and close it there: one that
was opened before a fork can hang in the child.
"""

import os
import stat
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, islice
from math import ceil, inf
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, SupportsFloat

import numpy as np

from vivit_train.errors import UserError

if TYPE_CHECKING:
    import av

DECODERS = ("auto", "pyav", "decord")


class DecodeError(Exception):
    """A video that cannot be opened, or a frame that cannot be had exactly.

    Attributes:
        path: The file.
        reason: What went wrong, on one line.
    """

    def __init__(self, path: str, reason: str) -> None:
        # Both go to Exception, whose pickling rebuilds the error from them in another process.
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


# A video as `VideoReader` is asked for it: path, and segment if any.
Source = tuple[str, tuple[float, float] | None]
_hooks: list[Callable[[Source], None]] = []


@contextmanager
def before_opening(hook: Callable[[Source], None]) -> Iterator[None]:
    """Within, ``hook`` is called with each video before it is opened, and may refuse by raising."""
    _hooks.append(hook)
    try:
        yield
    finally:
        _hooks.remove(hook)


def why_no_file(path: str | Path) -> str | None:
    """Why a path cannot be opened as a file; ``None`` if it can.

    Opening a pipe or a device may wait for ever: this only looks at what it is.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "a link to nothing" if os.path.islink(path) else "no such file"
    except OSError as error:
        return _reason(error)
    if stat.S_ISREG(mode):
        return None
    kinds = ((stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"))
    kind = next((name for is_kind, name in kinds if is_kind(mode)), "device")
    return f"no file but a {kind}"


class VideoReader:
    """One open video or a segment of it, its frames by number in the order of display.

    Args:
        path: A video file.
        segment: (start, end) in seconds from the video's beginning: the frames shown first in
            [start, end), or the one on display where none is. ``None``: all frames. In mp4, mov,
            mkv and webm a segment is sought: nothing but the container's index and the segment
            is read, however long the video is.
        decoder: ``pyav``, ``decord``, or ``auto``, which is PyAV: it opens all that decord does
            and AV1, is installed everywhere, and checks each frame's time. decord 0.6 seeks by
            assumptions that fail with open groups of pictures (x265's default), B-frames in
            MPEG-4, and MPEG-TS: it then returns frames up to some tens away, without an error.

    Attributes:
        num_frames: Frames of the segment, in the stream that players show by default.
        fps: Average frames per second; 0 where the container does not say.
        decoder: Who reads: ``pyav`` or ``decord``.
        promised: Frames that there should be by what the container says of their number or its
            duration, or by the segment's duration; 0 where nothing is said (or decord reads). A
            file that was cut off has fewer.

    Raises:
        UserError: If ``decoder`` is not one of the above, or is not installed.
        DecodeError: If the file cannot be opened, holds no frame, or ends before the segment.
    """

    def __init__(
        self,
        path: str | Path,
        decoder: str = "auto",
        segment: tuple[float, float] | None = None,
    ) -> None:
        if decoder not in DECODERS:
            raise UserError(f"decoder={decoder!r} does not exist; choose {' or '.join(DECODERS)}")
        self.path = str(path)
        for hook in _hooks:
            hook((self.path, segment))
        reason = why_no_file(self.path)
        if reason:
            raise DecodeError(self.path, reason)
        try:
            backend = _Decord if decoder == "decord" else _PyAV
            self._backend: _Backend = backend(self.path, segment)
        except ImportError as error:
            raise UserError(
                f"decoder={decoder} cannot be imported ({error}); install it or choose another"
            ) from error
        except Exception as error:
            raise DecodeError(self.path, _reason(error)) from error
        self.num_frames: int = self._backend.num_frames
        self.fps: float = self._backend.fps
        self.decoder: str = self._backend.name
        self.promised: int = self._backend.promised
        self._closed = False

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Decode frames, in any order and with repeats.

        Args:
            indices: At least one frame number in [0, num_frames).

        Returns:
            uint8 [len(indices), H, W, 3], RGB, upright: the file's rotation is applied.

        Raises:
            DecodeError: If an index is outside the video or one of the frames does not decode.
        """
        if self._closed:
            raise DecodeError(self.path, "the reader is closed")
        # Forward and once each: going back would decode again from a key frame.
        wanted, places = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        for index in wanted[[0, -1]]:
            if not 0 <= index < self.num_frames:
                raise DecodeError(self.path, f"there is no frame {index}, only {self.num_frames}")
        try:
            return self._backend.read(wanted.tolist())[places]
        except Exception as error:
            raise DecodeError(self.path, _reason(error)) from error

    def decode_all(self) -> Iterator[int]:
        """Decode every frame in order and keep none, whatever the length.

        Yields:
            How many frames have been decoded, after each.

        Raises:
            DecodeError: At the first frame that does not decode.
        """
        try:
            yield from self._backend.decode_all()
        except Exception as error:
            raise DecodeError(self.path, _reason(error)) from error

    def close(self) -> None:
        """Free the decoder; reading afterwards raises."""
        self._closed = True
        self._backend.close()

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Backend(Protocol):
    """One decoder; ``read`` gets sorted, distinct, existing frame numbers."""

    name: str
    num_frames: int
    fps: float
    promised: int

    def read(self, wanted: list[int]) -> np.ndarray: ...

    def decode_all(self) -> Iterator[int]: ...

    def close(self) -> None: ...


class _PyAV:
    name = "pyav"
    num_frames: int

    def __init__(self, path: str, segment: tuple[float, float] | None) -> None:
        import av  # here, as in _Decord, so that either decoder works without the other
        from av.video.reformatter import VideoReformatter

        self._path = path
        # One converter for all frames: each holds megabytes, and by default a thread per core.
        self._reformatter = VideoReformatter()
        self._one_thread = {"threads": 1} if int(av.__version__.split(".")[0]) >= 18 else {}
        self._container = self._open()
        try:
            # Only these two families record when each frame is shown; in the others (AVI, MPEG-TS)
            # frames can be told apart by counting from the start alone.
            self._timed = self._container.format.name.startswith(("mov", "matroska"))
            self.fps = _known(self._stream.average_rate)
            if segment and self._timed:
                self._index_segment(*segment)
            else:
                self._index()
            if segment and not self._timed:
                self._first, self.num_frames = _span(*segment, self.fps, self.num_frames)
            self.promised = self._promise(segment)
        except Exception:
            self.close()
            raise

    def _open(self) -> "av.container.InputContainer":
        import av

        container = av.open(self._path)
        # The stream that players choose: the one marked default, then the largest.
        stream = container.streams.best("video")
        if not isinstance(stream, av.VideoStream):
            container.close()
            raise ValueError("no video stream")
        if stream.codec_context is None:
            container.close()
            raise ValueError("no decoder for its video stream")
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        self._stream = stream
        return container

    def _index(self) -> None:
        """List the frames from the packets: what containers say about their number is no proof."""
        packets, self._hidden, self._covered = [], 0, 0.0
        for packet in self._container.demux(self._stream):
            # Discarded packets lie outside the edit list: decoded at most, never shown.
            self._hidden += packet.is_discard
            if packet.size and not packet.is_discard:
                packets.append((packet.pts, packet.is_keyframe))
                end = (packet.pts or 0) + (packet.duration or 0) - (self._stream.start_time or 0)
                self._covered = max(self._covered, end * float(packet.time_base))
        if not packets:
            raise ValueError("no frames")
        self._first, self.num_frames = 0, len(packets)
        shown = {pts: is_key for pts, is_key in packets if pts is not None}
        self._pts = sorted(shown) if self._timed and len(shown) == self.num_frames else None
        # Where decoding can begin: frame numbers.
        self._starts = [0, *(i for i, pts in enumerate(self._pts or ()) if i and shown[pts])]
        self._begins_at_start = True

    def _promise(self, segment: tuple[float, float] | None) -> int:
        """See `VideoReader.promised`."""
        if segment:
            return max(1, round((segment[1] - segment[0]) * self.fps))
        if self._stream.frames:
            return max(0, self._stream.frames - self._hidden)
        if not self._timed or not self._covered:
            return 0
        # By time, not by the rate: in a video of variable rate that is an average at best.
        return round(self.num_frames * _duration(self._stream, self._container) / self._covered)

    def _index_segment(self, start: float, end: float) -> None:
        """List the frames from the last key frame before a segment to the segment's end."""
        time_base, origin = self._stream.time_base, self._stream.start_time or 0
        assert time_base is not None
        first, last = (origin + _ticks(seconds / time_base) for seconds in (start, end))
        back = 0.0  # seconds
        while True:
            target = max(origin, first - round(back / time_base))
            shown, video_end = self._packets(target, last)
            keys = [pts for pts, is_key in shown.items() if is_key]
            self._begins_at_start = target == origin
            # Containers seek by the time of decoding: a key frame found so may be shown later.
            if self._begins_at_start or (keys and min(keys) <= first):
                break
            back = 2 * back or 1.0
        # What is shown before the first key frame needs an earlier one.
        self._pts = sorted(pts for pts in shown if self._begins_at_start or pts >= min(keys))
        if not self._pts or video_end <= first:
            raise ValueError(f"no frame from {start:.2f} s on, where a segment should begin")
        self._first = min(bisect_left(self._pts, first), len(self._pts) - 1)
        self.num_frames = len(self._pts) - self._first
        self._starts = [0, *(i for i, pts in enumerate(self._pts) if i and shown[pts])]

    def _packets(self, target: int, last: int) -> tuple[dict[int, bool], float]:
        """Frames from a key frame before ``target`` to ``last``: their times, and which are keys.

        Also the time at which the video ends, infinity if that is after ``last``.
        """
        if target > (self._stream.start_time or 0):
            self._container.seek(target, stream=self._stream)
        else:
            self._reopen()
        shown, video_end = {}, 0.0
        for packet in self._container.demux(self._stream):
            # No frame is shown before it is decoded: all that follow are shown later.
            if packet.dts is not None and packet.dts >= last:
                video_end = inf
                break
            if packet.size and not packet.is_discard and packet.pts is not None:
                shown[packet.pts] = packet.is_keyframe
                video_end = max(video_end, packet.pts + (packet.duration or 1))
        return {pts: is_key for pts, is_key in shown.items() if pts < last}, video_end

    def read(self, wanted: list[int]) -> np.ndarray:
        indices = [self._first + index for index in wanted]
        try:
            frames = [
                frame
                for start, group in groupby(indices, key=self._start_of)
                for frame in self._decode(start, list(group))
            ]
        except Exception:
            if self._starts == [0]:
                raise
            # What is marked as key frame may be none (intra refresh): from the start it is, then;
            # of a segment from its first, as the video's start may be an hour away.
            self._starts = [0]
            return self.read(wanted)
        sizes = sorted({frame.shape[:2] for frame in frames})
        if len(sizes) > 1:
            raise ValueError(f"the frames differ in size: {sizes}")
        return np.stack(frames)

    def _start_of(self, index: int) -> int:
        return self._starts[bisect_right(self._starts, index) - 1]

    def _decode(self, start: int, wanted: list[int]) -> Iterator[np.ndarray]:
        """Decode from frame ``start`` to the last one wanted."""
        for index, frame in zip(range(start, wanted[-1] + 1), self._frames(start)):
            if index in wanted:
                yield self._to_rgb(frame)

    def decode_all(self) -> Iterator[int]:
        start = self._start_of(self._first)
        frames = islice(self._frames(start), self._first - start, None)
        for count, frame in zip(range(1, self.num_frames + 1), frames):
            if count == 1:
                size = frame.width, frame.height
                self._to_rgb(frame)  # it can be converted, too
            elif size != (frame.width, frame.height):
                raise ValueError(f"frame {count - 1} differs in size from those before it")
            yield count

    def _frames(self, start: int) -> "Iterator[av.VideoFrame]":
        """Decode from frame ``start`` on, each frame checked to be the one due."""
        if self._pts and (start or not self._begins_at_start):
            self._container.seek(self._pts[start], stream=self._stream)
        else:
            self._reopen()
        due = start
        for frame in self._container.decode(self._stream):
            if self._pts is not None:
                if frame.pts is not None and frame.pts < self._pts[start]:
                    continue  # belongs to an earlier key frame
                if frame.pts != self._pts[due]:
                    break
            # Wanted or not: the frames that follow are predicted from this one.
            if frame.is_corrupt:
                raise ValueError(f"frame {due - self._first} is damaged")
            yield frame
            due += 1
        raise ValueError(f"frame {due - self._first} of {self.num_frames} does not decode")

    def _reopen(self) -> None:
        """Back to the beginning, to which not every file can seek."""
        self._container.close()
        self._container = self._open()

    def _to_rgb(self, frame: "av.VideoFrame") -> np.ndarray:
        rgb = self._reformatter.reformat(frame, format="rgb24", **self._one_thread).to_ndarray()
        return np.rot90(rgb, round(frame.rotation / 90)) if frame.rotation else rgb

    def close(self) -> None:
        self._container.close()


class _Decord:
    name = "decord"
    num_frames: int
    promised = 0

    def __init__(self, path: str, segment: tuple[float, float] | None) -> None:
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        # fault_tol: the smallest share, i.e. none, of frames that decord could not decode and put
        # a neighbour in their place; by default any number passes unsaid.
        self._reader = decord.VideoReader(path, num_threads=1, fault_tol=1e-9)
        self._first, self.num_frames = 0, len(self._reader)
        self.fps = _known(self._reader.get_avg_fps())
        if segment:
            self._first, self.num_frames = _span(*segment, self.fps, self.num_frames)

    def read(self, wanted: list[int]) -> np.ndarray:
        return self._reader.get_batch([self._first + index for index in wanted]).asnumpy()

    def decode_all(self) -> Iterator[int]:
        for index in range(self.num_frames):
            self.read([index])
            yield index + 1

    def close(self) -> None:
        self._reader = None


def _span(start: float, end: float, fps: float, num_frames: int) -> tuple[int, int]:
    """First frame and number of frames of a segment, counted at a constant rate."""
    if not fps:
        raise ValueError("no frame rate, by which to find a segment")
    first, last = (_ticks(seconds * fps) for seconds in (start, end))
    if start * fps >= num_frames:
        raise ValueError(f"no frame from {start:.2f} s on, where a segment should begin")
    last = min(max(1, last), num_frames)
    first = min(first, last - 1)  # where no frame is shown first, the one on display
    return first, last - first


def _ticks(time: float) -> int:
    """The first whole tick at or after a time; a product's last digits are none of it."""
    return ceil(round(time, 4))


def _duration(stream: "av.VideoStream", container: "av.container.InputContainer") -> float:
    """Seconds that a container says a stream lasts, or else itself; 0: it does not say."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    hours, _, rest = stream.metadata.get("DURATION", "").partition(":")  # Matroska's
    minutes, _, seconds = rest.partition(":")
    try:
        return 3600 * float(hours) + 60 * float(minutes) + float(seconds)
    except ValueError:
        return (container.duration or 0) / 1e6  # microseconds


def _known(fps: SupportsFloat | None) -> float:
    """A frame rate, where None, 0/0 and nan mean that the container does not say."""
    rate = float(fps or 0)
    return rate if 0 < rate < inf else 0.0


def _reason(error: Exception) -> str:
    # FFmpeg's errors repeat the path and a number that means nothing to people; strerror does not.
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()) or type(error).__name__
