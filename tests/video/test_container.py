"""Files that would have FFmpeg open something else: none of it happens, with any reader."""

import os
import re
import struct
import threading
from pathlib import Path

import av
import pytest

from tests.video.decoders.test_torchcodec import stand_in  # noqa: F401
from tests.video.test_decode import needs_decord, numbered, numbers
from vivit_train.errors import UserError
from vivit_train.video import container
from vivit_train.video.container import VIDEO_SUFFIXES
from vivit_train.video.decode import DecodeError, VideoReader
from vivit_train.video.write import Encoding, reencode_video, write_video

# TorchCodec's class is replaced where it is not installed: it must not even be called.
DECODERS = ["pyav", pytest.param("decord", marks=needs_decord), "torchcodec"]
DASH = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile:isoff-main:2011"
 type="static" mediaPresentationDuration="PT1S"><Period><AdaptationSet>
<Representation id="1" mimeType="video/mp4" bandwidth="1"><BaseURL>secret.mp4</BaseURL>
</Representation></AdaptationSet></Period></MPD>
"""
HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{url}\n#EXT-X-ENDLIST\n"
SCRIPTS = {
    "ffconcat": "ffconcat version 1.0\nfile secret.mp4\n",
    "absolute ffconcat": "ffconcat version 1.0\nfile {folder}/secret.mp4\noption safe 0\n",
    "m3u8": HLS.replace("{url}", "secret.mp4"),
    "m3u8 of file://": HLS.replace("{url}", "file://{folder}/secret.mp4"),
    "m3u8 of http://": HLS.replace("{url}", "http://127.0.0.1:9/secret.mp4"),
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video 50004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "dash": DASH,
    "image sequence": "%d.png",
    "subtitles": "1\n00:00:00,000 --> 00:00:02,000\nhello\n",
}


@pytest.fixture
def folder(tmp_path, stand_in):  # noqa: F811
    write_video(tmp_path / "secret.mp4", numbered(10))
    return tmp_path


class Opened:
    """Files and sockets that this process opens, C code included, by looking at /proc."""

    def __init__(self):
        self.before = self._list()
        self.found = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _list(self):
        links = set()
        for number in os.listdir("/proc/self/fd"):
            try:
                links.add(os.readlink(f"/proc/self/fd/{number}"))
            except OSError:
                continue
        return links

    def _watch(self):
        while not self._stop.wait(0.0005):
            self.found |= self._list() - self.before

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self.found |= self._list() - self.before
        self._stop.set()
        self._thread.join()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc on this system")
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("name", ["clip.mp4", "clip.m3u8", "clip.sdp"])
def test_a_script_is_refused_at_once(folder, script, name, decoder):
    content = SCRIPTS[script].replace("{folder}", str(folder)).encode()
    (folder / name).write_bytes(content)
    for data in (None, content):
        with Opened() as opened, pytest.raises(DecodeError) as error:
            VideoReader(folder / name, decoder, data=data)
        assert not {link for link in opened.found if "secret" in link or "socket" in link}
        assert error.value.path == str(folder / name)
    with pytest.raises(DecodeError):
        reencode_video(folder / name, folder / "copy.mp4", Encoding(32, 4, 20))
    assert not (folder / "copy.mp4").exists()


def test_the_reason_is_said(folder):
    (folder / "clip.mp4").write_text(SCRIPTS["ffconcat"])
    with pytest.raises(DecodeError, match="playlists and scripts that name other files are never"):
        VideoReader(folder / "clip.mp4")


def boxed(kind, content):
    return struct.pack(">I4s", len(content) + 8, kind) + content


def alias(path):
    """An entry of a `dref` box: the data are in the file at an absolute path."""
    name = path.encode() + b"\0" * (len(path) % 2)
    record = bytes(10) + b"\0" + bytes(27) + bytes(12) + b"\0" + bytes(63) + bytes(16)
    record += struct.pack(">HH", 1, 1) + bytes(16)
    record += struct.pack(">HH", 2, len(name)) + name + struct.pack(">hH", -1, 0)
    return boxed(b"alis", bytes(4) + record)


def with_external_data(content, path):
    """An mp4, its index behind its data, whose track's data are in another file."""
    entry = boxed(b"url ", b"\0\0\0\1")
    start = content.index(entry)
    assert content.index(b"mdat") < start
    grown = bytearray(content[:start] + alias(path) + content[start + len(entry) :])
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        at = grown.index(kind) - 4
        (size,) = struct.unpack_from(">I", grown, at)
        struct.pack_into(">I", grown, at, size + len(grown) - len(content))
    return bytes(grown)


