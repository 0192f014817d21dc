"""decord 0.6: FFmpeg of 2019; what it may read differently is refused."""

from io import BytesIO

import decord
import numpy as np

from vivit_train.video.container import local
from vivit_train.video.decoders import ByNumber
from vivit_train.video.decoders.listing import list_frames, refuse_unproven
from vivit_train.video.watch import go_on

CONTAINERS = ("mov", "matroska", "avi", "flv")
CODECS = ("h264", "hevc", "mpeg4", "mjpeg", "vp8", "vp9")


class Decord(ByNumber):
    """See `Backend`. PyAV lists the frames; decord has to count as many.

    Frames are taken one after the other from the first one on. decord's own way to a frame,
    seeking and skipping, goes by assumptions: with open groups of pictures, with B-frames in
    MPEG-4 or in AVI, and by chance where packets have no time, it gives another frame in place of
    the one asked for, and no error. In MPEG-TS and MPEG-PS it does not even find the first one.
    """

    def __init__(
        self, path: str, segment: tuple[float, float] | None, data: bytes | None = None
    ) -> None:
        decord.logging.set_level(decord.logging.QUIET)
        self._path, self._data = path, data
        refuse_unproven("decord", path, data, CONTAINERS, CODECS, one_stream=True)
        listing = list_frames(path, segment, data)
        self._first, self.num_frames = listing.first, listing.num_frames
        self.fps, self.promised = listing.fps, listing.promised
        self.shown_at = listing.shown_at
        self._reader, self._next = self._open(), 0
        if len(self._reader) != listing.in_all:
            raise ValueError(
                f"decord counts {len(self._reader)} frames, but {listing.in_all} are shown: "
                "choose pyav"
            )

    def close(self) -> None:
        """Frees the decoder."""
        self._reader = None

    def _open(self) -> decord.VideoReader:
        source = local(self._path) if self._data is None else BytesIO(self._data)
        # fault_tol: the smallest share, i.e. none, of frames that decord could not decode and put
        # a neighbour in their place; by default any number passes unsaid.
        return decord.VideoReader(source, num_threads=1, fault_tol=1e-9)

    def _frame(self, index: int) -> np.ndarray:
        index += self._first
        if index < self._next:
            self._reader, self._next = self._open(), 0
        while self._next <= index:
            frame = self._reader.next()
            go_on()
            self._next += 1
        if frame.shape[2] != 3:
            raise ValueError(f"decord cannot show frames {frame.shape[1]} wide: choose pyav")
        return frame.asnumpy()
