from pathlib import Path

import numpy as np
import pytest

from vivit_train.errors import UserError
from vivit_train.timeline.windows import Windows, clips, parse_seconds, wanted
from vivit_train.video.decode import VideoReader
from vivit_train.video.decoders.pyav import PyAV


@pytest.mark.parametrize(
    ("text", "seconds"), [("2s", 2), ("0.5", 0.5), (".5s", 0.5), ("500ms", 0.5), ("1.5min", 90)]
)
def test_times(text: str, seconds: float) -> None:
    assert parse_seconds("--window", text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-1s", "0", "0.1ms", "2 h", "nan", "inf", "1e3", "²s"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match=r"--every .*: expected a time of 1 ms or more, e.g. 2s"):
        parse_seconds("--every", text)


@pytest.mark.parametrize(("text", "seconds"), [("0", 0), ("0s", 0), ("0.0", 0), ("500ms", 0.5)])
def test_times_of_which_0_is_one(text: str, seconds: float) -> None:
    assert parse_seconds("--still", text, is_zero_some=True) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "0.1ms", "nan"])
def test_times_that_are_none_even_so(text: str) -> None:
    with pytest.raises(UserError, match="expected a time of 1 ms or more, or 0, e.g. 2s"):
        parse_seconds("--still", text, is_zero_some=True)


def test_where_windows_lie() -> None:
    """By hand: the last one ends with the film, and what they speak for is all of it."""
    film = Windows(duration=5.5, window=2, every=1)
    assert [film.start(n) for n in range(len(film))] == [0, 1, 2, 3, 3.5]
    spans = [film.span(n) for n in range(len(film))]
    assert spans == [(0, 1.5), (1.5, 2.5), (2.5, 3.5), (3.5, 4.25), (4.25, 5.5)]


@pytest.mark.parametrize(
    ("duration", "window", "every", "number"),
    [(6, 2, 1, 5), (2, 2, 1, 1), (1, 2, 1, 1), (0.9, 0.3, 0.1, 7), (10, 1, 3, 4)],
)
def test_how_many_there_are(duration: float, window: float, every: float, number: int) -> None:
    film = Windows(duration, window, every)
    assert len(film) == number
    assert film.span(0)[0] == 0
    assert film.span(number - 1)[1] == duration


def test_moments_are_even_and_a_short_film_is_one_window() -> None:
    assert Windows(9, 2, 1).moments(3, 4).tolist() == [3, 3.5, 4, 4.5]
    assert Windows(1, 2, 1).moments(0, 4).tolist() == [0, 0.25, 0.5, 0.75]


def windows_of(path: Path, window: float, every: float, clip_frames: int = 4) -> list[np.ndarray]:
    with VideoReader(path) as video:
        film = Windows(float(video.shown_at[-1]), window, every)
        frames = video.stream(wanted(video.shown_at, film, clip_frames))
        return list(clips(frames, video.shown_at, film, clip_frames))


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "uneven.mp4"])
def test_frames_are_those_on_the_screen(films: dict[str, Path], name: str) -> None:
    """Found by time stamps that were not read by the reader: at 0.4 k + 0.1 j s."""
    import av

    with av.open(str(films[name])) as container:
        by_time = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode()]
    found = windows_of(films[name], 0.4, 0.4)
    assert len(found) == 10
    for k, clip in enumerate(found[:9]):
        for j, frame in enumerate(clip):
            moment = 0.4 * k + 0.1 * j + 1e-4
            due = [picture for time, picture in by_time if time <= moment][-1]
            assert np.array_equal(frame, due), (k, j)


def test_each_frame_is_decoded_once(
    films: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    frames = PyAV._frames

    def count(reader: PyAV, start: int):
        for frame in frames(reader, start):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(PyAV, "_frames", count)
    with VideoReader(films["film.mp4"]) as video:
        film = Windows(float(video.shown_at[-1]), 0.8, 0.04)
        found = clips(video.stream(wanted(video.shown_at, film, 16)), video.shown_at, film, 16)
        held = [len(found.gi_frame.f_locals["held"]) for _ in found]
    assert len(decoded) == len(set(decoded)) <= 100
    assert max(held) <= 20  # frames in 0.8 s, of 100
    assert len(held) == 81
