import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms import v2

from vivit_train.errors import UserError
from vivit_train.transforms.rand_augment import (
    PAPER_OPERATIONS,
    RandAugment,
    distort,
    torch_draws,
)

RED = [10, 60, 120, 127, 128, 150, 200, 230, 250]
GREEN = [40, 80, 20, 200, 100, 150, 90, 60, 240]
BLUE = [200, 30, 120, 60, 10, 150, 220, 90, 245]
# What TensorFlow 2.15's Model Garden, with NumPy 1.23, makes of the red of one 3 x 3 image.
TENSORFLOW = [
    ("autocontrast", 15, [0, 53, 116, 124, 125, 148, 201, 233, 255]),
    ("equalize", 15, RED),
    ("invert", 15, [245, 195, 135, 128, 127, 105, 55, 25, 5]),
    ("posterize", 5, [0, 0, 64, 64, 128, 128, 192, 192, 192]),
    ("posterize", 15, [8, 60, 120, 124, 128, 148, 200, 228, 248]),
    ("posterize", 20, RED),
    ("solarize", 5, [10, 60, 120, 127, 127, 105, 55, 25, 5]),
    ("solarize", 15, [10, 60, 120, 127, 127, 105, 55, 25, 5]),
    ("solarize", 20, [245, 195, 135, 128, 127, 105, 55, 25, 5]),
    ("color", 5, RED),
    ("color", 15, [0, 45, 226, 64, 182, 150, 255, 255, 255]),
    ("color", 20, [0, 38, 255, 32, 209, 150, 255, 255, 255]),
    ("contrast", 15, [28, 168, 255, 255, 255, 255, 255, 255, 255]),
    ("contrast", 20, [37, 222, 255, 255, 255, 255, 255, 255, 255]),
    ("brightness", 15, [28, 168, 255, 255, 255, 255, 255, 255, 255]),
    ("brightness", 20, [37, 222, 255, 255, 255, 255, 255, 255, 255]),
    ("sharpness", 15, [10, 60, 120, 127, 111, 150, 200, 230, 250]),
    ("sharpness", 20, [10, 60, 120, 127, 103, 150, 200, 230, 250]),
    ("solarize_add", 5, [65, 115, 175, 182, 128, 150, 200, 230, 250]),
    ("solarize_add", 15, [175, 225, 255, 255, 128, 150, 200, 230, 250]),
    ("solarize_add", 20, [230, 255, 255, 255, 128, 150, 200, 230, 250]),
    ("identity", 20, RED),
]
# Ours rounds otherwise: the grey image, the blurred one, and a float before it is cut.
ROUNDING = {"autocontrast": 1, "color": 3, "sharpness": 3}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    pixels = np.random.default_rng(seed).integers(20, 220, shape, dtype=np.uint8)
    return torch.from_numpy(pixels)


@pytest.mark.parametrize(("name", "magnitude", "expected"), TENSORFLOW)
def test_as_tensorflow(name: str, magnitude: float, expected: list[int]) -> None:
    clip = torch.tensor([RED, GREEN, BLUE], dtype=torch.uint8).view(3, 1, 3, 3)
    red = distort(clip, name, magnitude)[0].flatten().int()
    assert (red - torch.tensor(expected)).abs().max() <= ROUNDING.get(name, 0)


@pytest.mark.parametrize(
    ("name", "pillow"),
    [
        ("autocontrast", ImageOps.autocontrast),
        ("equalize", ImageOps.equalize),
        ("invert", ImageOps.invert),
        ("posterize", lambda image: ImageOps.posterize(image, 3)),
        ("solarize", lambda image: ImageOps.solarize(image, 204)),
        ("color", lambda image: ImageEnhance.Color(image).enhance(1.54)),
        ("brightness", lambda image: ImageEnhance.Brightness(image).enhance(1.54)),
        ("sharpness", lambda image: ImageEnhance.Sharpness(image).enhance(1.54)),
    ],
)
def test_as_pillow_with_the_frames_below_each_other(name: str, pillow) -> None:
    """At magnitude 8, inside the scale that TensorFlow's code was made for."""
    frames = noise(3, 20, 24, 3)
    frames[1] //= 2  # frames differ: a clip's contrast is not a frame's
    expected = np.asarray(pillow(Image.fromarray(frames.reshape(60, 24, 3).numpy())))
    ours = distort(frames.movedim(-1, 0).contiguous(), name, 8).movedim(0, -1)
    difference = np.abs(ours.reshape(60, 24, 3).numpy().astype(int) - expected)
    assert difference.max() <= 1


