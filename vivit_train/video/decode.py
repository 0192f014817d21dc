"""Exact frames from a video, or a loud error; `decoders` holds what touches a library.

Open a reader where it is used and close it there: one that was opened before a fork can hang in
the child.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vivit_train.errors import UserError
from vivit_train.video.decoders import Backend, OnFrame, OnLuma
from vivit_train.video.decoders.pictures import Pictures, holds_pictures
from vivit_train.video.watch import begin

DECODERS = ("auto", "pyav", "decord", "torchcodec")


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


class DecoderLost(DecodeError):
    """A video that hung or killed the process that decodes it, every time that it was tried."""


def why_no_file(path: str | Path) -> str | None:
    """Why a path cannot be opened as a file, or as a folder of pictures; ``None`` if it can.

    Opening a pipe or a device may wait for ever: this only looks at what it is.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "a link to nothing" if os.path.islink(path) else "no such file"
    except OSError as error:
        return _reason(error)
    if stat.S_ISREG(mode) or (stat.S_ISDIR(mode) and holds_pictures(path)):
        return None
    kinds = ((stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"))
    kind = next((name for is_kind, name in kinds if is_kind(mode)), "device")
    return f"no file but a {kind}"


class VideoReader:
    """One open video or a segment of it, its frames by number in the order of display.

    Args:
        path: A video file; a folder of numbered pictures, one for each frame (`list_pictures`);
            or with ``data`` only the video's name.
        segment: (start, end) in seconds from the video's beginning: the frames shown first in
            [start, end), or the one on display where none is. ``None``: all frames. In mp4, mov,
            mkv and webm a segment is sought (not by decord): nothing but the container's index
            and the segment is read, however long the video is.
        decoder: ``pyav``, ``decord``, ``torchcodec``, or ``auto``, which is PyAV: it reads most
            containers and codecs, is installed everywhere, and checks each frame's time. The
            others give the same pixels or refuse the video (see `decoders.listing`). decord 0.6
            is read from the first frame on, as it seeks by assumptions that fail; what is damaged
            it may leave out, so that later frames come too early. TorchCodec reads what records
            the time of each frame (mp4, mov, mkv, webm); it shows damaged frames as FFmpeg mends
            them, without an error.
        data: The content of a file that is not on disk.
        picture_rate: Frames per second of a folder of pictures, which does not tell; ``None``:
            unknown. Segments, and frames by time, then cannot be had of it.

    Attributes:
        num_frames: Frames of the segment, in the stream that players show by default.
        fps: Average frames per second; 0 where the container does not say.
        decoder: Who reads videos; never ``auto``. Pictures are always read by Pillow.
        shown_at: Float64 [num_frames + 1]: when each frame appears on the screen, in seconds from
            the beginning of the segment or video, and when the last one goes. By time stamps; at
            the average rate where the container has none (AVI with B-frames, bare streams).
        promised: Frames that there should be by what the container says of their number or its
            duration, or by the segment's duration; 0 where nothing is said. A file that was cut
            off has fewer.

    Raises:
        UserError: If ``decoder`` is not one of the above, or does not load; or if pictures lack a
            rate that is needed.
        DecodeError: If the file cannot be opened, is not a container that holds its own frames,
            holds no frame, or ends before the segment; or if pictures of a folder are missing.
    """

    def __init__(
        self,
        path: str | Path,
        decoder: str = "auto",
        segment: tuple[float, float] | None = None,
        *,
        data: bytes | None = None,
        picture_rate: float | None = None,
    ) -> None:
        if decoder not in DECODERS:
            raise UserError(f"decoder={decoder!r} does not exist; choose {' or '.join(DECODERS)}")
        self.path = str(path)
        begin((self.path, segment))
        reason = why_no_file(self.path) if data is None else None
        if reason:
            raise DecodeError(self.path, reason)
        self.decoder = "pyav" if decoder == "auto" else decoder
        try:
            backend = _backend(self.decoder)
        except ImportError as error:
            raise UserError(
                f"decoder={decoder} cannot be imported ({error}); install it or choose another"
            ) from error
        try:
            self._backend: Backend
            if data is None and os.path.isdir(self.path):
                self._backend = Pictures(self.path, segment, picture_rate)
            else:
                self._backend = backend(self.path, segment, data)
        except UserError:
            raise
        except Exception as error:
            raise DecodeError(self.path, _reason(error)) from error
        self.num_frames: int = self._backend.num_frames
        self.fps: float = self._backend.fps
        self.promised: int = self._backend.promised
        self._closed = False

    @property
    def shown_at(self) -> np.ndarray:
        """See the attributes of the class.

        Raises:
            DecodeError: If the file has neither times nor a rate.
        """
        if self._backend.shown_at is None:
            raise DecodeError(self.path, "it does not say when its frames are shown")
        return self._backend.shown_at

    def read(
        self, indices: Sequence[int] | np.ndarray, resize: OnFrame | None = None
    ) -> np.ndarray:
        """Decode frames, in any order and with repeats.

        Args:
            indices: At least one frame number in [0, num_frames).
            resize: Makes each frame, uint8 [H, W, 3], into one of another size as soon as it is
                decoded, so that large frames are never held together. ``None``: they stay.

        Returns:
            uint8 [len(indices), H, W, 3], RGB, upright (see `picture`); or of the size that
            ``resize`` gives.

        Raises:
            DecodeError: If an index is outside the video or one of the frames does not decode.
        """
        # Forward and once each: going back would decode again from a key frame.
        wanted, places = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        self._check_there(wanted[[0, -1]])
        sizes = set()

        def check_and_resize(frame: np.ndarray) -> np.ndarray:
            sizes.add(frame.shape[:2])
            return resize(frame) if resize else frame

        try:
            frames = self._backend.read(wanted.tolist(), check_and_resize)
            if len(sizes) > 1:
                raise ValueError(f"the frames differ in size: {sorted(sizes)}")
            return np.stack([frames[place] for place in places])
        except UserError:
            raise  # by `resize`
        except Exception as error:
            raise DecodeError(self.path, _reason(error)) from error

    def stream(
        self,
        indices: np.ndarray,
        resize: OnFrame | None = None,
        look: OnLuma | None = None,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Decode frames forward, and give each as soon as it is there: none is decoded twice.

        Args:
            indices: int64 [N], frame numbers that ascend, each once.
            resize: As for `read`.
            look: Gets the brightness of every frame up to the last one wanted, uint8 [H, W] as it
                is stored, in order and before the frame is given; valid until it returns.

        Yields:
            The number of a frame, and the frame: uint8 [H, W, 3] as by `read`.

        Raises:
            DecodeError: As by `read`, when the frame is met.
        """
        self._check_there(indices[[0, -1]])
        size, wanted = None, indices.tolist()
        try:
            for index, frame in zip(wanted, self._backend.stream(wanted, look)):
                if size not in (None, frame.shape[:2]):
                    raise ValueError(f"frame {index} differs in size from those before it")
                size = frame.shape[:2]
                yield index, resize(frame) if resize else frame
        except UserError:
            raise  # by `resize`
        except Exception as error:
            raise DecodeError(self.path, _reason(error)) from error

    def _check_there(self, indices: np.ndarray) -> None:
        if self._closed:
            raise DecodeError(self.path, "the reader is closed")
        for index in indices:
            if not 0 <= index < self.num_frames:
                raise DecodeError(self.path, f"there is no frame {index}, only {self.num_frames}")

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

    def __exit__(self, *_: object) -> None:
        self.close()


def _backend(decoder: str) -> type[Backend]:
    """Imported where it is used: each library works without the other."""
    if decoder == "decord":
        from vivit_train.video.decoders.decord import Decord

        return Decord
    if decoder == "torchcodec":
        from vivit_train.video.decoders.torchcodec import TorchCodec

        return TorchCodec
    from vivit_train.video.decoders.pyav import PyAV

    return PyAV


def _reason(error: Exception) -> str:
    # FFmpeg's errors repeat the path and a number that means nothing to people; strerror does not.
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()) or type(error).__name__
