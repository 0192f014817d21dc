"""decord 0.6: FFmpeg of 2019."""

from collections.abc import Iterator
from io import BytesIO

import decord
import numpy as np

from vivit_train.video.decoders import OnFrame, known_rate, span


class Decord:
    """See `Backend`; it does not say how many frames there should be."""

    promised = 0

    def __init__(
        self, path: str, segment: tuple[float, float] | None, data: bytes | None = None
    ) -> None:
        decord.logging.set_level(decord.logging.QUIET)
        self._path, self._data = path, data
        self._reader = self._open()
        self._first, self.num_frames = 0, len(self._reader)
        self.fps = known_rate(self._reader.get_avg_fps())
        if segment:
            self._first, self.num_frames = span(*segment, self.fps, self.num_frames)

    def read(self, wanted: list[int], on_frame: OnFrame) -> list[np.ndarray]:
        """One after the other: a batch would hold them all as decoded."""
        return [on_frame(self._frame(index)) for index in wanted]

    def decode_all(self) -> Iterator[int]:
        """Yields how many have been decoded."""
        for index in range(self.num_frames):
            self._frame(index)
            yield index + 1

    def close(self) -> None:
        """Frees the decoder."""
        self._reader = None

    def _open(self) -> decord.VideoReader:
        source = self._path if self._data is None else BytesIO(self._data)
        # fault_tol: the smallest share, i.e. none, of frames that decord could not decode and put
        # a neighbour in their place; by default any number passes unsaid.
        return decord.VideoReader(source, num_threads=1, fault_tol=1e-9)

    def _frame(self, index: int) -> np.ndarray:
        try:
            return self._reader.get_batch([self._first + index]).asnumpy()[0]
        except decord.DECORDLimitReachedError:
            # On a busy machine decord's own thread, rarely, loses a frame of a video that is whole.
            # What is damaged fails again.
            self._reader = self._open()
            return self._reader.get_batch([self._first + index]).asnumpy()[0]
