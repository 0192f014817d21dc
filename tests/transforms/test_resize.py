import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from vivit_train.transforms.resize import in_floats, resize

CODES = {"nearest": 0, "bilinear": 2, "bicubic": 3}
# From Kinetics' sizes and others to the processor's, and to what scale jitter makes of them.
SIZES = [
    ((240, 320), (256, 341)),
    ((240, 426), (256, 454)),
    ((240, 320), (302, 327)),
    ((360, 640), (256, 455)),
    ((426, 240), (454, 256)),
    ((241, 427), (120, 213)),
]


def noise(*shape):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def by_pillow(frames, size, resample):
    """uint8 [N, H, W, 3] -> [N, 3, *size]."""
    images = [Image.fromarray(f).resize(size[::-1], CODES[resample]) for f in frames.numpy()]
    return torch.from_numpy(np.stack(images)).movedim(-1, 1)


def on_a_gpu(images, size, resample):
    """The same arithmetic as there, on a CPU."""
    return in_floats(in_floats(images, (images.shape[2], size[1]), resample), size, resample)


def levels_apart(ours, theirs):
    return (ours.int() - theirs.int()).abs()


@pytest.mark.parametrize("function", [resize, on_a_gpu])
@pytest.mark.parametrize(("resample", "levels"), [("bilinear", 1), ("bicubic", 2)])
@pytest.mark.parametrize(("before", "size"), SIZES)
def test_one_grey_level_in_a_twentieth_of_the_values(function, resample, levels, before, size):
    frames = noise(2, *before, 3)
    apart = levels_apart(
        function(frames.movedim(-1, 1), size, resample), by_pillow(frames, size, resample)
    )
    assert apart.max() <= levels
    assert (apart > 0).float().mean() <= 0.05


@settings(max_examples=60, deadline=None)
@given(sides=st.tuples(*[st.integers(1, 130)] * 4))
def test_any_size_is_within_one_level(sides):
    before, size = sides[:2], sides[2:]
    fewer_rows, fewer_columns = before[0] - size[0], before[1] - size[1]
    assume(not fewer_rows > max(0, 2 * fewer_columns))  # where Pillow 13 takes the other order
    frames = noise(2, *before, 3)
    ours = resize(frames.movedim(-1, 1), size, "bilinear")
    assert levels_apart(ours, by_pillow(frames, size, "bilinear")).max() <= 1


@pytest.mark.parametrize(("before", "size"), SIZES)
def test_nearest_is_pillows_but_for_ties(before, size):
    frames = noise(2, *before, 3)
    apart = levels_apart(
        resize(frames.movedim(-1, 1), size, "nearest"), by_pillow(frames, size, "nearest")
    )
    assert (apart > 0).float().mean() <= 0.05


@pytest.mark.parametrize("function", [resize, on_a_gpu])
@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
def test_overshoot_is_cut_off_and_black_and_white_stay(function, resample):
    edge = torch.zeros(1, 3, 20, 30, dtype=torch.uint8)
    edge[..., 15:] = 255
    resized = function(edge, (50, 70), resample)
    assert resized.dtype == torch.uint8
    assert resized[..., :30].max() == 0
    assert resized[..., 40:].min() == 255


@pytest.mark.parametrize("resample", CODES)
def test_order_in_memory_does_not_matter(resample):
    """Planar frames, and a part of larger ones, which is not contiguous."""
    images = noise(2, 40, 50, 3).movedim(-1, 1)
    part = torch.zeros(2, 60, 70, 3, dtype=torch.uint8).movedim(-1, 1)[..., 7:47, 9:59]
    part.copy_(images)
    expected = resize(images, (29, 61), resample)
    assert expected.is_contiguous(memory_format=torch.channels_last)
    for same in (images.contiguous(), part):
        assert torch.equal(resize(same, (29, 61), resample), expected)
