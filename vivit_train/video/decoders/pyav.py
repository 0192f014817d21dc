"""PyAV: today's FFmpeg, with every frame checked by its time."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import groupby, islice, pairwise
from math import inf

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from vivit_train.video.container import is_timed, open_video
from vivit_train.video.decoders import OnFrame, OnLuma, known_rate, span, ticks
from vivit_train.video.picture import luma, to_rgb
from vivit_train.video.watch import go_on

MILLISECOND = 1e-3  # in which Matroska and others count


class FalseKeyFrame(ValueError):
    """Decoding cannot begin at a frame that is marked as a key frame (as with intra refresh)."""


class PyAV:
    """See `Backend`."""

    num_frames: int

    def __init__(
        self, path: str, segment: tuple[float, float] | None, data: bytes | None = None
    ) -> None:
        self._path = path
        self._data = data
        self._segment = segment
        self._share = 0.0
        # One converter for all frames: each holds megabytes, and by default a thread per core.
        self._reformatter = VideoReformatter()
        self._container, self._stream = open_video(path, data)
        try:
            self._timed = is_timed(self._container)
            self._is_avi = self._container.format.name == "avi"
            self.fps = known_rate(self._stream.average_rate)
            if segment and self._timed:
                self._index_segment(*segment)
            else:
                self._index()
                if segment:
                    self._cut_out(*segment)
            self.promised = self._promise()
        except Exception:
            self.close()
            raise

    @property
    def stream_index(self) -> int:
        """Which of the file's streams is read."""
        return self._stream.index

    @property
    def offset(self) -> int | None:
        """Number in the whole video of a segment's first frame; None where it is told by time."""
        return None if self._segment and self._timed else self._first

    @property
    def times(self) -> list[float] | None:
        """When each frame is shown, in seconds; None where the container does not record it."""
        if self._pts is None:
            return None
        time_base = self._stream.time_base
        assert time_base is not None
        return [float(pts * time_base) for pts in self._pts[self._first :]]

    @property
    def shown_at(self) -> np.ndarray | None:
        """See `VideoReader.shown_at`; None where the file tells neither times nor a rate."""
        start, frames = self._segment[0] if self._segment else 0.0, np.arange(self.num_frames + 1)
        if self._stamps is None:
            return (self._first + frames) / self.fps - start if self.fps else None
        tick = float(self._stream.time_base or 0)
        seconds = np.append((np.array(self._stamps) - self._origin) * tick, self._end)
        return _unrounded(seconds, tick, self.fps) - start

    def _index(self) -> None:
        """List the frames from the packets: what containers say about their number is no proof."""
        packets, self._hidden, self._reached, ends = [], 0, 0.0, []
        # A duration of the container may be that of another stream, as of sound that is longer.
        streams = [self._stream] if _ends_at(self._stream) else []  # all
        for packet in self._container.demux(*streams):
            go_on()
            if packet.size and not packet.is_discard and packet.pts is not None:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                self._reached = max(self._reached, end)
            if packet.stream.index != self._stream.index:
                continue
            # Discarded packets lie outside the edit list: decoded at most, never shown.
            self._hidden += packet.is_discard
            if packet.size and not packet.is_discard:
                packets.append((packet.pts, packet.dts, packet.is_keyframe))
                time = packet.dts if self._is_avi else packet.pts
                ends.append((time or 0) + (packet.duration or 0))
        if not packets:
            raise ValueError("no frames in this file")
        self._first, self.num_frames = 0, len(packets)
        self._clock, self._stamps = self._clock_of(packets), None
        shown = {pts: is_key for pts, _, is_key in packets if pts is not None}
        self._pts = sorted(shown) if self._timed and len(shown) == self.num_frames else None
        # Where decoding can begin: frame numbers.
        self._starts = [0, *(i for i, pts in enumerate(self._pts or ()) if i and shown[pts])]
        self._begins_at_start = True
        if self._clock:
            self._stamps, self._origin = self._clock, self._clock[0]
            last = self._clock[-1]
            lasts = _seconds(max(ends) - last, self._stream) or 1 / (self.fps or 1000)
            self._end = _seconds(last - self._origin, self._stream) + lasts

    def _clock_of(self, packets: list[tuple[int | None, int | None, bool]]) -> list[int] | None:
        """When each frame is shown, in ticks, as it seems: enough to find a segment.

        Containers other than the timed ones say when a frame is due, but not always of which frame
        it is the time; in the timed ones some may share a time. ``None``: the times have gaps or
        jump.
        """
        if self._timed:
            stamps = sorted(pts for pts, _, _ in packets if pts is not None)
            return stamps if len(stamps) == len(packets) else None
        # In AVI pts are made up, and dts count places, of which some may hold no frame.
        times = [dts if self._is_avi else pts for pts, dts, _ in packets]
        shown = sorted({time for time in times if time is not None})
        order = [dts for _, dts, _ in packets if dts is not None]
        is_whole = len(shown) == len(order) == len(packets)
        return shown if is_whole and all(a < b for a, b in pairwise(order)) else None

    def _promise(self) -> int:
        """See `VideoReader.promised`."""
        if self._segment and self._share:
            return round(self.num_frames / self._share)
        if self._segment:
            return max(1, round((self._segment[1] - self._segment[0]) * self.fps))
        if self._stream.frames:
            # AVI counts places without a frame as well: the one before them is shown again.
            empty = self._clock[-1] + 1 - self.num_frames if self._clock and self._is_avi else 0
            return max(0, self._stream.frames - self._hidden - empty)
        start = _seconds(self._stream.start_time, self._stream)
        end = _ends_at(self._stream) or _ends_at(self._container)
        if not self._timed or not end or self._reached <= start:
            return 0
        # By time, not by the rate: in a video of variable rate that is an average at best.
        return max(0, round(self.num_frames * (end - start) / (self._reached - start)))

    def _index_segment(self, start: float, end: float, from_beginning: bool = False) -> None:
        """List the frames from the last key frame before a segment to the segment's end.

        With ``from_beginning`` from the video's first frame on.
        """
        time_base, origin = self._stream.time_base, self._stream.start_time or 0
        assert time_base is not None
        self._origin = origin
        first, last = (origin + ticks(seconds / time_base) for seconds in (start, end))
        back = 0.0  # seconds
        while True:
            target = origin if from_beginning else max(origin, first - round(back / time_base))
            shown, video_end = self._packets(target, last)
            keys = [pts for pts, is_key in shown.items() if is_key]
            self._begins_at_start = target == origin
            # Containers seek by the time of decoding: a key frame found so may be shown later.
            if self._begins_at_start or (keys and min(keys) <= first):
                break
            back = 2 * back or 1.0
        # What is shown before the first key frame needs an earlier one.
        self._pts = sorted(pts for pts in shown if self._begins_at_start or pts >= min(keys))
        self._choose(self._pts, first, float((video_end - origin) * time_base))
        self._starts = [0, *(i for i, pts in enumerate(self._pts) if i and shown[pts])]

    def _cut_out(self, start: float, end: float) -> None:
        """Keep a segment of a video that was listed whole."""
        if self._clock is None:
            self._first, self.num_frames = span(start, end, self.fps, self.num_frames)
            return
        time_base, origin = self._stream.time_base, self._clock[0]
        assert time_base is not None
        first, last = (origin + ticks(seconds / time_base) for seconds in (start, end))
        shown = self._clock[: max(1, bisect_left(self._clock, last))]
        video_end = float((self._clock[-1] - origin) * time_base) + 1 / (self.fps or 1000)
        self._choose(shown, first, video_end)

    def _choose(self, times: list[int], first: int, video_end: float) -> None:
        """Find the segment's frames among those that are shown before its end.

        Args:
            times: When these are shown, in ticks.
            first: When the segment begins, in ticks.
            video_end: When the video ends, in seconds from its beginning.
        """
        assert self._segment is not None
        start, end = self._segment
        if not times or video_end <= start:
            raise ValueError(f"no frame from {start:.2f} s on, where a segment should begin")
        # Where none is shown first within it, the one on display.
        self._first = min(bisect_left(times, first), len(times) - 1)
        self._stamps, self._end = times[self._first :], min(end, video_end)
        self.num_frames = len(times) - self._first
        # The part of the segment's time that the video covers.
        self._share = min(1.0, (video_end - start) / (end - start)) if end > start else 1.0

    def _packets(self, target: int, last: int) -> tuple[dict[int, bool], float]:
        """Frames from a key frame before ``target`` to ``last``: their times, and which are keys.

        Also the time at which the video ends, infinity if that is after ``last``.
        """
        if target > (self._stream.start_time or 0):
            self._seek(target)
        else:
            self._reopen()
        shown, video_end = {}, 0.0
        for packet in self._container.demux(self._stream):
            go_on()
            # No frame is shown before it is decoded: all that follow are shown later.
            if packet.dts is not None and packet.dts >= last:
                video_end = inf
                break
            if packet.size and not packet.is_discard and packet.pts is not None:
                shown[packet.pts] = packet.is_keyframe
                video_end = max(video_end, packet.pts + (packet.duration or 1))
        return {pts: is_key for pts, is_key in shown.items() if pts < last}, video_end

    def read(self, wanted: list[int], on_frame: OnFrame) -> list[np.ndarray]:
        """Forward only, from the last key frame before each wanted frame."""
        indices = [self._first + index for index in wanted]
        try:
            return [
                on_frame(frame)
                for start, group in groupby(indices, key=self._start_of)
                for frame in self._decode(start, list(group))
            ]
        except Exception as error:
            if not self._go_back(error):
                raise
            return self.read(wanted, on_frame)

    def _go_back(self, error: Exception) -> bool:
        """Have decoding begin earlier, as what is marked as a key frame may be none."""
        if self._starts != [0]:
            self._starts = [0]
        elif isinstance(error, FalseKeyFrame) and self._segment and not self._begins_at_start:
            # Not for damage: it would be met again, and the way may be an hour long.
            self._index_segment(*self._segment, from_beginning=True)
            self._starts = [0]
        else:
            return False
        return True

    def _start_of(self, index: int) -> int:
        return self._starts[bisect_right(self._starts, index) - 1]

    def _decode(self, start: int, wanted: list[int]) -> Iterator[np.ndarray]:
        """Decode from frame ``start`` to the last one wanted."""
        for index, frame in zip(range(start, wanted[-1] + 1), self._frames(start)):
            if index in wanted:
                yield to_rgb(frame, self._reformatter)

    def stream(self, wanted: list[int], look: OnLuma | None = None) -> Iterator[np.ndarray]:
        """From the first frame on: going by key frames would decode again where one is false."""
        due, to_gray = iter(wanted), VideoReformatter()
        index = next(due, None)
        for place, frame in enumerate(self._all_frames() if wanted else ()):
            if look:
                look(luma(frame, to_gray))
            if place == index:
                yield to_rgb(frame, self._reformatter)
                index = next(due, None)
                if index is None:
                    return

    def decode_all(self) -> Iterator[int]:
        """Yields how many have been decoded."""
        for count, frame in zip(range(1, self.num_frames + 1), self._all_frames()):
            if count == 1:
                size = frame.width, frame.height
                to_rgb(frame, self._reformatter)  # it can be converted, too
            elif size != (frame.width, frame.height):
                raise ValueError(f"frame {count - 1} differs in size from those before it")
            yield count

    def _all_frames(self) -> Iterator[av.VideoFrame]:
        """The frames of the segment, or of the video, in order."""
        start = self._start_of(self._first)
        frames: Iterator[av.VideoFrame]
        try:
            frames = islice(self._frames(start), self._first - start, None)
            yield next(frames)
        except FalseKeyFrame as error:
            if not self._go_back(error):
                raise
            frames = self._all_frames()
        yield from frames

    def _frames(self, start: int) -> Iterator[av.VideoFrame]:
        """Decode from frame ``start`` on, each frame checked to be the one due."""
        if self._pts and (start or not self._begins_at_start):
            self._seek(self._pts[start])
        else:
            self._reopen()
        due = start
        try:
            for frame in self._container.decode(self._stream):
                go_on()
                if self._pts is not None:
                    if frame.pts is not None and frame.pts < self._pts[start]:
                        continue  # belongs to an earlier key frame
                    if frame.pts != self._pts[due]:
                        break
                # Wanted or not: the frames that follow are predicted from this one.
                if frame.is_corrupt:
                    raise ValueError(f"{self._name(due)} is damaged")
                yield frame
                due += 1
        except av.error.FFmpegError as error:
            raise ValueError(f"{self._name(due)} does not decode ({error.strerror})") from error
        if due == start and (start or not self._begins_at_start):
            raise FalseKeyFrame(f"{self._name(due)} is marked as a key frame, but is none")
        raise ValueError(f"{self._name(due)} does not decode")

    def _name(self, index: int) -> str:
        """A frame, for a message."""
        if index >= self._first:
            return f"frame {index - self._first} of {self.num_frames}"
        return f"a frame {self._first - index} before the segment, on which it depends,"

    def _seek(self, time: int) -> None:
        """To the last key frame before a time, in ticks of the stream."""
        try:
            self._container.seek(time, stream=self._stream)
        except av.error.FFmpegError as error:  # as a rule "Operation not permitted"
            seconds = _seconds(time, self._stream)
            raise ValueError(f"the file's index does not lead to {seconds:.2f} s") from error

    def _reopen(self) -> None:
        """Back to the beginning, to which not every file can seek."""
        self._container.close()
        self._container, self._stream = open_video(self._path, self._data)

    def close(self) -> None:
        """Frees the decoder."""
        self._container.close()


