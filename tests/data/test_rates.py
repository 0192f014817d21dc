import os
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from vivit_train.data import rates
from vivit_train.data.rates import video_rates
from vivit_train.data.records import Records
from vivit_train.video.guard import CAN_GUARD
from vivit_train.video.write import write_video


def write(path: Path, fps: float) -> str:
    write_video(path, np.zeros((4, 16, 16, 3), np.uint8), fps=fps)
    return path.name


def test_rates_are_those_of_the_videos(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{fps}.mp4", fps) for fps in (12, 25, 25, 60)]
    assert sorted(video_rates(Records(tmp_path, paths, [0] * 4))) == [12, 25, 25, 60]


def test_at_most_so_many_are_opened_and_evenly(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{fps}.mp4", fps) for fps in range(10, 50)]
    found = sorted(video_rates(Records(tmp_path, paths, [0] * 40), most=5))
    assert found[0] == 10
    assert found[-1] == 49
    assert np.diff(found).round().tolist() in ([9, 10, 10, 10], [9, 10, 10, 10][::-1], [10] * 4)


def test_what_cannot_be_opened_tells_no_rate(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    os.mkfifo(tmp_path / "pipe.mp4")
    paths = ["broken.mp4", "pipe.mp4", "missing.mp4", write(tmp_path / "a.mp4", 24)]
    assert video_rates(Records(tmp_path, paths, [0] * 4)) == [24]


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
    assert found in ([24], [])  # none where the one that hangs came first
    assert time.monotonic() - before < 10