@pytest.mark.parametrize("decoder", DECODERS)
def test_an_mp4_never_reads_its_frames_from_another_file(folder, decoder):
    content = with_external_data((folder / "secret.mp4").read_bytes(), str(folder / "secret.mp4"))
    (folder / "clip.mov").write_bytes(content)
    # FFmpeg would, on request: the attack is a real one.
    with av.open(str(folder / "clip.mov"), container_options={"enable_drefs": "1"}) as opened:
        assert sum(bool(packet.size) for packet in opened.demux()) == 10
    for data in (None, content):
        with pytest.raises(DecodeError, match="no frames in this file|no frame decodes"):
            VideoReader(folder / "clip.mov", decoder, data=data)


@pytest.mark.parametrize("decoder", ["pyav", pytest.param("decord", marks=needs_decord)])
@pytest.mark.parametrize(
    "name", ["12:30:05.mp4", "take 2: final.mp4", "file:x.mp4", "pipe:0", "concat:a|b", "-i.mp4"]
)
def test_names_are_no_protocols(tmp_path, monkeypatch, name, decoder):
    monkeypatch.chdir(tmp_path)
    write_video("clip.mp4", numbered(10))
    os.rename("clip.mp4", name)
    with VideoReader(name, decoder) as reader:
        assert numbers(reader.read([7])) == [7]


def test_a_name_with_a_colon_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video("12:30:05.mp4", numbered(10))
    reencode_video("12:30:05.mp4", "12:30:06.mp4", Encoding(48, 4, 20))
    assert sorted(os.listdir()) == ["12:30:05.mp4", "12:30:06.mp4"]


# A name, a codec: what an allowed container holds is read as before.
ALLOWED = {
    "a.mp4": "libx264",
    "a.mov": "mjpeg",
    "a.3gp": "mpeg4",
    "a.mkv": "libx264",
    "a.webm": "libvpx",
    "a.avi": "mpeg4",
    "a.ts": "libx264",
    "a.mts": "libx264",
    "a.m2ts": "libx264",
    "a.mpg": "mpeg2video",
    "a.mpeg": "mpeg2video",
    "a.wmv": "wmv2",
    "a.flv": "libx264",
    "a.ogv": "libtheora",
    "a.mxf": "mpeg2video",
    "a.nut": "mpeg4",
    "a.gif": "gif",
    "a.h264": "libx264",
    "a.m4v": "mpeg4",
    "a.y4m": "wrapped_avframe",
}


@pytest.mark.parametrize("name", ALLOWED)
def test_containers_that_hold_their_own_frames_are_read(tmp_path, name):
    codec = ALLOWED[name]
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {codec}")
    rate = 25 if codec == "mpeg2video" else 30
    pixel_format = {"gif": "rgb8", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
    with av.open(str(tmp_path / name), "w") as written:
        stream = written.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = 48, 128, pixel_format
        for image in numbered(12):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            written.mux(stream.encode(frame.reformat(format=pixel_format)))
        written.mux(stream.encode())
    with VideoReader(tmp_path / name) as reader:
        assert reader.num_frames == 12
        assert numbers(reader.read([0, 7, 11])) == [0, 7, 11]


def test_every_suffix_of_a_video_is_among_them():
    assert {Path(name).suffix for name in ALLOWED} >= VIDEO_SUFFIXES


def test_the_oldest_av_that_installs_is_the_oldest_that_is_read_with():
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert f'"av>={container.MIN_AV}"' in project


@pytest.mark.parametrize("decoder", DECODERS)
def test_an_older_av_is_refused(folder, monkeypatch, decoder):
    """It ignores the matrix that a file names."""
    monkeypatch.setattr(av, "__version__", "16.1.0")
    monkeypatch.setattr(container, "AV", 16)
    message = re.escape("av 16.1.0 reads colours differently: ") + ".*pip install 'av>=17'"
    with pytest.raises(UserError, match=message):
        VideoReader(folder / "secret.mp4", decoder)
    with pytest.raises(UserError, match=message):
        write_video(folder / "new.mp4", numbered(2))
    with pytest.raises(UserError, match=message):
        reencode_video(folder / "secret.mp4", folder / "copy.mp4", Encoding(32, 4, 20))
    assert os.listdir(folder) == ["secret.mp4"]
