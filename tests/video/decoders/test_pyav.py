"""Videos as phones, cameras and editors write them, decoded right."""

import struct
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.video.test_decode import needs_av1, needs_decord, numbered, numbers
from vivit_train.video.decode import VideoReader
from vivit_train.video.write import write_video

# a, b, c, d of ISO 14496-12: the pixel at (x, y) is shown at (a x + c y, b x + d y).
UPRIGHT, RIGHT, UPSIDE_DOWN, LEFT = (1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)


def write(path, frames, codec, pixel_format, times=None, options=None):
    """One frame at each time, in 1/1000 s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.time_base = pixel_format, Fraction(1, 1000)
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = times[number] if times else 40 * number, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def with_matrix(content, matrix):
    """An mp4 with another display matrix in its track header."""
    a, b, c, d = (number << 16 for number in matrix)
    start = content.index(b"tkhd") + 44
    matrix = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    return content[:start] + matrix + content[start + len(matrix) :]


def shown(image, matrix):
    """Each pixel where the standard has it shown."""
    a, b, c, d = matrix
    y, x = np.indices(image.shape[:2])
    right, down = a * x + c * y, b * x + d * y
    right, down = right - right.min(), down - down.min()
    result = np.empty((down.max() + 1, right.max() + 1, 3), np.uint8)
    result[down, right] = image
    return result


@pytest.mark.parametrize("decoder", ["pyav", pytest.param("decord", marks=needs_decord)])
@pytest.mark.parametrize("matrix", [UPRIGHT, RIGHT, UPSIDE_DOWN, LEFT])
def test_frames_are_upright(tmp_path, decoder, matrix):
    path = tmp_path / "clip.mp4"
    corner = numbered(4, height=64)  # decord turns no width that is not a multiple of 64
    corner[:, :20, :40] = 255  # no turn leaves it where it is
    write_video(path, corner)
    with VideoReader(path, decoder) as reader:
        stored = reader.read([0, 3])
    path.write_bytes(with_matrix(path.read_bytes(), matrix))
    with VideoReader(path, decoder) as reader:
        expected = np.stack([shown(image, matrix) for image in stored])
        np.testing.assert_array_equal(reader.read([0, 3]), expected)


@pytest.mark.parametrize("matrix", [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)])
def test_mirrored_frames_are_mirrored_back(tmp_path, matrix):
    """As some front cameras have it; decord does not."""
    path, corner = tmp_path / "clip.mp4", numbered(4)
    corner[:, :20, :40] = 255
    write_video(path, corner)
    with VideoReader(path) as reader:
        expected = shown(reader.read([2])[0], matrix)
    path.write_bytes(with_matrix(path.read_bytes(), matrix))
    with VideoReader(path) as reader:
        np.testing.assert_array_equal(reader.read([2])[0], expected)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("hevc.mp4", "libx265", {"x265-params": "log-level=none:keyint=8"}),
        ("hevc.mkv", "libx265", {"x265-params": "log-level=none:keyint=8"}),
        pytest.param("av1.mkv", "libsvtav1", {"preset": "12", "g": "8"}, marks=needs_av1),
    ],
)
def test_ten_bits(tmp_path, monkeypatch, name, codec, options):
    monkeypatch.setenv("SVT_LOG", "0")
    write(tmp_path / name, numbered(20, 64), codec, "yuv420p10le", options=options)
    with VideoReader(tmp_path / name) as reader:
        assert reader.num_frames == 20
        frames = reader.read([19, 0, 7])
    assert frames.dtype == np.uint8
    assert numbers(frames) == [19, 0, 7]
    # The stripes are of 20 and 235, not a quarter or four times that.
    assert abs(np.percentile(frames, 5) - 20) < 8
    assert abs(np.percentile(frames, 95) - 235) < 8


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_variable_frame_rate(tmp_path, name):
    """Frames count by their number, segments by the time at which they are shown."""
    gaps = np.random.default_rng(0).choice([10, 33, 40, 500], size=30)
    times = [0, *np.cumsum(gaps).tolist()]
    options = {"g": "8", "bf": "2"}
    write(tmp_path / name, numbered(31), "libx264", "yuv420p", times, options)
    with VideoReader(tmp_path / name) as reader:
        assert reader.num_frames == 31
        assert numbers(reader.read([30, 4, 17, 18])) == [30, 4, 17, 18]
        np.testing.assert_allclose(reader.shown_at[:-1], np.array(times) / 1000, atol=6e-4)
    for first, last in ((0, 5), (9, 10), (13, 25)):
        segment = ((times[first] - 2) / 1000 if first else 0.0, (times[last] - 2) / 1000)
        with VideoReader(tmp_path / name, segment=segment) as reader:
            assert numbers(reader.read(range(reader.num_frames))) == list(range(first, last))
            assert reader.promised == last - first  # by time, not by an average rate
    duration = times[-1] / 1000
    with VideoReader(tmp_path / name, segment=(duration / 2, 1.5 * duration)) as reader:
        assert reader.promised == pytest.approx(2 * reader.num_frames, abs=1)


@pytest.mark.parametrize("decoder", ["pyav", pytest.param("decord", marks=needs_decord)])
def test_large_frames_are_held_one_at_a_time(tmp_path, decoder):
    """Of 12 frames of 720p, 3 MB each, one and what is made of it."""
    write_video(tmp_path / "720p.mp4", numbered(12, 720, 1280), options={"preset": "ultrafast"})
    with VideoReader(tmp_path / "720p.mp4", decoder) as reader:
        tracemalloc.start()
        frames = reader.read(range(12), resize=lambda frame: frame[::12, ::20].copy())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert numbers(frames) == list(range(12))
    assert frames.shape == (12, 60, 64, 3)
    assert peak < 3 * 720 * 1280 * 3


def slopes(number, height, width):
    """Gray frames that get brighter to the right and downwards, every other one from more on."""
    rows, columns = np.mgrid[:height, :width]
    gray = np.stack([rows * 2 + columns + 40 * (place % 2) for place in range(number)])
    return gray[..., None].repeat(3, axis=3).astype(np.uint8)


@pytest.mark.parametrize("decoder", ["pyav", pytest.param("decord", marks=needs_decord)])
def test_every_frame_on_the_way_is_looked_at(tmp_path, decoder):
    path, looks = tmp_path / "clip.mp4", []
    write_video(path, slopes(8, 48, 64))
    with VideoReader(path, decoder) as reader:
        due = reader.read(range(6))
        frames = reader.stream(np.array([2, 5]), look=lambda luma: looks.append(luma.copy()))
        met = [(index, len(looks)) for index, _ in frames]
    assert met == [(2, 3), (5, 6)]
    for look, frame in zip(looks, due):
        assert np.corrcoef(look.ravel(), frame[..., 1].ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    ("codec", "pixel_format"),
    [
        ("libx264", "yuv420p"),
        ("libx264", "yuv420p10le"),
        ("mjpeg", "yuvj444p"),
        ("ffv1", "gray"),
        ("ffv1", "bgr0"),
    ],
)
def test_the_brightness_of_frames_of_any_format(tmp_path, codec, pixel_format):
    """Their lines lie in memory with gaps between them: 70 is no multiple of anything."""
    path, looks, frames = tmp_path / "clip.mkv", [], slopes(3, 50, 70)
    write(path, frames, codec, pixel_format)
    with VideoReader(path) as reader:
        list(reader.stream(np.array([2]), look=lambda luma: looks.append(luma.copy())))
    assert [look.shape for look in looks] == [(50, 70)] * 3
    for look, frame in zip(looks, frames):
        assert np.corrcoef(look.ravel(), frame[..., 1].ravel())[0, 1] > 0.99
