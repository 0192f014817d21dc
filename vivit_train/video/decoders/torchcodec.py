"""TorchCodec: the FFmpeg of the system; which frame is due at what time, PyAV says."""

from collections.abc import Iterator

import numpy as np

from vivit_train.video.decoders import OnFrame
from vivit_train.video.decoders.pyav import PyAV

try:
    from torchcodec.decoders import VideoDecoder
except RuntimeError as error:  # what it raises for a library that it does not find
    raise ImportError(
        "TorchCodec needs the shared libraries of FFmpeg, which pip does not install, and a "
        "PyTorch of its time"
    ) from error


class TorchCodec:
    """See `Backend`. TorchCodec turns frames upright itself, and hides which are damaged."""

    def __init__(
        self, path: str, segment: tuple[float, float] | None, data: bytes | None = None
    ) -> None:
        listed = PyAV(path, segment, data)
        times = listed.times
        listed.close()
        self.num_frames, self.fps, self.promised = listed.num_frames, listed.fps, listed.promised
        # By number it returned other frames of MPEG-TS and AVI, even in its mode "exact".
        if times is None:
            raise ValueError(
                "TorchCodec finds frames by time, which this file does not record: choose pyav"
            )
        self._times = times
        self._decoder = VideoDecoder(
            path if data is None else data,
            seek_mode="exact",
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            device="cpu",
        )

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
        self._decoder = None

    def _frame(self, index: int) -> np.ndarray:
        due = self._times[index]
        end = self._times[index + 1] if index + 1 < self.num_frames else due
        frame = self._decoder.get_frame_played_at(due if end == due else (due + end) / 2)
        # Where what is marked as key frame is none, it returns a later one.
        if abs(frame.pts_seconds - due) > 1e-6:
            raise ValueError(
                f"frame {index} is due at {due:.3f} s, but TorchCodec returned that of "
                f"{frame.pts_seconds:.3f} s: choose pyav"
            )
        return frame.data.numpy()
