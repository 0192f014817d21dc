"""One moving scene, filmed at several frame rates: the same frames and the same scores."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.video.test_sampling import CAMERAS, film
from vivit_train.classifier import Classifier
from vivit_train.data.demo_clips import draw_on_path
from vivit_train.model.vivit import ViViT
from vivit_train.transforms.processor import Processor
from vivit_train.video.decode import VideoReader
from vivit_train.video.sampling import Sampling

MOST_NOISE = 3.0  # grey levels that x264 changes at crf 18, mean of an image
MOST_DIFFERENCE = 0.02  # of a probability


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An object that moves 24 pixels a second, at 12, 24, 30, 60 and varying frames per second."""
    folder = tmp_path_factory.mktemp("moving")
    for name, camera in CAMERAS.items():
        path = np.stack([10 + 0.4 * camera, 20 + 0.1 * camera], axis=1)  # [T, 2], of sixtieths
        images = draw_on_path(path, np.random.default_rng(3), 56, 72)
        film(folder / f"{name}.mp4", camera, images, crf="18", preset="superfast")
    return {name: folder / f"{name}.mp4" for name in CAMERAS}


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    """Of the demo's size, untrained, with a head that tells clips apart."""
    torch.manual_seed(0)
    model = ViViT(
        attention="spatio_temporal", image_size=48, num_frames=4, tubelet_size=[2, 8, 8],
        hidden_size=128, num_layers=4, num_heads=4, mlp_size=512, num_classes=8,
    )  # fmt: skip
    torch.nn.init.normal_(model.head.weight, std=0.3)
    processor = Processor(size=55, crop_size=48)
    names = [f"class {k}" for k in range(8)]
    return Classifier(model, processor, names, sampling=Sampling(4, frame_rate=6)).eval()


def seen(path: Path, sampling: Sampling) -> tuple[np.ndarray, np.ndarray]:
    """The moments and images of two views: float [V, T], uint8 [V, T, H, W, 3]."""
    with VideoReader(path) as video:
        views = sampling.spread(video, 2)
        images = [video.read(view) for view in views]
        return video.shown_at[views], np.stack(images)


def test_the_same_frames_at_any_rate(films: dict[str, Path]) -> None:
    """Where each file has a frame at the moments that are asked for, up to the codec's noise."""
    moments, images = seen(films["60"], Sampling(4, frame_rate=6))
    for path in films.values():
        others, theirs = seen(path, Sampling(4, frame_rate=6))
        np.testing.assert_allclose(others, moments, atol=1e-3)
        noise = np.abs(theirs.astype(int) - images).mean((2, 3, 4))
        assert noise.max() < MOST_NOISE, path
    _, other = seen(films["24"], Sampling(4, frame_stride=2))
    assert np.abs(other.astype(int) - images).mean((2, 3, 4)).max() > 2 * MOST_NOISE


@pytest.mark.parametrize("rate", [12, 24, 30, 60])
def test_moments_between_frames_are_less_than_a_frame_late(
    films: dict[str, Path], rate: int
) -> None:
    """7 frames a second, which no file has: the frame on the screen is the last that was shown."""
    shown, _ = seen(films[str(rate)], Sampling(4, frame_rate=7))
    asked = (np.array([[0], [10]]) + np.arange(4)) / 7  # of the 14 that 2 s have: [V, T]
    late = asked - shown
    assert late.min() > -1e-6
    assert late.max() < 1 / rate


def test_the_same_scores_at_any_rate(films: dict[str, Path], classifier: Classifier) -> None:
    paths = [str(path) for path in films.values()]
    first, *others = classifier.predict(paths, top_k=None, views=(2, 1))
    probabilities = [p for _, p in first.classes]
    assert max(probabilities) - min(probabilities) > 5 * MOST_DIFFERENCE
    for other in others:
        assert other.name == first.name
        theirs = dict(other.classes)
        assert max(abs(p - theirs[name]) for name, p in first.classes) < MOST_DIFFERENCE
