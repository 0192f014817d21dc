import contextlib
import importlib.util
import multiprocessing
import os
import pickle
import sys
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
import pytest

from vivit_train.errors import UserError
from vivit_train.video import container
from vivit_train.video.decode import DecodeError, VideoReader
from vivit_train.video.watch import watched
from vivit_train.video.write import write_video

CLIPS = Path(__file__).parents[2].parent / "shared" / "clips"
NUM_FRAMES = 40

needs_decord = pytest.mark.skipif(
    importlib.util.find_spec("decord") is None, reason="decord is not installed"
)
needs_av1 = pytest.mark.skipif(
    "libsvtav1" not in av.codecs_available, reason="this PyAV has no AV1 encoder"
)

# Closed groups of pictures: where any way of seeking is right.
PLAIN = {
    "h264.mp4": ("libx264", {"g": "12", "bf": "2"}),
    "h264.mkv": ("libx264", {"g": "12", "bf": "2"}),
    "vp9.webm": ("libvpx-vp9", {"g": "12", "deadline": "realtime", "cpu-used": "8"}),
    "mpeg4.mp4": ("mpeg4", {"g": "12"}),
    "mpeg4.avi": ("mpeg4", {"g": "12"}),
}
# Where seeking by assumption goes wrong.
HARD = {
    "open_gop.mp4": ("libx264", {"x264-params": "keyint=10:open-gop=1:bframes=3:scenecut=0"}),
    "open_gop.mkv": ("libx264", {"x264-params": "keyint=10:open-gop=1:bframes=3:scenecut=0"}),
    "open_gop_hevc.mp4": ("libx265", {"x265-params": "keyint=10:open-gop=1:log-level=none"}),
    "intra_refresh.mp4": ("libx264", {"g": "8", "x264-params": "intra-refresh=1"}),
    "b_frames_mpeg4.mp4": ("mpeg4", {"g": "10", "bf": "2"}),
    "b_frames_mpeg4.avi": ("mpeg4", {"g": "10", "bf": "2"}),
    "b_frames_h264.avi": ("libx264", {"g": "10", "bf": "2"}),
    "transport_stream.ts": ("libx264", {"g": "8"}),
    "flash.flv": ("libx264", {"g": "8"}),
}


def clip_path(name):
    if not (CLIPS / name).exists():
        pytest.skip(f"no test clip {CLIPS / name}")
    return CLIPS / name


