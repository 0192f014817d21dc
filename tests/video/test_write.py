import errno
import os
import pickle
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from tests.data.torture import noise, rotated
from tests.video.decoders.test_pyav import with_matrix
from vivit_train.errors import UserError
from vivit_train.video import write
from vivit_train.video.decode import DecodeError, VideoReader
from vivit_train.video.write import Encoding, reencode_video, scaled_size, write_video


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


ENCODING = Encoding(short_edge=32, keyframe_interval=4, crf=10)


def clip(path, frames=None, tick=Fraction(1, 25), times=None, codec="libx264", **settings):
    """A video of any times, colours and container; settings are of the encoder."""
    frames = ramp() if frames is None else frames
    options = {"crf": "5"} if codec == "libx264" else {}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = settings.pop("pix_fmt", "yuv420p")
        stream.codec_context.time_base = tick
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        space, span = settings.get("colorspace"), settings.get("color_range")
        for time, image in zip(times or range(len(frames)), frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
                format=stream.pix_fmt, dst_colorspace=space, dst_color_range=span
            )
            frame.pts, frame.time_base = time, tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def frames_of(path):
    with VideoReader(path) as reader:
        return reader.read(range(reader.num_frames)).astype(int)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mkv", "libx264"),
        ("a.mov", "mpeg4"),
        ("a.avi", "mpeg4"),
        ("a.webm", "libvpx-vp9"),
        ("a.MP4", "libx264"),
    ],
)
def test_a_copy_has_the_same_frames(tmp_path, name, codec):
    source = clip(tmp_path / name, codec=codec)
    target = tmp_path / "copy" / name
    target.parent.mkdir()
    assert reencode_video(source, target, ENCODING._replace(short_edge=64)) == 12
    assert os.listdir(target.parent) == [name]
    difference = np.abs(frames_of(target) - frames_of(source))
    assert difference.mean() < 3  # the next frame is 10 levels of blue, 3.3 in the mean, away
    assert difference[..., 2].mean() < 4
    with av.open(str(target)) as container:
        (stream,) = container.streams
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        packets = [p for p in container.demux(stream) if p.size]
    assert [p.pts for p in packets] == [p.dts for p in packets]  # nothing depends on what follows
    keys = [i for i, p in enumerate(packets) if p.is_keyframe]
    assert keys[0] == 0
    assert max(np.diff([*keys, 12])) <= 4


@pytest.mark.parametrize(
    ("height", "width", "short_edge", "size"),
    [
        (1080, 1920, 320, (320, 568)),
        (1920, 1080, 320, (568, 320)),
        (256, 340, 320, (256, 340)),
        (240, 427, 320, (240, 426)),
        (341, 341, 320, (320, 320)),
        (322, 427, 320, (320, 424)),
        (1, 2, 320, (0, 2)),
    ],
)
def test_sizes_are_even_and_never_larger(height, width, short_edge, size):
    assert scaled_size(height, width, short_edge) == size


def test_a_smaller_copy_looks_like_pillow_resized_it(tmp_path):
    source = clip(tmp_path / "a.mp4", ramp(3, 96, 128))
    reencode_video(source, tmp_path / "b.mp4", ENCODING)
    expected = [Image.fromarray(f.astype(np.uint8)).resize((42, 32)) for f in frames_of(source)]
    copy = frames_of(tmp_path / "b.mp4")
    assert copy.shape == (3, 32, 42, 3)
    assert np.abs(copy - np.stack([np.asarray(image, int) for image in expected])).mean() < 3


def test_an_odd_line_is_cut_off_not_squeezed(tmp_path):
    source = clip(tmp_path / "a.mkv", ramp(3, 33, 47), pix_fmt="yuv444p")
    reencode_video(source, tmp_path / "b.mkv", ENCODING._replace(short_edge=64))
    copy = frames_of(tmp_path / "b.mkv")
    assert copy.shape == (3, 32, 46, 3)
    assert np.abs(copy - frames_of(source)[:, :32, :46]).mean() < 3


@pytest.mark.parametrize(
    "colours",
    [
        {},
        {"colorspace": 1, "color_range": 1},  # BT.709, as HD has it
        {"colorspace": 1, "color_range": 2},  # all 256 levels
        {"colorspace": 9, "color_range": 1, "pix_fmt": "yuv420p10le"},
        {"pix_fmt": "bgr0", "codec": "libx264rgb"},
    ],
)
def test_colours_stay(tmp_path, colours):
    codec = "libx265" if colours.get("pix_fmt", "").endswith("10le") else "libx264"
    source = clip(tmp_path / "a.mkv", **{"codec": codec} | colours)
    reencode_video(source, tmp_path / "b.mkv", ENCODING._replace(short_edge=64))
    bias = (frames_of(tmp_path / "b.mkv") - frames_of(source)).mean((0, 1, 2))
    assert np.abs(bias).max() < 3  # another matrix or range: 5 to 20


