"""decord and TorchCodec give PyAV's pixels to the bit, or refuse the video by name."""

from fractions import Fraction

import av
import numpy as np
import pytest

from tests.video.decoders.test_pyav import with_matrix, write
from tests.video.decoders.test_torchcodec import needs_torchcodec
from tests.video.test_decode import clip_path, needs_decord, numbered, numbers, remux
from tests.video.test_write import fields
from vivit_train.video.decode import DecodeError, VideoReader
from vivit_train.video.write import write_video

LIBRARIES = [
    pytest.param("decord", marks=needs_decord),
    pytest.param("torchcodec", marks=needs_torchcodec),
]


def coloured(num_frames=6, height=48, width=128):
    """Blocks of 4 pixels of all colours, uint8 [T, H, W, 3]."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (num_frames, -(-height // 4), -(-width // 4), 3), np.uint8)
    return small.repeat(4, 1).repeat(4, 2)[:, :height, :width].copy()


def encode(path, codec="libx264", pixel_format="yuv420p", frames=None, space=None, full=None):
    """A video in a given matrix (FFmpeg's number) and range."""
    frames = coloured() if frames is None else frames
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        if space is not None:
            stream.codec_context.colorspace = space
            stream.codec_context.color_range = 2 if full else 1
        for image in frames:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
                format=pixel_format,
                dst_colorspace=space,
                dst_color_range=None if space is None else stream.codec_context.color_range,
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def assert_equal(path, library):
    with VideoReader(path, "pyav") as pyav, VideoReader(path, library) as other:
        assert (pyav.num_frames, pyav.fps, pyav.promised) == (
            other.num_frames, other.fps, other.promised
        )  # fmt: skip
        indices = [0, pyav.num_frames // 2, pyav.num_frames - 1]
        np.testing.assert_array_equal(other.read(indices), pyav.read(indices))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("space", [1, 5, 6, 9])  # BT.709, BT.601 twice, BT.2020
def test_matrices_and_ranges(tmp_path, library, space, full):
    assert_equal(encode(tmp_path / "a.mp4", space=space, full=full), library)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mp4", "libx264", "yuv422p"),
        ("a.mp4", "libx264", "yuv444p"),
        ("a.mp4", "libx264", "gray"),
        ("a.mp4", "libx264", "yuvj420p"),
        ("a.mkv", "libx264rgb", "rgb24"),
        ("a.mp4", "libx265", "yuv420p"),
        ("a.mov", "mjpeg", "yuvj422p"),
        ("a.mov", "mjpeg", "yuvj444p"),
        ("a.mp4", "mpeg4", "yuv420p"),
        ("a.webm", "libvpx", "yuv420p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
    ],
)
def test_codecs_and_pixel_formats(tmp_path, library, name, codec, pixel_format):
    assert_equal(encode(tmp_path / name, codec, pixel_format), library)


@pytest.mark.parametrize("library", LIBRARIES)
def test_an_odd_width(tmp_path, library):
    path = encode(tmp_path / "a.webm", "libvpx-vp9", frames=coloured(width=321))
    assert_equal(path, library)


def write_interlaced(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"flags": "+ilme+ildct"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(fields((150, 90, 90), (90, 90, 150))))
        container.mux(stream.encode())


REFUSED = {
    "ten_bits.mp4": "yuv420p10le pixels",
    "odd_height.webm": r"an odd height \(47\) of yuv420p pixels",
    "interlaced.mp4": "interlaced video",
    "mirrored.mp4": "mirrored video",
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refused")
    encode(folder / "ten_bits.mp4", "libx265", "yuv420p10le")
    encode(folder / "odd_height.webm", "libvpx-vp9", frames=coloured(height=47))
    write_interlaced(folder / "interlaced.mp4")
    content = encode(folder / "mirrored.mp4").read_bytes()
    (folder / "mirrored.mp4").write_bytes(with_matrix(content, (-1, 0, 0, 1)))
    return folder


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", REFUSED)
def test_what_differs_is_refused(refused, name, library):
    with VideoReader(refused / name, "pyav") as reader:
        reader.read([0])
    for data in (None, (refused / name).read_bytes()):
        with pytest.raises(DecodeError, match=f"may read {REFUSED[name]} differently: choose pyav"):
            VideoReader(refused / name, library, data=data)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_real_clip_of_ten_bits(library):
    with pytest.raises(DecodeError, match="yuv420p10le pixels differently: choose pyav"):
        VideoReader(clip_path("bt2020_10bit.mp4"), library)


@needs_decord
@pytest.mark.parametrize(
    ("suffix", "codec", "trait"),
    [
        ("ts", "libx264", "mpegts files"),
        ("m2ts", "libx264", "mpegts files"),
        ("mpg", "mpeg2video", "mpeg files"),
        ("wmv", "wmv2", "asf files"),
        ("mkv", "mpeg2video", "mpeg2video video"),
    ],
)
def test_decord_refuses_other_containers_and_codecs(tmp_path, suffix, codec, trait):
    """Of MPEG-PS it returned frame i + 12 for i."""
    path = tmp_path / f"clip.{suffix}"
    write_video(path, numbered(), codec=codec, options={"g": "8"})
    for data in (None, path.read_bytes()):
        with pytest.raises(DecodeError, match=f"decord may read {trait} differently: choose pyav"):
            VideoReader(path, "decord", data=data)


@needs_decord
def test_decord_refuses_a_width_that_it_pads(tmp_path):
    path = encode(tmp_path / "a.mp4", frames=coloured(width=16))
    with (
        VideoReader(path, "decord") as reader,
        pytest.raises(DecodeError, match="decord cannot show frames 16 wide: choose pyav"),
    ):
        reader.read([0])


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_segments_of_a_variable_rate(tmp_path, library, name):
    gaps = np.random.default_rng(0).choice([10, 33, 40, 500], size=30)
    times = [0, *np.cumsum(gaps).tolist()]
    write(tmp_path / name, numbered(31), "libx264", "yuv420p", times, {"g": "8", "bf": "2"})
    assert_equal(tmp_path / name, library)
    for first, last in ((0, 5), (9, 10), (13, 25)):
        segment = (max(0, times[first] - 2) / 1000, (times[last] - 2) / 1000)
        with (
            VideoReader(tmp_path / name, "pyav", segment) as pyav,
            VideoReader(tmp_path / name, library, segment) as other,
        ):
            assert other.num_frames == pyav.num_frames == last - first
            np.testing.assert_array_equal(other.shown_at, pyav.shown_at)
            every = range(last - first)
            np.testing.assert_array_equal(other.read(every), pyav.read(every))


@pytest.mark.parametrize("library", ["pyav", *LIBRARIES])
def test_pixels_are_read_as_they_are_stored(tmp_path, library):
    """A sample aspect ratio is for players: frames are not stretched."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 128, "yuv420p"
        stream.codec_context.sample_aspect_ratio = 2
        for image in coloured():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        assert container.streams.video[0].sample_aspect_ratio == 2
    with VideoReader(path, library) as reader:
        assert reader.read([0]).shape == (1, 48, 128, 3)


@pytest.mark.parametrize("library", ["pyav", *LIBRARIES])
@pytest.mark.parametrize("default", [0, 1])
def test_the_default_stream_is_read(tmp_path, default, library):
    """Even where the other is larger."""
    path, sizes = tmp_path / "clip.mkv", [(32, 64), (64, 128)]
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=30) for _ in sizes]
        for number, (stream, (height, width)) in enumerate(zip(streams, sizes)):
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            is_default = number == default
            stream.disposition = av.stream.Disposition.default if is_default else 0
        for frames in zip(*(numbered(6, *size) for size in sizes)):
            for stream, image in zip(streams, frames):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    if library == "decord":  # it took the first
        with pytest.raises(DecodeError, match="decord may read several video streams differently"):
            VideoReader(path, library)
        return
    with VideoReader(path, library) as reader:
        frames = reader.read([5, 2])
    assert frames.shape[1:3] == sizes[default]
    assert numbers(frames) == [5, 2]


@needs_decord
def test_decord_refuses_an_edit_list_that_hides_frames(tmp_path):
    """It counts them, and gives the wrong ones for those that are shown."""
    write_video(tmp_path / "whole.mp4", numbered(), options={"g": "12", "bf": "2"})
    remux(tmp_path / "whole.mp4", tmp_path / "clip.mp4", earlier_frames=5)
    with pytest.raises(DecodeError, match="decord counts 40 frames, but 35 are shown: choose pyav"):
        VideoReader(tmp_path / "clip.mp4", "decord")


@pytest.mark.parametrize("library", ["pyav", pytest.param("decord", marks=needs_decord)])
@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.avi", "mpeg4"),
        ("b.avi", "libx264"),
        ("a.flv", "libx264"),
        ("a.ts", "libx264"),
        ("a.wmv", "wmv2"),
    ],
)
def test_a_variable_rate_without_recorded_times(tmp_path, library, name, codec):
    """A segment is found by time, and an AVI that repeats frames is whole."""
    if library == "decord" and not name.endswith((".avi", ".flv")):
        pytest.skip("decord refuses these containers")
    times = [*range(15), *range(15, 75, 4)]  # in frames: the second half is slower
    with av.open(str(tmp_path / name), "w") as written:
        stream = written.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 128, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        # In AVI nothing tells when B-frames are shown, but for a constant rate.
        stream.codec_context.max_b_frames = 2 if name.endswith((".flv", ".ts")) else 0
        for time, image in zip(times, numbered(30)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 25)
            written.mux(stream.encode(frame))
        written.mux(stream.encode())
    with VideoReader(tmp_path / name, library) as reader:
        assert reader.num_frames == 30
        assert reader.promised in (0, 30)
    for first, last in ((0, 10), (10, 20), (16, 17), (20, 30)):
        start = (times[first] - 0.5) / 25 if first else 0.0
        end = (times[last] if last < 30 else 75) - 0.5
        with VideoReader(tmp_path / name, library, (start, end / 25)) as reader:
            assert numbers(reader.read(range(reader.num_frames))) == list(range(first, last))
            assert reader.promised == pytest.approx(last - first, abs=1)
