"""TorchCodec: the FFmpeg of the system; which frame is due at what time, PyAV says."""

import numpy as np

from vivit_train.video.container import TIMED, local
from vivit_train.video.decoders import ByNumber
from vivit_train.video.decoders.listing import list_frames, refuse_unproven
from vivit_train.video.watch import go_on

try:
    from torchcodec.decoders import VideoDecoder
except RuntimeError as error:  # what it raises for a library that it does not find
    raise ImportError(
        "TorchCodec needs the shared libraries of FFmpeg, which pip does not install, and a "
        "PyTorch of its time"
    ) from error


class TorchCodec(ByNumber):
    """See `Backend`. TorchCodec turns frames upright itself, and hides which are damaged.

    What its conversion of colours may read differently is refused.
    """

    def __init__(
        self, path: str, segment: tuple[float, float] | None, data: bytes | None = None
    ) -> None:
        listing = list_frames(path, segment, data)
        # It returned other frames of MPEG-TS and AVI, and nothing in them would tell.
        if listing.times is None:
            raise ValueError(
                "TorchCodec's frames are checked by time, which this file does not record: choose "
                "pyav"
            )
        refuse_unproven("TorchCodec", path, data, TIMED)
        self._times, self._first = listing.times, listing.first
        self.num_frames, self.fps = listing.num_frames, listing.fps
        self.promised, self.shown_at = listing.promised, listing.shown_at
        self._decoder = VideoDecoder(
            local(path) if data is None else data,
            stream_index=listing.stream,
            seek_mode="exact",
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            device="cpu",
        )

    def close(self) -> None:
        """Frees the decoder."""
        self._decoder = None

    def _frame(self, index: int) -> np.ndarray:
        due = self._times[index]
        # Not by time: it takes the durations that the file states for true.
        frame = self._decoder.get_frame_at(self._first + index)
        go_on()
        # Where what is marked as key frame is none, it returns a later one.
        if abs(frame.pts_seconds - due) > 1e-6:
            raise ValueError(
                f"frame {index} is due at {due:.3f} s, but TorchCodec returned that of "
                f"{frame.pts_seconds:.3f} s: choose pyav"
            )
        return frame.data.numpy()
