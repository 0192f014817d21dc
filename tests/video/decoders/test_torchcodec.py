"""With the library where it loads; else with one that answers as it does."""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from tests.video.test_decode import (
    HARD,
    NUM_FRAMES,
    PLAIN,
    index_lists,
    numbered,
    numbers,
    remux,
    seconds,
)
from vivit_train.errors import UserError
from vivit_train.video.decode import DecodeError, VideoReader
from vivit_train.video.write import write_video

OURS = "vivit_train.video.decoders.torchcodec"
# Containers that do not record when each frame is shown.
UNTIMED = (".avi", ".ts", ".flv")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name, (codec, options) in (PLAIN | HARD).items():
        write_video(folder / name, numbered(), codec=codec, options=options)
    return folder


def _loads():
    if importlib.util.find_spec("torchcodec") is None:
        return False
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, RuntimeError):
        return False
    return True


needs_torchcodec = pytest.mark.skipif(
    not _loads(), reason="torchcodec or FFmpeg's libraries are not installed"
)


@needs_torchcodec
class TestTheLibrary:
    @pytest.mark.parametrize("name", [*PLAIN, *HARD])
    def test_each_index_yields_its_frame_or_an_error(self, videos, name):
        failures = 0
        for indices in index_lists(NUM_FRAMES):
            try:
                with VideoReader(videos / name, "torchcodec") as reader:
                    assert (reader.num_frames, reader.fps) == (NUM_FRAMES, 30)
                    assert numbers(reader.read(indices)) == indices
            except DecodeError:
                failures += 1
        assert (failures > 0) == (name.endswith(UNTIMED) or name == "intra_refresh.mp4")

    @pytest.mark.parametrize("name", ["h264.mp4", "vp9.webm", "open_gop_hevc.mp4"])
    def test_equals_pyav_to_the_bit(self, videos, name):
        for segment in (None, (seconds(15), seconds(30))):
            with (
                VideoReader(videos / name, "pyav", segment) as pyav,
                VideoReader(videos / name, "torchcodec", segment) as ours,
                VideoReader(name, "torchcodec", segment, data=(videos / name).read_bytes()) as raw,
            ):
                assert (ours.num_frames, ours.promised) == (pyav.num_frames, pyav.promised)
                expected = pyav.read([14, 3, 3])
                np.testing.assert_array_equal(ours.read([14, 3, 3]), expected)
                np.testing.assert_array_equal(raw.read([14, 3, 3]), expected)
                assert list(ours.decode_all()) == list(pyav.decode_all())

    def test_an_edit_list_hides_what_lies_before_it(self, videos, tmp_path):
        remux(videos / "h264.mp4", tmp_path / "clip.mp4", earlier_frames=5)
        with VideoReader(tmp_path / "clip.mp4", "torchcodec") as reader:
            assert reader.num_frames == reader.promised == NUM_FRAMES - 5
            assert numbers(reader.read([0, 34])) == [5, 39]


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    folder = tmp_path_factory.mktemp("few")
    for name in ("h264.mp4", "mpeg4.avi", "flash.flv"):
        codec, options = (PLAIN | HARD)[name]
        write_video(folder / name, numbered(), codec=codec, options=options)
    return folder


@pytest.fixture
def stand_in(monkeypatch):
    """Frames of VideoDecoder's shape, grey: the number that they are asked for."""

    class VideoDecoder:
        delay = 0.0

        def __init__(self, source, *, seek_mode, dimension_order, num_ffmpeg_threads, **rest):
            assert (seek_mode, dimension_order, num_ffmpeg_threads) == ("exact", "NHWC", 1)
            self.source = source

        def get_frame_at(self, number):
            data = torch.full((4, 6, 3), number, dtype=torch.uint8)
            return SimpleNamespace(data=data, pts_seconds=number / 30 + self.delay)

    package, decoders = ModuleType("torchcodec"), ModuleType("torchcodec.decoders")
    decoders.VideoDecoder = VideoDecoder
    monkeypatch.setitem(sys.modules, "torchcodec", package)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    monkeypatch.delitem(sys.modules, OURS, raising=False)
    yield VideoDecoder
    sys.modules.pop(OURS, None)


def test_frames_are_asked_for_by_their_number_in_the_whole_video(stand_in, few):
    for segment, first in ((None, 0), ((seconds(15), seconds(30)), 15)):
        with VideoReader(few / "h264.mp4", "torchcodec", segment) as reader:
            assert reader.decoder == "torchcodec"
            frames = reader.read([14, 0, 3])
            assert frames.shape == (3, 4, 6, 3)
            assert frames[:, 0, 0, 0].tolist() == [first + 14, first, first + 3]
            assert list(reader.decode_all())[-1] == reader.num_frames


def test_another_frame_than_that_due_is_an_error(stand_in, few):
    stand_in.delay = 1 / 30
    with (
        VideoReader(few / "h264.mp4", "torchcodec") as reader,
        pytest.raises(DecodeError, match=r"frame 3 is due at 0\.100 s.* returned that of 0\.133 s"),
    ):
        reader.read([3])


@pytest.mark.parametrize("name", ["mpeg4.avi", "flash.flv"])
def test_files_without_times_are_refused(stand_in, few, name):
    with pytest.raises(DecodeError, match="which this file does not record: choose pyav"):
        VideoReader(few / name, "torchcodec")


def test_a_missing_library_is_said(few, monkeypatch):
    for name in ("torchcodec", "torchcodec.decoders"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, OURS, raising=False)
    with pytest.raises(UserError, match=r"decoder=torchcodec cannot be imported .*torchcodec"):
        VideoReader(few / "h264.mp4", "torchcodec")


def test_a_missing_ffmpeg_is_said(few, monkeypatch, tmp_path):
    """The library is there, and raises what the real one does."""
    (tmp_path / "torchcodec").mkdir()
    (tmp_path / "torchcodec" / "__init__.py").write_text("")
    (tmp_path / "torchcodec" / "decoders.py").write_text(
        "raise RuntimeError('Could not load libtorchcodec. Likely causes: ...')"
    )
    for name in ("torchcodec", "torchcodec.decoders", OURS):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"torchcodec.*needs the shared libraries of FFmpeg"):
        VideoReader(few / "h264.mp4", "torchcodec")
    sys.modules.pop("torchcodec", None)