def numbered(num_frames=NUM_FRAMES, height=48, width=128):
    """Frames that say which they are: eight stripes, the binary digits of the frame's number."""
    digits = np.arange(num_frames)[:, None] >> np.arange(8) & 1  # [T, 8]
    stripes = np.repeat(np.where(digits, 235, 20), width // 8, axis=1).astype(np.uint8)
    return np.broadcast_to(stripes[:, None, :, None], (num_frames, height, width, 3)).copy()


def numbers(frames):
    """The numbers that decoded frames show, whatever the codec did to their greys."""
    stripes = frames.mean((1, 3)).reshape(len(frames), 8, -1).mean(2)
    return ((stripes > 128) << np.arange(8)).sum(1).tolist()


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name, (codec, options) in (PLAIN | HARD).items():
        write_video(folder / name, numbered(), codec=codec, options=options)
    return folder


def index_lists(num_frames, seed=0):
    rng = np.random.default_rng(seed)
    return [
        list(range(num_frames)),
        list(range(num_frames))[::-1],
        [num_frames - 1],
        [num_frames // 2, num_frames // 2 + 1, num_frames // 2],
        *(rng.integers(num_frames, size=5).tolist() for _ in range(6)),
        ((rng.integers(num_frames) + 3 * np.arange(16)) % num_frames).tolist(),
    ]


@pytest.mark.parametrize("name", [*PLAIN, *HARD])
def test_each_index_yields_its_frame(videos, name):
    with VideoReader(videos / name) as reader:
        assert reader.num_frames == NUM_FRAMES
        assert reader.fps == 30
        np.testing.assert_allclose(reader.shown_at, np.arange(NUM_FRAMES + 1) / 30, atol=1e-9)
        for indices in index_lists(NUM_FRAMES):
            frames = reader.read(indices)
            assert frames.shape == (len(indices), 48, 128, 3)
            assert frames.dtype == np.uint8
            assert numbers(frames) == indices
    # A seek in a fresh reader, rather than after others.
    for indices in index_lists(NUM_FRAMES):
        with VideoReader(videos / name) as reader:
            assert numbers(reader.read(indices)) == indices


def seconds(frame):
    """Half a frame before a frame is shown."""
    return max(0, frame - 0.5) / 30


@pytest.mark.parametrize("span", [(0, 40), (0, 1), (3, 9), (17, 31), (24, 25), (35, 40), (38, 90)])
@pytest.mark.parametrize("name", [*PLAIN, *HARD])
def test_a_segment_is_its_frames(videos, name, span):
    with VideoReader(videos / name, segment=(seconds(span[0]), seconds(span[1]))) as reader:
        expected = list(range(span[0], min(span[1], NUM_FRAMES)))
        assert reader.num_frames == len(expected)
        times = np.array(expected) / 30 - seconds(span[0])
        np.testing.assert_allclose(reader.shown_at[:-1], times, atol=1e-9)
        assert numbers(reader.read(range(reader.num_frames))) == expected
        assert numbers(reader.read([reader.num_frames - 1, 0])) == [expected[-1], expected[0]]
        with pytest.raises(DecodeError, match=f"there is no frame .*, only {len(expected)}"):
            reader.read([len(expected)])


def test_a_segment_begins_and_ends_on_the_frame(videos):
    for name in PLAIN:
        with VideoReader(videos / name, segment=(0.4, 0.8)) as reader:
            assert numbers(reader.read(range(reader.num_frames))) == list(range(12, 24))


@pytest.mark.parametrize("name", ["h264.mp4", "vp9.webm", "mpeg4.avi"])
def test_a_segment_between_two_frames_is_the_one_on_display(videos, name):
    for frame in (0, 14, 39):
        with VideoReader(videos / name, segment=((frame + 0.3) / 30, (frame + 0.6) / 30)) as reader:
            assert reader.num_frames == 1
            assert numbers(reader.read([0])) == [frame]


@pytest.mark.parametrize("decoder", ["pyav", pytest.param("decord", marks=needs_decord)])
@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "mpeg4.avi"])
def test_a_segment_after_the_end(videos, name, decoder):
    with pytest.raises(DecodeError, match=r"no frame from 2\.00 s on"):
        VideoReader(videos / name, decoder, (2.0, 3.0))


@needs_decord
@pytest.mark.parametrize("name", PLAIN)
def test_decoders_agree_on_segments(videos, name):
    segment = (seconds(15), seconds(30))
    with (
        VideoReader(videos / name, "pyav", segment) as pyav,
        VideoReader(videos / name, "decord", segment) as decord,
    ):
        assert pyav.num_frames == decord.num_frames == 15
        np.testing.assert_array_equal(pyav.read([14, 3]), decord.read([14, 3]))


