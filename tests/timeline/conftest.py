"""A film of a square whose motions are known, and a classifier that sees them."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch

from vivit_train.transforms.processor import Processor
from vivit_train.video.sampling import Sampling
from vivit_train.video.write import _encode

CLASSES = ["right", "left", "still"]
# Until when, in seconds, and what the square does.
MOTIONS = ((1.0, "right"), (2.0, "still"), (3.0, "left"), (4.0, "still"))
SPEED = 24  # pixels per second


def picture(seconds: float) -> np.ndarray:
    """uint8 [32, 64, 3]."""
    x, start = 8.0, 0.0
    for end, name in MOTIONS:
        x += {"right": 1, "left": -1, "still": 0}[name] * SPEED * max(0, min(seconds, end) - start)
        start = end
    frame = np.full((32, 64, 3), 20, np.uint8)
    frame[12:20, round(x) : round(x) + 8] = 230
    return frame


def write_film(path: Path, milliseconds: list[int]) -> Path:
    """Frames at these times, of which none needs to be as long as another."""
    frames = [av.VideoFrame.from_ndarray(picture(t / 1000), format="rgb24") for t in milliseconds]
    tick = Fraction(1, 1000)
    _encode(path, zip(milliseconds, frames), tick, Fraction(25), "libx264", {"preset": "ultrafast"})
    return path


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One content in mp4, mkv, and with frames of many lengths."""
    folder, even = tmp_path_factory.mktemp("films"), list(range(0, 4000, 40))
    uneven = [time for time in even if not 500 <= time < 2600 or time % 80 == 0]
    times = {"film.mp4": even, "film.mkv": even, "uneven.mp4": uneven}
    return {name: write_film(folder / name, times[name]) for name in times}


class Seer:
    """A classifier by the way of the square from the first frame of a clip to the last."""

    model = SimpleNamespace(arguments=SimpleNamespace(num_frames=4))
    processor = Processor(crop_size=32, size=32)  # of the frames: the way is in their pixels
    sampling = Sampling(4, clip_seconds=0.4)
    tells_sampling, video_rate = True, 25.0
    heads: dict[str, int] = {}  # noqa: RUF012
    multi_label = False

    def __init__(
        self, class_names: list[str] = CLASSES, before: Callable[[int], Any] = len
    ) -> None:
        self.class_names, self.before, self.calls = class_names, before, 0

    def __call__(self, clips: np.ndarray) -> torch.Tensor:
        self.calls += 1
        if self.before is not len:
            self.before(self.calls)
        bright = (clips[..., 0] > 128).sum(axis=2)  # [B, T, W]
        x = (bright * np.arange(clips.shape[3])).sum(axis=2) / bright.sum(axis=2)  # [B, T]
        way = torch.from_numpy(x[:, -1] - x[:, 0]) / (0.3 * SPEED)  # 1: the whole clip to the right
        return 8 * torch.stack([way, -way, 0.95 - way.abs()], dim=1)


class Blinkered(Seer):
    """One that knows motions alone, and so takes a still picture for one."""

    def __init__(self) -> None:
        super().__init__(CLASSES[:2])
        self.clips = 0  # that it was asked about

    def __call__(self, clips: np.ndarray) -> torch.Tensor:
        self.clips += len(clips)
        return super().__call__(clips)[:, :2]


@pytest.fixture
def timeline(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Runs the command with such a classifier; returns its exit code, output and errors."""
    from vivit_train.__main__ import main

    def run(*words: object, classifier: Any = None) -> tuple[object, str, str]:
        loaded = classifier or Seer()
        monkeypatch.setattr("vivit_train.commands.predict.load_on_device", lambda *_: loaded)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["predict", "RUN", *map(str, words)])
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return run
