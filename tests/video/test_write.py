import os
from fractions import Fraction

import av
import numpy as np
import pytest

from vivit_train.errors import UserError
from vivit_train.video.decode import VideoReader
from vivit_train.video.write import write_video


def ramp(num_frames=12, height=48, width=64):
    """Frames whose colour drifts: smooth, so that any codec keeps them."""
    frames = np.zeros((num_frames, height, width, 3), np.uint8)
    frames[..., 0] = np.linspace(30, 220, width)
    frames[..., 1] = np.linspace(60, 180, height)[:, None]
    frames[..., 2] = (40 + 10 * np.arange(num_frames))[:, None, None]
    return frames


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("clip.mp4", "libx264", {"crf": "10"}),
        ("clip.mkv", "libx264", {"crf": "10"}),
        ("clip.webm", "libvpx-vp9", {"crf": "10", "deadline": "realtime"}),
        ("clip.avi", "mpeg4", {"b": "2M"}),
        ("clip.mov", "mpeg4", {"b": "2M"}),
    ],
)
def test_what_is_written_is_read_back(tmp_path, name, codec, options):
    frames = ramp()
    write_video(tmp_path / name, frames, fps=25, codec=codec, options=options)
    with VideoReader(tmp_path / name) as reader:
        assert (reader.num_frames, reader.fps) == (12, 25.0)
        error = np.abs(reader.read(range(12)).astype(int) - frames)
    assert error.mean() < 4
    assert os.listdir(tmp_path) == [name]


def test_odd_sizes_keep_their_size(tmp_path):
    frames = ramp(height=33, width=47)
    write_video(tmp_path / "odd.mp4", frames)
    with VideoReader(tmp_path / "odd.mp4") as reader:
        assert reader.read([0]).shape == (1, 33, 47, 3)


def test_even_sizes_store_what_every_player_reads(tmp_path):
    write_video(tmp_path / "even.mp4", ramp())
    with av.open(str(tmp_path / "even.mp4")) as container:
        assert container.streams.video[0].pix_fmt == "yuv420p"


def test_fractional_rate(tmp_path):
    write_video(tmp_path / "clip.mp4", ramp(), fps=Fraction(30000, 1001))
    with VideoReader(tmp_path / "clip.mp4") as reader:
        assert reader.fps == pytest.approx(29.97, abs=0.01)


def test_same_frames_same_bytes(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, ramp(), options={"preset": "superfast"})
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codec": "libx999"}, "libx999"),
        ({"path": "clip.xyz"}, "xyz"),
        ({"path": "clip.webm"}, "webm"),
        ({"path": "absent/clip.mp4"}, "the folder must exist"),
        ({"options": {"crf": "much"}}, "much"),
        ({"fps": 0}, "rate"),
        ({"codec": "mpeg4", "frames": ramp(2, 33, 47)}, "47x33"),
        ({"frames": ramp().astype(np.float32)}, "float32"),
        ({"frames": ramp()[0]}, "uint8"),
        ({"frames": ramp()[:0]}, "at least one frame"),
    ],
)
def test_what_cannot_be_written_says_why_and_leaves_nothing(tmp_path, changes, message):
    arguments = {"frames": ramp(2), **changes}
    path = tmp_path / arguments.pop("path", "clip.mp4")
    with pytest.raises(UserError, match=message):
        write_video(path, **arguments)
    assert os.listdir(tmp_path) == []


def test_interrupted_writer_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "clip.mp4").write_bytes(b"the former file")

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(av.VideoFrame, "from_ndarray", interrupt, raising=True)
    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "clip.mp4", ramp())
    assert os.listdir(tmp_path) == ["clip.mp4"]
    assert (tmp_path / "clip.mp4").read_bytes() == b"the former file"