def test_a_source_whose_colours_change_has_no_copy(tmp_path):
    """Transport streams can simply be joined; a copy has one colour space for all its frames."""
    joined = b""
    for space in (1, 5):  # BT.709, BT.601
        joined += clip(tmp_path / "part.ts", colorspace=space, color_range=1).read_bytes()
    (tmp_path / "a.ts").write_bytes(joined)
    with pytest.raises(ValueError, match="frame 12 is of another colour space than those before"):
        reencode_video(tmp_path / "a.ts", tmp_path / "b.ts", ENCODING)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
def test_times_stay(tmp_path, name):
    """A variable rate: a segment by seconds holds the same frames."""
    times = [0, 40, 50, 300, 301, 700, 710, 1500, 1540, 1580, 1600, 2000]
    source = clip(tmp_path / name, tick=Fraction(1, 1000), times=times)
    target = tmp_path / f"b{source.suffix}"
    reencode_video(source, target, ENCODING)
    for start, end in ((0.0, 2.1), (0.3, 0.7), (0.301, 1.55), (1.0, 1.2)):
        with (
            VideoReader(source, segment=(start, end)) as a,
            VideoReader(target, segment=(start, end)) as b,
        ):
            assert a.num_frames == b.num_frames
            blues = [r.read(range(a.num_frames))[..., 2].mean((1, 2)) for r in (a, b)]
        assert np.abs(blues[0].astype(int) - blues[1]).max() < 5  # the next: 10


def test_rotation_is_applied_and_cleared(tmp_path):
    write_video(tmp_path / "a.mp4", ramp(4))
    (tmp_path / "r.mp4").write_bytes(rotated((tmp_path / "a.mp4").read_bytes()))
    reencode_video(tmp_path / "r.mp4", tmp_path / "b.mp4", ENCODING._replace(short_edge=64))
    with av.open(str(tmp_path / "b.mp4")) as container:
        frame = next(container.decode(video=0))
    assert (frame.height, frame.width, frame.rotation) == (64, 48, 0)
    assert np.abs(frames_of(tmp_path / "b.mp4") - frames_of(tmp_path / "r.mp4")).mean() < 3


def broken(tmp_path, what):
    source = clip(tmp_path / "a.mp4", ramp(48))
    content = source.read_bytes()
    if what == "damaged":
        start = content.index(b"mdat") + len(content) // 4
        source.write_bytes(content[:start] + bytes(600) + content[start + 600 :])
    elif what == "empty":
        source.write_bytes(b"")
    return source


@pytest.mark.parametrize("what", ["damaged", "empty"])
def test_a_broken_source_leaves_nothing(tmp_path, what):
    source = broken(tmp_path, what)
    with pytest.raises(DecodeError):
        reencode_video(source, tmp_path / "b.mp4", ENCODING)
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_a_pixel_is_too_few(tmp_path):
    write_video(tmp_path / "a.mp4", ramp(2, 1, 1))
    with pytest.raises(ValueError, match="1x1 pixels are too few for H.264"):
        reencode_video(tmp_path / "a.mp4", tmp_path / "b.mp4", ENCODING)


def test_a_copy_with_other_times_is_refused(tmp_path, monkeypatch):
    source = clip(tmp_path / "a.mkv")
    encode = write._encode

    def slower(path, frames, tick, *args):
        encode(path, frames, 2 * tick, *args)

    monkeypatch.setattr(write, "_encode", slower)
    with pytest.raises(ValueError, match="up to 0.440 s too early or late"):
        reencode_video(source, tmp_path / "b.mkv", ENCODING)
    assert os.listdir(tmp_path) == ["a.mkv"]


def test_a_copy_with_fewer_frames_is_refused(tmp_path, monkeypatch):
    source = clip(tmp_path / "a.mkv")
    monkeypatch.setattr(VideoReader, "decode_all", lambda self: iter([1, 2]))
    with pytest.raises(ValueError, match="the copy has 2 frames, not 12"):
        reencode_video(source, tmp_path / "b.mkv", ENCODING)
    assert os.listdir(tmp_path) == ["a.mkv"]


def test_a_full_disk(tmp_path, monkeypatch):
    """Any error of the file system comes as such, and can cross to another process."""
    source = clip(tmp_path / "a.mp4")
    opened = av.open

    def full(path, *args, **kwargs):
        return opened("/dev/full" if "w" in args else path, *args, **kwargs)

    monkeypatch.setattr(write.av, "open", full)
    with pytest.raises(OSError, match="No space left") as caught:
        reencode_video(source, tmp_path / "b.mp4", ENCODING)
    assert pickle.loads(pickle.dumps(caught.value)).errno == errno.ENOSPC
    assert os.listdir(tmp_path) == ["a.mp4"]