def test_damage_before_a_segment_is_named(tmp_path):
    """It is no frame of the segment; and the video is not decoded from its beginning for it."""
    path = tmp_path / "clip.mp4"
    write_video(path, numbered(120), options={"g": "40", "bf": "0"})
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    content = bytearray(path.read_bytes())
    pos, size = packets[85]
    content[pos + 8 : pos + size] = b"\xff" * (size - 8)
    path.write_bytes(content)
    with VideoReader(path, segment=(seconds(90), seconds(95))) as reader:
        with pytest.raises(
            DecodeError, match=r"a frame \d+ before the segment, on which it depends, (does|is)"
        ):
            reader.read([0])
        with pytest.raises(
            DecodeError, match=r"a frame \d+ before the segment, on which it depends, (does|is)"
        ):
            list(reader.decode_all())
        assert reader._backend._pts[0] > 0


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_segment_is_sought(tmp_path, suffix):
    """However long the video is: what lies elsewhere in it is not even read."""
    path = tmp_path / f"long.{suffix}"
    write_video(path, numbered(240), options={"g": "12", "bf": "2"})
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size, p.pts) for p in container.demux(video=0) if p.size]
    shown = sorted(pts for *_, pts in packets)
    for pos, size, pts in packets:
        if shown[60] < pts < shown[180]:  # beyond what opening looks at, and before the segment
            content[pos + size // 2 : pos + size] = b"\xff" * (size - size // 2)
    path.write_bytes(content)
    with VideoReader(path, segment=(seconds(200), seconds(206))) as reader:
        assert numbers(reader.read(range(6))) == list(range(200, 206))
        assert len(reader._backend._pts) <= 6 + 12


@needs_decord
@pytest.mark.parametrize("name", sorted(PLAIN.keys() | HARD.keys() - {"transport_stream.ts"}))
def test_decoders_agree_to_the_bit(videos, name):
    with VideoReader(videos / name, "pyav") as pyav, VideoReader(videos / name, "decord") as decord:
        assert (pyav.num_frames, pyav.fps) == (decord.num_frames, decord.fps)
        for indices in index_lists(NUM_FRAMES):
            np.testing.assert_array_equal(pyav.read(indices), decord.read(indices))


@needs_decord
@pytest.mark.parametrize(
    "name",
    [
        "arm_wrestling.mp4",
        "laughing.mp4",
        "training_dog.mp4",
        "flipping_pancake.mkv",
        "eye_makeup.avi",
        "rotated_90.mov",
    ],
)
def test_decoders_agree_on_real_clips(name):
    path = clip_path(name)
    with VideoReader(path, "pyav") as pyav, VideoReader(path, "decord") as decord:
        assert (pyav.num_frames, pyav.fps) == (decord.num_frames, decord.fps)
        rng = np.random.default_rng(0)
        indices = ((rng.integers(pyav.num_frames) + 3 * np.arange(12)) % pyav.num_frames).tolist()
        np.testing.assert_array_equal(pyav.read(indices), decord.read(indices))


@needs_decord
def test_decord_finds_the_last_frame_of_a_real_avi():
    """Its packets have no times, and decord's own way to the frame loses it more often than not."""
    path = clip_path("eye_makeup.avi")
    with VideoReader(path, "pyav") as pyav:
        expected = pyav.read([163])
    for _ in range(5):
        with VideoReader(path, "decord") as decord:
            np.testing.assert_array_equal(decord.read([163]), expected)


def test_auto_is_exact_whatever_the_file(videos):
    with VideoReader(videos / "open_gop.mp4") as reader:
        assert reader.decoder == "pyav"


@needs_av1
def test_av1(tmp_path, monkeypatch):
    monkeypatch.setenv("SVT_LOG", "0")
    write_video(tmp_path / "av1.mkv", numbered(20), codec="libsvtav1", options={"preset": "10"})
    with VideoReader(tmp_path / "av1.mkv") as reader:
        assert numbers(reader.read([19, 3, 3, 11])) == [19, 3, 3, 11]


def test_real_av1_clip():
    with VideoReader(clip_path("av1.mkv")) as reader:
        assert (reader.num_frames, reader.fps) == (125, 25.0)
        frames = reader.read([100, 0])
        assert frames.shape == (2, 360, 640, 3)
        np.testing.assert_array_equal(frames[1], reader.read([0])[0])


def test_rotation_is_applied():
    with VideoReader(clip_path("rotated_90.mov")) as reader:
        assert reader.read([0]).shape == (1, 568, 320, 3)


def test_default_stream_is_read():
    with VideoReader(clip_path("two_streams.mp4")) as reader:
        assert reader.read([0]).shape == (1, 270, 480, 3)


@pytest.mark.parametrize("decoder", ["pyav", pytest.param("decord", marks=needs_decord)])
class TestBrokenFiles:
    @pytest.mark.parametrize(
        ("name", "reason"), [("absent.mp4", "no such file"), ("folder.mp4", "no file but a folder")]
    )
    def test_no_file(self, tmp_path, decoder, name, reason):
        (tmp_path / "folder.mp4").mkdir()
        with pytest.raises(DecodeError, match=reason) as error:
            VideoReader(tmp_path / name, decoder)
        assert error.value.path == str(tmp_path / name)

    @pytest.mark.parametrize(
        "content", [b"", b"not a video\n" * 40, np.random.default_rng(0).bytes(5000)]
    )
    def test_no_video(self, tmp_path, decoder, content):
        (tmp_path / "clip.mp4").write_bytes(content)
        with pytest.raises(DecodeError):
            VideoReader(tmp_path / "clip.mp4", decoder)

    def test_truncated_mp4(self, tmp_path, decoder, videos):
        content = (videos / "h264.mp4").read_bytes()
        (tmp_path / "clip.mp4").write_bytes(content[: len(content) // 2])
        with pytest.raises(DecodeError):
            VideoReader(tmp_path / "clip.mp4", decoder)

    def test_truncated_mkv_is_shorter_but_exact(self, tmp_path, decoder, videos):
        content = (videos / "h264.mkv").read_bytes()
        (tmp_path / "clip.mkv").write_bytes(content[: len(content) * 3 // 4])
        with VideoReader(tmp_path / "clip.mkv", decoder) as reader:
            indices = list(range(0, reader.num_frames - 4, 3))
            assert 0 < reader.num_frames < NUM_FRAMES
            assert numbers(reader.read(indices)) == indices

    def test_audio_only(self, tmp_path, decoder):
        with av.open(str(tmp_path / "clip.mp4"), "w") as container:
            stream = container.add_stream("aac", rate=16000, layout="mono")
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            sound.rate = 16000
            container.mux(stream.encode(sound))
            container.mux(stream.encode())
        with pytest.raises(DecodeError):
            VideoReader(tmp_path / "clip.mp4", decoder)

    def test_no_frames(self, tmp_path, decoder):
        with av.open(str(tmp_path / "clip.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=30)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            container.start_encoding()
        with pytest.raises(DecodeError):
            VideoReader(tmp_path / "clip.mp4", decoder)

    @pytest.mark.parametrize("indices", [[NUM_FRAMES], [0, 10**6], [-1]])
    def test_index_outside(self, decoder, videos, indices):
        with (
            VideoReader(videos / "h264.mp4", decoder) as reader,
            pytest.raises(DecodeError, match=f"there is no frame .*, only {NUM_FRAMES}"),
        ):
            reader.read(indices)

    def test_closed(self, decoder, videos):
        with VideoReader(videos / "h264.mp4", decoder) as reader:
            pass
        with pytest.raises(DecodeError):
            reader.read([0])

    def test_overwritten_frames(self, tmp_path, decoder, videos):
        content = bytearray((videos / "h264.mp4").read_bytes())
        start = content.index(b"mdat") + 4 + len(content) // 8
        content[start : start + len(content) // 4] = b"\xff" * (len(content) // 4)
        (tmp_path / "clip.mp4").write_bytes(content)
        with (
            VideoReader(tmp_path / "clip.mp4", decoder) as reader,
            pytest.raises(DecodeError),
        ):
            reader.read(range(NUM_FRAMES))


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "mpeg4.avi"])
def test_flipped_bits_raise_nothing_but_decode_error(tmp_path, videos, name):
    rng = np.random.default_rng(0)
    content = (videos / name).read_bytes()
    for _ in range(12):
        damaged = bytearray(content)
        for place in rng.integers(len(content) // 5, len(content) * 4 // 5, size=3):
            damaged[place] ^= 1 << int(rng.integers(8))
        (tmp_path / name).write_bytes(damaged)
        with contextlib.suppress(DecodeError), VideoReader(tmp_path / name) as reader:
            assert len(reader.read([0, reader.num_frames // 2])) == 2


def remux(source, target, dropped=(), earlier_frames=0):
    """Copy a video's packets, less some, or so that it begins some frames in (an edit list)."""
    with (
        av.open(str(source)) as read,
        av.open(str(target), "w", container_options={"avoid_negative_ts": "disabled"}) as written,
    ):
        stream = written.add_stream_from_template(read.streams.video[0])
        for number, packet in enumerate(read.demux(video=0)):
            if packet.size and number not in dropped:
                packet.pts -= earlier_frames * packet.duration
                packet.dts -= earlier_frames * packet.duration
                packet.stream = stream
                written.mux(packet)


def test_edit_list_hides_what_lies_before_it(tmp_path, videos):
    remux(videos / "h264.mp4", tmp_path / "clip.mp4", earlier_frames=5)
    with VideoReader(tmp_path / "clip.mp4") as reader:
        assert reader.num_frames == NUM_FRAMES - 5
        for indices in index_lists(reader.num_frames):
            assert numbers(reader.read(indices)) == [index + 5 for index in indices]


def test_missing_key_frame_is_loud(tmp_path, videos):
    remux(videos / "h264.mp4", tmp_path / "clip.mp4", dropped=[0])
    with VideoReader(tmp_path / "clip.mp4") as reader:
        assert reader.num_frames == NUM_FRAMES - 1
        with pytest.raises(DecodeError, match=r"does not decode|damaged"):
            reader.read([0])


def test_changing_size_is_loud(tmp_path):
    """Transport streams can simply be joined."""
    joined = b""
    for height in (48, 64):
        write_video(tmp_path / "part.ts", numbered(6, height), options={"bf": "0"})
        joined += (tmp_path / "part.ts").read_bytes()
    (tmp_path / "clip.ts").write_bytes(joined)
    with VideoReader(tmp_path / "clip.ts") as reader:
        assert reader.read([0, 1]).shape[1] == 48
        with pytest.raises(DecodeError, match="differ in size"):
            reader.read(range(reader.num_frames))


@pytest.mark.parametrize("name", [*PLAIN, *HARD])
def test_every_frame_decodes_one_after_the_other(videos, name):
    with VideoReader(videos / name) as reader:
        assert list(reader.decode_all()) == list(range(1, NUM_FRAMES + 1))
        assert numbers(reader.read([7])) == [7]  # reading goes on as before
    with VideoReader(videos / name, segment=(seconds(15), seconds(30))) as reader:
        assert list(reader.decode_all()) == list(range(1, 16))
        assert reader.promised == 15


@pytest.mark.parametrize("name", [*PLAIN, *HARD])
def test_the_container_promises_its_frames(videos, name):
    says_nothing = name.endswith((".ts", ".flv"))
    with VideoReader(videos / name) as reader:
        assert reader.promised == (0 if says_nothing else NUM_FRAMES)


@pytest.mark.parametrize("name", ["h264.mkv", "vp9.webm"])
def test_a_file_that_was_cut_off_has_fewer_frames_than_promised(tmp_path, videos, name):
    content = (videos / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) * 2 // 3])
    with VideoReader(tmp_path / name) as reader:
        assert reader.num_frames < reader.promised == NUM_FRAMES


@pytest.mark.parametrize("suffix", ["mkv", "webm"])
@pytest.mark.parametrize("start", [40, 380, 5000])
@pytest.mark.parametrize("with_sound", [False, True])
def test_a_video_that_does_not_begin_at_0_is_whole(tmp_path, suffix, start, with_sound):
    """As a cut without re-encoding is: Matroska's durations are the times of the end."""
    path = tmp_path / f"clip.{suffix}"
    write_matroska(path, NUM_FRAMES, start, sound_ms=2000 if with_sound else 0)
    with VideoReader(path) as reader:
        assert reader.num_frames == reader.promised == NUM_FRAMES
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with VideoReader(path) as reader:
        assert reader.num_frames < reader.promised == pytest.approx(NUM_FRAMES, abs=2)


@pytest.mark.parametrize("suffix", ["mkv", "webm"])
@pytest.mark.parametrize("start", [0, 380])
@pytest.mark.parametrize("sound_ms", [500, 1600, 8000])
def test_sound_may_be_longer_or_shorter(tmp_path, suffix, start, sound_ms):
    """Browsers write the duration of the longest stream alone: 1.6 s of picture are whole."""
    path = tmp_path / f"clip.{suffix}"
    write_matroska(path, NUM_FRAMES, start, sound_ms)
    content = path.read_bytes()
    assert content.count(b"DURATION") == 2
    path.write_bytes(content.replace(b"DURATION", b"DURATIOX"))
    with VideoReader(path) as reader:
        assert reader.num_frames == reader.promised == NUM_FRAMES
    path.write_bytes(path.read_bytes()[: len(content) // 2])
    with VideoReader(path) as reader:
        assert reader.num_frames < 0.95 * reader.promised - 1


def write_matroska(path, num_frames, start, sound_ms=0):
    """In a process of its own: where decord was imported, libvpx does not encode."""
    arguments = (path, num_frames, start, sound_ms)
    process = get_context("spawn").Process(target=encode_matroska, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode == 0


def encode_matroska(path, num_frames, start, sound_ms):
    """25 frames per second from a time in ms on, and sound from 0 or that time."""
    webm = path.suffix == ".webm"
    options = {"avoid_negative_ts": "disabled"}
    with av.open(str(path), "w", container_options=options) as container:
        video = container.add_stream("libvpx" if webm else "libx264", rate=25, options={"g": "8"})
        video.height, video.width, video.pix_fmt = 48, 128, "yuv420p"
        sound = container.add_stream("libopus", rate=48000, layout="mono") if sound_ms else None
        tick = Fraction(1, 1000)
        for number, image in enumerate(numbered(num_frames)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = start + 40 * number, tick
            for packet in video.encode(frame):
                container.mux(packet)
        container.mux(video.encode())
        for number in range(sound_ms // 20):
            silence = np.zeros((1, 960), np.int16)
            frame = av.AudioFrame.from_ndarray(silence, "s16", "mono")
            frame.rate, frame.time_base = 48000, Fraction(1, 48000)
            frame.pts = 48 * start + 960 * number
            container.mux(sound.encode(frame))
        if sound:
            container.mux(sound.encode())


def test_an_edit_list_hides_no_promise(tmp_path, videos):
    remux(videos / "h264.mp4", tmp_path / "clip.mp4", earlier_frames=5)
    with VideoReader(tmp_path / "clip.mp4") as reader:
        assert reader.promised == reader.num_frames == NUM_FRAMES - 5


def test_decoding_all_names_the_damaged_frame(tmp_path, videos):
    content = bytearray((videos / "h264.mp4").read_bytes())
    start = content.index(b"mdat") + 4 + len(content) // 4
    content[start : start + len(content) // 4] = b"\xff" * (len(content) // 4)
    (tmp_path / "clip.mp4").write_bytes(content)
    with (
        VideoReader(tmp_path / "clip.mp4") as reader,
        pytest.raises(DecodeError, match=r"damaged|does not decode|Invalid data"),
    ):
        list(reader.decode_all())


def test_a_changing_size_is_found_when_all_is_decoded(tmp_path):
    joined = b""
    for height in (48, 64):
        write_video(tmp_path / "part.ts", numbered(6, height), options={"bf": "0"})
        joined += (tmp_path / "part.ts").read_bytes()
    (tmp_path / "clip.ts").write_bytes(joined)
    with (
        VideoReader(tmp_path / "clip.ts") as reader,
        pytest.raises(DecodeError, match="frame 6 differs in size"),
    ):
        list(reader.decode_all())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_what_is_no_file_is_never_opened(tmp_path):
    """Opening a pipe waits for someone to write."""
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "link.mp4").symlink_to("nowhere.mp4")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    for path, reason in {
        tmp_path / "pipe.mp4": "no file but a pipe",
        tmp_path / "link.mp4": "a link to nothing",
        tmp_path / "loop.mp4": "Too many levels of symbolic links",
        "/dev/null": "no file but a device",
    }.items():
        with pytest.raises(DecodeError, match=reason):
            VideoReader(path)


def test_a_hook_may_refuse_a_video(videos):
    asked = []

    def refuse(source):
        asked.append(source)
        raise DecodeError(source[0], "not today")

    path = videos / "h264.mp4"
    with watched(refuse), pytest.raises(DecodeError, match="not today"):
        VideoReader(path, segment=(0.0, 1.0))
    assert asked == [(str(path), (0.0, 1.0))]
    VideoReader(path).close()


@pytest.mark.parametrize("decoder", ["pyav", pytest.param("decord", marks=needs_decord)])
def test_frames_that_are_too_large_are_refused_before_they_are_decoded(
    tmp_path, monkeypatch, decoder
):
    path = tmp_path / "large.mp4"
    write_video(path, np.zeros((2, 48, 64, 3), np.uint8))
    monkeypatch.setattr(container, "MAX_FRAME_PIXELS", 64 * 48)
    VideoReader(path, decoder).close()
    monkeypatch.setattr(container, "MAX_FRAME_PIXELS", 64 * 48 - 1)
    with pytest.raises(DecodeError, match="frames of 64x48 pixels; at most 3,071 pixels"):
        VideoReader(path, decoder)


def test_a_picture_that_is_too_large_is_not_decoded_to_see_what_it_is(tmp_path):
    """FFmpeg decodes the first PNG of a file when it opens it, to learn of its pixels."""
    path = tmp_path / "large.mov"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 8200, 8200, "gray"
        file.mux(stream.encode(av.VideoFrame(8200, 8200, "gray")))
        file.mux(stream.encode())
    with pytest.raises(DecodeError, match=r"a size that cannot be decoded; at most 67,108,864"):
        VideoReader(path)


def test_frames_that_are_larger_than_the_container_says_are_refused_too(tmp_path):
    path = tmp_path / "large.mp4"
    write_video(path, np.zeros((2, 48, 64, 3), np.uint8))
    opened, stream = container.open_video(path)
    assert stream.codec_context.options["max_pixels"] == str(container.MAX_FRAME_PIXELS)
    stream.codec_context.options = {"max_pixels": "1000"}
    with opened, pytest.raises(av.error.FFmpegError):
        next(opened.decode(stream))


def test_decode_error_crosses_processes():
    error = pickle.loads(pickle.dumps(DecodeError("a.mp4", "no frames")))
    assert (error.path, error.reason, str(error)) == ("a.mp4", "no frames", "a.mp4: no frames")


def test_unknown_decoder_lists_the_choices():
    with pytest.raises(UserError, match=r"opencv.*auto or pyav or decord or torchcodec"):
        VideoReader("clip.mp4", "opencv")


def test_missing_decoder_is_said(videos, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    monkeypatch.delitem(sys.modules, "vivit_train.video.decoders.decord", raising=False)
    with pytest.raises(UserError, match="decoder=decord cannot be imported"):
        VideoReader(videos / "h264.mp4", "decord")


def _read_in_child(path, decoder, queue):
    with VideoReader(path, decoder) as reader:
        queue.put(numbers(reader.read([30, 2])))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("decoder", ["pyav", pytest.param("decord", marks=needs_decord)])
def test_forked_worker_reads(videos, decoder):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=_read_in_child, args=(videos / "h264.mp4", decoder, queue))
    worker.start()
    try:
        assert queue.get(timeout=30) == [30, 2]
    finally:
        worker.join(10)
        worker.kill()