def _unrounded(seconds: np.ndarray, tick: float, fps: float) -> np.ndarray:
    """Times as they were before the container rounded them to its ticks.

    Args:
        seconds: Float [N + 1], when frames appear and the last one goes.
        tick: Seconds of one.
        fps: Average rate; 0 if unknown.

    Returns:
        The same where all of them are those of the rate, up to a millisecond, by the rate. Others
        as early as they may have been: a frame that is due at a moment is on display at it.
    """
    even = np.round(seconds * fps) / (fps or 1)
    is_near = abs(seconds - even) <= MILLISECOND
    if fps and is_near[:-1].all():
        return np.where(is_near, even, seconds)
    return seconds - min(tick, MILLISECOND) / 2


def _seconds(time: int | None, stream: av.VideoStream) -> float:
    return float((time or 0) * (stream.time_base or 0))


def _ends_at(part: av.VideoStream | av.container.InputContainer) -> float:
    """When a stream or a container ends by what the file says, in seconds; 0: it does not say."""
    if isinstance(part, av.container.InputContainer):
        duration, start = (part.duration or 0) / 1e6, (part.start_time or 0) / 1e6
        # Matroska's duration is the time of the end, whatever that of the first frame.
        is_end = not duration or part.format.name.startswith("matroska")
        return duration if is_end else start + duration
    if part.duration:
        return _seconds(part.duration, part) + _seconds(part.start_time, part)
    hours, _, rest = part.metadata.get("DURATION", "").partition(":")  # Matroska's, likewise
    minutes, _, seconds = rest.partition(":")
    try:
        return 3600 * float(hours) + 60 * float(minutes) + float(seconds)
    except ValueError:
        return 0.0
