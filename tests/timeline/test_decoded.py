import os
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from tests.timeline.conftest import Seer
from vivit_train.timeline import decoded as decoded_module
from vivit_train.timeline.decoded import decoded
from vivit_train.timeline.windows import Windows, clips, wanted
from vivit_train.transforms.processor import Processor
from vivit_train.transforms.shrink import for_evaluation
from vivit_train.video.decode import DecodeError, DecoderLost, VideoReader
from vivit_train.video.guard import CAN_GUARD

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
needs_guard = pytest.mark.skipif(not CAN_GUARD, reason="needs fork")
SHRINK = for_evaluation(Seer.processor)


@pytest.mark.parametrize("name", ["film.mp4", "uneven.mp4"])
def test_clips_are_those_of_a_reader_here(films: dict[str, Path], name: str) -> None:
    """100 frames are more than two pieces."""
    with VideoReader(films[name]) as video:
        windows = Windows(float(video.shown_at[-1]), 0.8, 0.1)
        frames = video.stream(wanted(video.shown_at, windows, 8))
        due = list(clips(frames, video.shown_at, windows, 8))
    with decoded(str(films[name]), 0.8, 0.1, 8, SHRINK) as film:
        found = list(film.clips)
    assert (film.windows, film.num_frames) == (windows, video.num_frames)
    assert len(found) == len(windows) == 33
    assert all(map(np.array_equal, found, due))


def test_large_frames_are_shrunk_as_they_come(films: dict[str, Path]) -> None:
    """32x64 pixels are more than four times 8x16."""
    small = for_evaluation(Processor(crop_size=8, size=8))
    with decoded(str(films["film.mp4"]), 1, 1, 4, small) as film:
        assert next(film.clips).shape == (4, 8, 16, 3)


def test_no_file(tmp_path: Path) -> None:
    with (
        pytest.raises(DecodeError, match="no such file"),
        decoded(str(tmp_path / "no.mp4"), 1, 1, 4, SHRINK),
    ):
        pass


def ending(what: str):
    """Does something to its process at the 61st frame that it shrinks."""
    number = 0

    def shrink(frame: np.ndarray) -> np.ndarray:
        nonlocal number
        number += 1
        if number == 61 and what == "hang":
            time.sleep(1000)
        if number == 61 and what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 61 and what == "eat":
            np.ones(2**36, np.uint8)
        return frame

    return shrink


@needs_guard
@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("hang", "no answer within 1 s"),
        ("die", r"the decoding process died \(SIGKILL, memory used up\?\)"),
    ],
)
def test_a_film_that_hangs_or_kills_the_decoder_is_named(
    films: dict[str, Path], monkeypatch: pytest.MonkeyPatch, what: str, reason: str
) -> None:
    """Windows until then are given: pieces have 16 frames, and 48 of them are 3."""
    monkeypatch.setattr(decoded_module, "DECODE_SECONDS", 1.0)
    found: list[np.ndarray] = []
    with (
        pytest.raises(DecoderLost, match=f"film.mp4: {reason}"),
        decoded(str(films["film.mp4"]), 0.4, 0.4, 10, ending(what)) as film,
    ):
        found.extend(film.clips)
    assert len(found) == 4


@needs_guard
def test_memory_is_limited(films: dict[str, Path]) -> None:
    with (
        pytest.raises(DecodeError, match="Unable to allocate"),
        decoded(str(films["film.mp4"]), 0.4, 0.4, 10, ending("eat")) as film,
    ):
        list(film.clips)


@needs_guard
def test_the_process_ends_with_the_block(
    films: dict[str, Path], children: Callable[[], set[BaseProcess]]
) -> None:
    with decoded(str(films["film.mp4"]), 0.4, 0.4, 10, SHRINK) as film:
        next(film.clips)
        (process,) = children()
    assert not process.is_alive()
