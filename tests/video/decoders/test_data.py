"""Videos whose content is at hand, and no file on disk."""

import numpy as np
import pytest

from tests.video.test_decode import (
    NUM_FRAMES,
    index_lists,
    needs_decord,
    numbered,
    numbers,
    seconds,
)
from vivit_train.video.decode import DecodeError, VideoReader
from vivit_train.video.watch import watched
from vivit_train.video.write import write_video

DECODERS = ["pyav", pytest.param("decord", marks=needs_decord)]


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name, codec in (("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4")):
        write_video(folder / name, numbered(), codec=codec, options={"g": "12"})
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_each_index_yields_its_frame(contents, name, decoder):
    """Also after going back to the beginning, which not every container can seek to."""
    with VideoReader("shard.tar/0001", decoder, data=contents[name]) as reader:
        assert (reader.num_frames, reader.path) == (NUM_FRAMES, "shard.tar/0001")
        for indices in index_lists(NUM_FRAMES):
            assert numbers(reader.read(indices)) == indices
        assert list(reader.decode_all())[-1] == NUM_FRAMES
    segment = (seconds(15), seconds(30))
    with VideoReader("0001", decoder, segment, data=contents[name]) as reader:
        assert numbers(reader.read(range(reader.num_frames))) == list(range(15, 30))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("content", [b"", b"no video " * 100, None])
def test_what_is_no_video_is_an_error_with_its_name(contents, decoder, content):
    if content is None:
        content = contents["a.mp4"][: len(contents["a.mp4"]) // 2]
    with pytest.raises(DecodeError) as error:
        VideoReader("shard.tar/0001", decoder, data=content)
    assert error.value.path == "shard.tar/0001"


def test_a_hook_hears_of_it(contents):
    heard = []
    with watched(heard.append):
        VideoReader("0001", segment=(0.0, 1.0), data=contents["a.mp4"]).close()
    assert heard[0] == ("0001", (0.0, 1.0))
    assert set(heard[1:]) == {None}  # a step forward for each packet that is listed


@pytest.mark.parametrize("decoder", DECODERS)
def test_frames_are_resized_as_they_come(contents, decoder):
    with VideoReader("0001", decoder, data=contents["a.mp4"]) as reader:
        whole = reader.read([30, 2, 2])
        sizes = []
        halved = reader.read([30, 2, 2], lambda frame: sizes.append(frame.shape) or frame[::2, ::4])
    np.testing.assert_array_equal(halved, whole[:, ::2, ::4])
    assert sizes == [(48, 128, 3)] * 2  # each frame once
