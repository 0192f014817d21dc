"""Files of every kind that a folder of videos was ever found to hold."""

import faulthandler
import os
import signal
import struct
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from vivit_train.video.decoders import pyav
from vivit_train.video.write import write_video

FRAMES = 24
# What each file is: its verdict for clips that span 16 frames.
USABLE = {
    "good.mp4": "ok",
    "one_frame.mp4": "short",
    "av1.mkv": "ok",
    "hevc_10_bit.mp4": "ok",
    "rotated.mp4": "ok",
    "two_streams.mp4": "ok",
    "4k.mp4": "ok",
    "1x1.mp4": "ok",
    "Größe mit Leerzeichen 視頻 #t=1,2.mp4": "ok",
    "a link.mp4": "ok",
    "truncated a bit.webm": "truncated",
}
UNUSABLE = {
    "empty.mp4": "unreadable",
    "text.mp4": "unreadable",
    "random.mp4": "unreadable",
    "half.mp4": "unreadable",
    "flipped.mp4": "unreadable",
    "truncated.webm": "truncated",
    "zero_length.mp4": "unreadable",
    "audio_only.mp4": "unreadable",
    "dangling.mp4": "missing",
    "pipe.mp4": "unreadable",
    "folder.mp4": "unreadable",
    "hangs.mp4": "timeout",
    "hangs_reading.mp4": "timeout",
    "crashes.mp4": "crashed",
}


def noise(num_frames: int = FRAMES, height: int = 48, width: int = 64) -> np.ndarray:
    """Frames that do not compress to nothing: uint8 [T, H, W, 3]."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (num_frames, -(-height // 8), -(-width // 8), 3), np.uint8)
    return small.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]


def write_torture(folder: Path) -> None:
    """Writes `USABLE` and `UNUSABLE`; those that hang and crash do so with `evil_decoder`."""
    good = folder / "good.mp4"
    write_video(good, noise(), options={"g": "8"})
    content = good.read_bytes()
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("not a video\n" * 40)
    (folder / "random.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "half.mp4").write_bytes(content[: len(content) // 2])
    start = content.index(b"mdat") + len(content) // 4
    (folder / "flipped.mp4").write_bytes(
        content[:start] + bytes(255 - byte for byte in content[start : start + 600])
        + content[start + 600 :]
    )  # fmt: skip
    fast = {"deadline": "realtime", "cpu-used": "8"}
    write_video(folder / "truncated.webm", noise(48), codec="libvpx-vp9", options=fast)
    webm = (folder / "truncated.webm").read_bytes()
    (folder / "truncated.webm").write_bytes(webm[: len(webm) // 4])
    (folder / "truncated a bit.webm").write_bytes(webm[: len(webm) * 3 // 4])
    write_video(folder / "one_frame.mp4", noise(1))
    # Of blocks: noise of this size takes seconds to decode, which is what the limits are for.
    large = noise(16, 27, 48).repeat(80, axis=1).repeat(80, axis=2)  # [16, 2160, 3840, 3]
    write_video(folder / "4k.mp4", large, options={"preset": "ultrafast"})
    write_video(folder / "1x1.mp4", noise(16, 1, 1))
    for name in ("Größe mit Leerzeichen 視頻 #t=1,2", "hangs", "hangs_reading", "crashes"):
        (folder / f"{name}.mp4").write_bytes(content)
    (folder / "rotated.mp4").write_bytes(rotated(content))
    write_av1(folder / "av1.mkv")
    write_hevc_10_bit(folder / "hevc_10_bit.mp4")
    write_two_streams(folder / "two_streams.mp4")
    write_nothing(folder / "zero_length.mp4")
    write_sound(folder / "audio_only.mp4")
    (folder / "dangling.mp4").symlink_to("nowhere.mp4")
    (folder / "a link.mp4").symlink_to("good.mp4")
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")


def rotated(content: bytes) -> bytes:
    """An mp4 that is to be shown turned by 90 degrees: the matrix in its track header."""
    start = content.index(b"tkhd") + 44
    matrix = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    return content[:start] + matrix + content[start + len(matrix) :]


def write_av1(path: Path) -> None:
    """AV1, or H.264 where no encoder is at hand."""
    os.environ.setdefault("SVT_LOG", "0")
    if "libsvtav1" in av.codecs_available:
        write_video(path, noise(height=64), codec="libsvtav1", options={"preset": "12"})
    else:
        write_video(path, noise())


def write_hevc_10_bit(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", rate=30, options={"x265-params": "log-level=0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        for image in noise():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def write_two_streams(path: Path) -> None:
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=30) for _ in range(2)]
        for stream, width in zip(streams, (32, 64)):
            stream.width, stream.height, stream.pix_fmt = width, 48, "yuv420p"
        for image in noise():
            for stream in streams:
                frame = av.VideoFrame.from_ndarray(
                    np.ascontiguousarray(image[:, : stream.width]), format="rgb24"
                )
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())


def write_nothing(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()


def write_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())


def evil_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes decoding hang or die by the name of the file, as a decoder's C code would."""

    class Evil(pyav.PyAV):
        def __init__(self, path: str, segment: Any, data: bytes | None = None) -> None:
            if path.endswith("hangs.mp4"):
                time.sleep(1000)
            if path.endswith("crashes.mp4"):
                faulthandler.disable()  # pytest's, which would print the stack
                os.kill(os.getpid(), signal.SIGSEGV)
            super().__init__(path, segment, data)

        def _frames(self, start: int) -> Any:
            for frame in super()._frames(start):
                if self._path.endswith("hangs_reading.mp4"):
                    time.sleep(1000)
                yield frame

    monkeypatch.setattr(pyav, "PyAV", Evil)