def test_contrast_takes_the_number_of_pixels_for_the_mean() -> None:
    """65,280 pixels and more: it blends with white, as the original on every real clip."""
    clip = noise(3, 2, 182, 182)
    white = (255 + 2.8 * (clip.float() - 255)).clamp(0, 255)
    assert (distort(clip, "contrast", 15) - white).abs().max() < 1
    few = distort(clip[:, :, :16, :16].contiguous(), "contrast", 15)  # 512 / 256 = 2
    assert (few - (2 + 2.8 * (clip[:, :, :16, :16].float() - 2)).clamp(0, 255)).abs().max() < 1


def test_cutout_blackens_one_square_in_all_frames() -> None:
    clip = noise(3, 4, 50, 60)
    before = clip.clone()
    cut = distort(clip, "cutout", 3, (0.5, 0.1))  # 12 pixels each way from (25, 6)
    assert torch.equal(clip, before)
    assert not cut[:, :, 13:37, 0:18].any()
    cut[:, :, 13:37, 0:18] = clip[:, :, 13:37, 0:18]
    assert torch.equal(cut, clip)


@pytest.mark.parametrize("operations", ["paper", "torchvision"])
@pytest.mark.parametrize("magnitude", [0, 10, 20, 30])
def test_frames_are_treated_alike_by_the_seed_alone(operations: str, magnitude: int) -> None:
    augment = RandAugment(2, magnitude, operations)
    clip = noise(1, 3, 24, 24).expand(3, -1, -1, -1)
    state = torch.get_rng_state()
    results = [augment(clip, seed) for seed in range(40)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    for seed, result in enumerate(results):
        assert (result.dtype, result.shape) == (torch.uint8, clip.shape)
        assert torch.equal(augment(clip, seed), result)
        # But at the seams, where sharpness sees the next frame.
        inner = result[:, :, 2:-2]
        assert torch.equal(inner, inner[:1].expand_as(inner))
    assert len({result.sum().item() for result in results}) > 2


def test_each_of_the_twelve_is_as_likely(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    centers: list[tuple[float, float]] = []

    def record(clip, name, magnitude, center):
        drawn.append(name)
        centers.append(center)
        return clip

    monkeypatch.setattr("vivit_train.transforms.rand_augment.distort", record)
    augment, clip = RandAugment(3, 10), noise(1, 3, 4, 4)
    for seed in range(800):
        augment(clip, seed)
    counts = [drawn.count(name) for name in PAPER_OPERATIONS]
    assert sum(counts) == len(drawn) == 2400
    assert 150 < min(counts) <= max(counts) < 250
    assert np.corrcoef(np.array(centers).T)[0, 1] == pytest.approx(0, abs=0.1)
    assert {int(4 * place) for center in centers for place in center} == {0, 1, 2, 3}


def test_torchvisions_is_torchvisions() -> None:
    clip = noise(2, 3, 24, 30)
    ours = RandAugment(2, 9, "torchvision")
    expected = set()
    for seed in range(200):
        torch.manual_seed(seed)
        expected.add(v2.RandAugment(2, 9)(clip).numpy().tobytes())
    found = {ours(clip, seed).numpy().tobytes() for seed in range(30)}
    assert len(found & expected) > 15  # of 14 x 14 pairs, with a sign each


def test_draws_leave_the_global_generator() -> None:
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    first = torch.rand(())
    with torch_draws(7):
        inside = torch.rand(())
    assert torch.equal(torch.stack([first, torch.rand(())]), expected)
    with torch_draws(7):
        assert torch.equal(torch.rand(()), inside)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 10), r"rand_augment_layers must be .* 0 \(off\) or more, not -1"),
        ((1.5, 10), "rand_augment_layers must be a whole number"),
        ((2, -1), "rand_augment_magnitude must be 0 or more, e.g. 10, not -1"),
        ((2, 31, "torchvision"), "whole number from 0 to 30 .* not 31"),
        ((2, 9.5, "torchvision"), "whole number from 0 to 30 .* not 9.5"),
        ((2, 9, "timm"), "rand_augment_operations='timm' is not one of paper, torchvision"),
    ],
)
def test_errors(arguments: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        RandAugment(*arguments)