# a, b, c, d of the display matrix: turned, mirrored, both.
MATRICES = [
    (0, 1, -1, 0),
    (-1, 0, 0, -1),
    (0, -1, 1, 0),
    (-1, 0, 0, 1),
    (1, 0, 0, -1),
    (0, 1, 1, 0),
    (0, -1, -1, 0),
]


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("short_edge", [64, 32])
def test_a_copy_is_upright_and_unmirrored(tmp_path, matrix, short_edge):
    corner = ramp(4)
    corner[:, :20, :20] = 255  # no turn leaves it where it is
    write_video(tmp_path / "a.mp4", corner, options={"crf": "5"})
    content = with_matrix((tmp_path / "a.mp4").read_bytes(), matrix)
    (tmp_path / "m.mp4").write_bytes(content)
    reencode_video(tmp_path / "m.mp4", tmp_path / "b.mp4", ENCODING._replace(short_edge=short_edge))
    copy = frames_of(tmp_path / "b.mp4")
    height, width = scaled_size(*frames_of(tmp_path / "m.mp4").shape[1:3], short_edge)
    expected = [
        np.asarray(Image.fromarray(frame.astype(np.uint8)).resize((width, height)), int)
        for frame in frames_of(tmp_path / "m.mp4")
    ]
    assert np.abs(copy - np.stack(expected)).mean() < 3  # any other orientation: over 20


@pytest.mark.parametrize(
    "wrong", [lambda f: f[:, ::-1], lambda f: f[::-1], lambda f: f[..., ::-1], lambda f: 255 - f]
)
def test_a_copy_with_another_content_is_refused(tmp_path, monkeypatch, wrong):
    """Its frames are as many, and shown at the same times."""
    source = clip(tmp_path / "a.mkv")
    small = write._small

    def changed(frame, *args):
        rgb = small(frame, *args).to_ndarray(format="rgb24")
        return av.VideoFrame.from_ndarray(np.ascontiguousarray(wrong(rgb)), format="rgb24")

    monkeypatch.setattr(write, "_small", changed)
    with pytest.raises(ValueError, match=r"frame \d+ of the copy looks different .* grey levels"):
        reencode_video(source, tmp_path / "b.mkv", ENCODING._replace(short_edge=64))
    assert os.listdir(tmp_path) == ["a.mkv"]


def test_the_strongest_compression_is_no_other_content(tmp_path):
    write_video(tmp_path / "a.mp4", noise(8, 96, 128))
    assert reencode_video(tmp_path / "a.mp4", tmp_path / "b.mp4", Encoding(64, 16, 51)) == 8


def fields(top, bottom, height=48, width=64):
    """A frame of two fields, lines in turn, each of one colour: also the colour has two fields."""
    halves = []
    for colour in (top, bottom):
        flat = np.full((height, width, 3), colour, np.uint8)
        layout = av.VideoFrame.from_ndarray(flat, format="rgb24").to_ndarray(format="yuv420p")
        halves.append(layout.reshape(-1, width // 2))  # Y has two rows to a line, U and V one
    lines = halves[0].copy()
    luma = 2 * height
    lines[:luma].reshape(height, width)[1::2] = halves[1][:luma].reshape(height, width)[1::2]
    lines[luma + 1 :: 2] = halves[1][luma + 1 :: 2]
    return av.VideoFrame.from_ndarray(lines.reshape(-1, width), format="yuv420p")


def test_fields_of_an_interlaced_source_keep_their_colours(tmp_path):
    """The copy is progressive: colours of one field must not be read as those of both."""
    top, bottom = (150, 90, 90), (90, 90, 150)
    options = {"flags": "+ilme+ildct", "qmin": "1", "qmax": "2"}
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(fields(top, bottom)))
        container.mux(stream.encode())
    source = frames_of(tmp_path / "a.avi")
    assert np.abs(source[:, ::2] - top).max() < 6
    assert np.abs(source[:, 1::2] - bottom).max() < 6
    reencode_video(tmp_path / "a.avi", tmp_path / "b.avi", ENCODING._replace(short_edge=64))
    # Half of the colour's lines are lost, but not its mean, and nothing is shifted by a line.
    pairs = frames_of(tmp_path / "b.avi").reshape(3, 24, 2, 64, 3).mean(2)
    assert np.abs(pairs[:, 2:-2] - np.mean([top, bottom], 0)).max() < 5
