import os
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from vivit_train.data import rates
from vivit_train.data.rates import (
    bars,
    by_length,
    by_rate,
    clip_in_words,
    is_other_rate,
    other_rates,
    video_rates,
)
from vivit_train.data.records import Records
from vivit_train.video.guard import CAN_GUARD
from vivit_train.video.sampling import Sampling
from vivit_train.video.write import write_video


def write(path: Path, fps: float) -> str:
    write_video(path, np.zeros((4, 16, 16, 3), np.uint8), fps=fps)
    return path.name


def test_rates_are_those_of_the_videos(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{fps}.mp4", fps) for fps in (12, 25, 60)]
    assert video_rates(Records(tmp_path, paths, [0] * 3)) == {
        "12.mp4": 12,
        "25.mp4": 25,
        "60.mp4": 60,
    }


def test_at_most_so_many_are_opened_and_evenly(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{fps}.mp4", fps) for fps in range(10, 50)]
    found = sorted(video_rates(Records(tmp_path, paths, [0] * 40), most=5).values())
    assert found[0] == 10
    assert found[-1] == 49
    assert np.diff(found).round().tolist() in ([9, 10, 10, 10], [9, 10, 10, 10][::-1], [10] * 4)


def test_what_cannot_be_opened_tells_no_rate(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    os.mkfifo(tmp_path / "pipe.mp4")
    paths = ["broken.mp4", "pipe.mp4", "missing.mp4", write(tmp_path / "a.mp4", 24)]
    assert video_rates(Records(tmp_path, paths, [0] * 4)) == {"a.mp4": 24}


@pytest.mark.skipif(not CAN_GUARD, reason="needs fork")
@pytest.mark.parametrize("end", [lambda: time.sleep(60), lambda: os.kill(os.getpid(), 9)])
def test_a_decoder_that_hangs_or_dies_takes_nothing_along(tmp_path: Path, end) -> None:
    paths = [write(tmp_path / name, 24) for name in ("a.mp4", "evil.mp4")]
    open_video = rates.open_video

    def opened(path: str, data: bytes | None):
        if "evil" in path:
            end()
        return open_video(path, data)

    with mock.patch.object(rates, "open_video", opened):
        before = time.monotonic()
        found = video_rates(Records(tmp_path, paths, [0, 0]), seconds=1.0)
    assert found in ({"a.mp4": 24}, {})  # none where the one that hangs came first
    assert time.monotonic() - before < 10


@pytest.mark.parametrize(
    ("rate", "usual", "is_other"),
    [
        (30, 25, False),
        (25, 30, False),
        (33, 25, False),
        (34, 25, True),
        (75, 25, True),
        (16, 25, True),
    ],
)
def test_rates_that_matter(rate: float, usual: float, is_other: bool) -> None:
    assert is_other_rate(rate, usual) == is_other


def test_videos_of_another_rate_are_named_with_the_remedy() -> None:
    rates = {"a.mp4": 25.0, "b.mp4": 60.0, "c.mp4": 50.0, "d.mp4": 30.0}
    told = other_rates(rates, 25.0, Sampling(8, frame_stride=2), "test videos")
    assert told is not None
    assert told.startswith(
        "2 of 4 test videos have another frame rate than the training videos, 55 for 25 frames/s: "
        "b.mp4, c.mp4. "
    )
    assert told.endswith("data.frame_rate=12.5")


@pytest.mark.parametrize(
    ("rate", "usual", "sampling"),
    [
        (25.0, 25.0, Sampling(8, frame_stride=2)),
        (60.0, None, Sampling(8, frame_stride=2)),
        (60.0, 25.0, Sampling(8, frame_rate=12)),
        (60.0, 25.0, Sampling(8, clip_seconds=2)),
        (60.0, 25.0, Sampling(8, sampling="whole")),
    ],
)
def test_nothing_is_said_where_it_does_not_matter(
    rate: float, usual: float | None, sampling: Sampling
) -> None:
    assert other_rates({"a.mp4": rate}, usual, sampling, "videos") is None


@pytest.mark.parametrize(
    ("sampling", "rate", "words"),
    [
        (Sampling(16), 25.0, "16 frames, 2 frames of the video apart: 1.28 s at 25 frames/s"),
        (Sampling(16), None, "16 frames, 2 frames of the video apart"),
        (Sampling(16, frame_rate=8), 25.0, "16 frames, 8 per second: 2 s"),
        (Sampling(16, clip_seconds=3), None, "16 frames, spread over 3 s: 3 s"),
        (Sampling(16, sampling="whole"), 25.0, "16 frames, spread over the whole video"),
    ],
)
def test_how_long_a_clip_is(sampling: Sampling, rate: float | None, words: str) -> None:
    assert clip_in_words(sampling, rate) == words


def test_histograms() -> None:
    lengths = by_length([0.3, 1, 1.9, 7.9, 8, 0, np.inf])
    assert lengths == {
        "0.25 to 0.5 s": 1, "0.5 to 1 s": 0, "1 to 2 s": 2, "2 to 4 s": 0, "4 to 8 s": 1,
        "8 to 16 s": 1,
    }  # fmt: skip
    assert by_rate([29.97, 30, 25, 0]) == {"25 frames/s": 1, "30 frames/s": 2}
    assert by_rate(range(10, 60)) == {f"{n} to {n + 10} frames/s": 10 for n in range(10, 60, 10)}
    assert by_length([]) == by_rate([]) == {}
    lines = list(bars({"a": 64, "long": 1, "none": 0}))
    assert lines == [f"     a  {'#' * 32} 64", "  long  # 1", "  none   0"]
