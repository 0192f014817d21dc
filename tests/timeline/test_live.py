import io
import json
import sys
from math import inf
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.timeline.conftest import Blinkered, picture
from vivit_train.errors import UserError
from vivit_train.timeline import live
from vivit_train.timeline.live import live_clips, picture_frames, raw_frames
from vivit_train.timeline.windows import Windows

SECONDS, RATE = 4.2, 20
# The classifier of these tests knows still pictures.
WORDS = ("--window", "400ms", "--every", "0.2s", "--still", "0")


def encoded(kind: str, **options: object) -> list[bytes]:
    """The film of the square, each frame as a file."""
    files = []
    for number in range(round(SECONDS * RATE)):
        file = io.BytesIO()
        Image.fromarray(picture(number / RATE)).save(file, kind, **options)
        files.append(file.getvalue())
    return files


def raw() -> bytes:
    return b"".join(picture(number / RATE).tobytes() for number in range(round(SECONDS * RATE)))


class Trickle(io.RawIOBase):
    """A pipe that gives a few bytes at a time, and says how many it has given."""

    def __init__(self, content: bytes, step: int = 997) -> None:
        self.content, self.step, self.given = content, step, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        count = min(len(buffer), self.step, len(self.content) - self.given)
        buffer[:count] = self.content[self.given : self.given + count]
        self.given += count
        return count


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch):
    """Has standard input hold something."""

    def hold(content: bytes) -> None:
        file = io.TextIOWrapper(io.BufferedReader(Trickle(content)))
        monkeypatch.setattr(sys, "stdin", file)

    return hold


def numbered(times: list[float]):
    for number, time in enumerate(times):
        yield time, np.full((2, 2, 3), number % 256, np.uint8)


def shown(times: list[float], window: float, every: float, clip_frames: int, **options: bool):
    found = live_clips(
        numbered(times), Windows(inf, window, every), clip_frames, lambda f: f, **options
    )
    return [(number, clip[:, 0, 0, 0].tolist()) for number, clip in found]


def test_clips_by_hand() -> None:
    """Frames at 0, 0.1, ...; windows of 0.4 s have theirs at 0, 0.2; the last is cut off."""
    times = [k / 10 for k in range(10)]
    assert shown(times, 0.4, 0.3, 2) == [(0, [0, 2]), (1, [3, 5]), (2, [6, 8])]
    assert shown(times[:9], 0.4, 0.3, 2) == [(0, [0, 2]), (1, [3, 5])]


def test_uneven_times_show_what_is_on_the_screen() -> None:
    assert shown([0, 0.1, 0.55, 0.6, 1.5, 1.6], 0.4, 0.4, 2) == [
        (0, [0, 1]), (1, [1, 3]), (2, [3, 3]), (3, [3, 3]),
    ]  # fmt: skip


def test_a_camera_that_went_on_drops_windows() -> None:
    """From 0.3 to 2 s no frame came: of the windows that are over by then the last one is shown."""
    times = [0, 0.1, 0.2, 0.3, 2.0, 2.1]
    assert shown(times, 0.2, 0.2, 2) == [
        (n, c) for n, c in enumerate([[0, 1], [2, 3], *[[3, 3]] * 7, [3, 3], [4, 5]]) if n < 11
    ]
    assert shown(times, 0.2, 0.2, 2, drops=True) == [(0, [0, 1]), (9, [3, 3]), (10, [4, 5])]


def test_a_window_is_given_when_its_last_frame_has_been_shown() -> None:
    taken = []

    def frames():
        for time, frame in numbered([k / 10 for k in range(20)]):
            taken.append(time)
            yield time, frame

    next(live_clips(frames(), Windows(inf, 0.4, 0.4), 4, lambda f: f))
    assert taken[-1] == 0.4


def test_memory_holds_one_window() -> None:
    times = [k / 10 for k in range(1000)]
    found = live_clips(numbered(times), Windows(inf, 1, 1), 4, lambda frame: frame)
    next(found)
    held = found.gi_frame.f_locals["held"]
    lengths = [len(held) for _ in found]
    assert len(lengths) == 99
    assert max(lengths) <= 11


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True, "quality": 95}),
        ("JPEG", {"restart_marker_blocks": 1, "exif": b"Exif\0\0\xff\xd9" + bytes(50)}),
        ("PNG", {}),
    ],
)
def test_pictures_are_told_apart(kind: str, options: dict) -> None:
    files = encoded(kind, **options)
    stream = io.BufferedReader(Trickle(b"".join(files), 13))
    found = list(picture_frames(stream, RATE))
    assert [time for time, _ in found] == [number / RATE for number in range(len(files))]
    for (_, frame), file in zip(found, files, strict=True):
        assert np.array_equal(frame, np.array(Image.open(io.BytesIO(file)).convert("RGB")))


