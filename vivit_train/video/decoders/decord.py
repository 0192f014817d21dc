"""decord 0.6: FFmpeg of 2019."""

from collections.abc import Iterator
from io import BytesIO

import decord
import numpy as np

from vivit_train.video.decoders import OnFrame, known_rate, span


class Decord:
    """See `Backend`; it does not say how many frames there should be.

    Frames are taken one after the other from the first one on. decord's own way to a frame,
    seeking and skipping, goes by assumptions: with open groups of pictures, with B-frames in
    MPEG-4 or in AVI, and by chance where packets have no time, it gives another frame in place of
    the one asked for, and no error. In MPEG-TS it does not even find the first one.
    """

    promised = 0

    def __init__(
        self, path: str, segment: tuple[float, float] | None, data: bytes | None = None
    ) -> None:
        decord.logging.set_level(decord.logging.QUIET)
        self._path, self._data = path, data
        if self._is_transport_stream():
            raise ValueError("decord returns other frames of MPEG-TS: choose pyav")
        self._reader, self._next = self._open(), 0
        self._first, self.num_frames = 0, len(self._reader)
        self.fps = known_rate(self._reader.get_avg_fps())
        if segment:
            self._first, self.num_frames = span(*segment, self.fps, self.num_frames)

    def read(self, wanted: list[int], on_frame: OnFrame) -> list[np.ndarray]:
        """One after the other: a batch would hold them all as decoded."""
        return [on_frame(self._frame(index).asnumpy()) for index in wanted]

    def decode_all(self) -> Iterator[int]:
        """Yields how many have been decoded."""
        for index in range(self.num_frames):
            self._frame(index)
            yield index + 1

    def close(self) -> None:
        """Frees the decoder."""
        self._reader = None

    def _is_transport_stream(self) -> bool:
        """By the byte that begins each of its packets, of 188 bytes or, on Blu-ray, 4 more."""
        with open(self._path, "rb") if self._data is None else BytesIO(self._data) as file:
            head = file.read(200)
        return any(head[at :: at + 188] == b"GG" for at in (0, 4))

    def _open(self) -> decord.VideoReader:
        source = self._path if self._data is None else BytesIO(self._data)
        # fault_tol: the smallest share, i.e. none, of frames that decord could not decode and put
        # a neighbour in their place; by default any number passes unsaid.
        return decord.VideoReader(source, num_threads=1, fault_tol=1e-9)

    def _frame(self, index: int) -> decord.ndarray.NDArray:
        index += self._first
        if index < self._next:
            self._reader, self._next = self._open(), 0
        while self._next <= index:
            frame = self._reader.next()
            self._next += 1
        return frame