def test_a_picture_is_given_when_its_last_byte_is_there() -> None:
    """The next one need not have begun."""
    for kind in ("JPEG", "PNG"):
        files = encoded(kind)
        pipe = Trickle(b"".join(files), 1)
        next(picture_frames(io.BufferedReader(pipe), RATE))
        assert pipe.given == len(files[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no picture at all", "picture 0 is neither JPEG nor PNG: give --size"),
        (b"\xff\xd8\xff", "ended within picture 0"),
        (b"\xff\xd8\xff\xd9", "picture 0: cannot identify image"),
        (b"\x89PNG\r\n\x1a\n\xff\xff\xff\xffIDAT", "picture 0 has more than 256 MiB"),
    ],
)
def test_what_is_no_picture(content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(picture_frames(io.BufferedReader(Trickle(content)), 1))


def test_pictures_of_two_sizes() -> None:
    files = []
    for size in ((4, 4), (4, 5)):
        file = io.BytesIO()
        Image.new("RGB", size).save(file, "PNG")
        files.append(file.getvalue())
    with pytest.raises(UserError, match="picture 1 differs in size"):
        list(picture_frames(io.BytesIO(b"".join(files)), 1))


def test_raw_frames_and_what_is_left_over() -> None:
    (first, second) = raw_frames(io.BytesIO(bytes(range(24))), (2, 2), 10)
    assert (first[0], second[0]) == (0, 0.1)
    assert second[1].tolist() == [[[12, 13, 14], [15, 16, 17]], [[18, 19, 20], [21, 22, 23]]]
    with pytest.raises(UserError, match="within frame 1, after 3 of 12 bytes"):
        list(raw_frames(io.BytesIO(bytes(15)), (2, 2), 10))


@pytest.mark.parametrize("kind", ["raw", "PNG"])
def test_standard_input_gets_a_line_for_each_window(timeline, stdin, kind: str) -> None:
    stdin(raw() if kind == "raw" else b"".join(encoded("PNG")))
    size = ("--size", "64x32") if kind == "raw" else ()
    code, out, err = timeline("-", *WORDS, "--rate", RATE, *size)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert len(lines) == 20
    assert [line[-1] for line in lines[:4]] == ["right"] * 4
    assert [line[-1] for line in lines[10:14]] == ["left"] * 4
    assert lines[0][:3] == ["00:00:00.000", "-", "00:00:00.300"]
    assert [line[0] for line in lines[1:]] == [line[2] for line in lines[:-1]]


def test_a_still_picture_gets_no_line(timeline, stdin) -> None:
    """From 1 to 2 s and from 3 s on, known half a second later: lines come at once."""
    stdin(raw())
    seer = Blinkered()
    code, out, err = timeline(
        "-", *WORDS[:4], "--rate", RATE, "--size", "64x32", "--json", classifier=seer
    )
    rows = json.loads(out)
    assert code == 0
    assert [row["class"] for row in rows if row["end"] <= 1] == ["right"] * 4
    assert [row["class"] for row in rows if 2 <= row["start"] < 3] == ["left"] * 6
    for begins, ends in ((1.5, 2.0), (3.5, 4.2)):
        assert not [
            row for row in rows if row["start"] < ends - 1e-6 and row["end"] > begins + 1e-6
        ]
    assert len(rows) == seer.clips == 13  # of 20 windows
    assert "the picture stands still for 2.2" in err


def test_lines_come_while_frames_do(timeline, stdin, monkeypatch, capsys) -> None:
    """When the film has come to its second second, its first windows have their lines."""
    given = []

    def frames(*_: object):
        for number in range(60):
            given.append(capsys.readouterr().out)
            yield number / RATE, picture(number / RATE)

    monkeypatch.setattr(live, "camera_frames", frames)
    timeline("--camera", "0", *WORDS)
    assert "".join(given[:41]).count("right") >= 4


def test_a_camera_and_a_threshold(timeline, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def frames(number: int):
        asked.append(number)
        yield from ((k / RATE, picture(k / RATE)) for k in range(40))

    monkeypatch.setattr(live, "camera_frames", frames)
    code, out, _ = timeline("--camera", "2", *WORDS, "--json", "--threshold", "0.9")
    assert (code, asked) == (0, [2])
    assert all(row["probability"] >= 0.9 for row in json.loads(out))
    assert len(json.loads(out)) >= 4


def test_rows_of_a_stream_that_breaks_off_are_kept(timeline, stdin, tmp_path: Path) -> None:
    stdin(raw()[:-5])
    place = tmp_path / "out.srt"
    code, out, _ = timeline("-", *WORDS, "--rate", RATE, "--size", "64x32", "--timeline", place)
    assert "standard input ended within frame 83" in str(code)
    assert out.startswith("19 rows, until ")
    assert place.read_text().count("-->") == 19


def test_no_camera() -> None:
    with pytest.raises(UserError, match="--camera 99: /dev/video99 cannot be read"):
        next(live.camera_frames(99))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-",), "standard input (-) gets a timeline: give --window"),
        (("-", "--window", "2s"), "standard input needs --rate"),
        (("-", "--window", "2s", "--rate", "0"), "above 0, e.g. --rate 25; got 0"),
        (("-", "--window", "2s", "--rate", "1", "--size", "4"), "--size 4: expected WIDTHxHEIGHT"),
        (("-", "--window", "2s", "--rate", "1", "--smooth", "3"), "--smooth is for a film"),
        (("-", "--window", "2s", "--rate", "1", "--video", "o.mp4"), "--video is for a film"),
        (("-", "a.mp4", "--window", "2s", "--rate", "1"), "--window takes one video file"),
        (("a.mp4", "--window", "2s", "--rate", "1"), "--rate and --size are for standard input"),
        (("--camera", "0"), "--camera is for a timeline: give --window as well"),
        (("--camera", "-1", "--window", "2s"), "--camera must be 0 or more, got -1"),
        (("--camera", "0", "--window", "2s", "--size", "4x4"), "--rate and --size are for"),
        (("a.mp4", "--camera", "0", "--window", "2s"), "--camera is in place of a video"),
        (("--window", "2s"), "--window needs a video file, - for standard input, or --camera N"),
        ((), "give a video, or a folder of them"),
    ],
)
def test_what_cannot_be_is_said(timeline, words: tuple[str, ...], message: str) -> None:
    code, out, _ = timeline(*words)
    assert str(code).startswith("error: ")
    assert message in str(code)
    assert out == ""


def test_too_few_frames(timeline, stdin) -> None:
    stdin(raw()[: 64 * 32 * 3 * 4])
    code, _, _ = timeline("-", *WORDS, "--rate", RATE, "--size", "64x32")
    assert "the frames ended before a window of 0.4 s was over" in str(code)
