import numpy as np
import pytest
import torch
from PIL import Image

from vivit_train.errors import UserError
from vivit_train.transforms.augment import Augment
from vivit_train.transforms.processor import Processor
from vivit_train.transforms.shrink import LARGE, Shrink, for_evaluation


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def shrink_all(shrink, frames):
    return torch.from_numpy(np.stack([shrink(frame) for frame in frames]))


def test_a_large_frame_is_pillows_within_one_level():
    shrink, frame = for_evaluation(Processor(size=32, crop_size=28)), noise(90, 160, 3)
    expected = Image.fromarray(frame).resize((56, 32), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(shrink(frame).astype(int), np.asarray(expected), rtol=0, atol=1)
    assert shrink.shrunk


@pytest.mark.parametrize(("edge", "shrunk"), [(64, False), (65, True)])
def test_only_large_frames_are_touched(edge, shrunk):
    """Twice the edge is four times the pixels."""
    assert LARGE == 4
    shrink, frame = for_evaluation(Processor(size=32, crop_size=28)), noise(edge, edge, 3)
    assert (shrink(frame) is not frame) == shrink.shrunk == shrunk


@pytest.mark.parametrize(("edge", "shrunk"), [(31, False), (32, False), (33, True)])
def test_whatever_gets_smaller_is_touched_where_asked_for(edge, shrunk):
    processor, frame = Processor(size=32, crop_size=28), noise(edge, edge, 3)
    shrink = for_evaluation(processor, large=1)
    seen = processor(shrink_all(shrink, [frame])[None])
    assert shrink.shrunk == shrunk
    assert torch.equal(seen, processor(torch.from_numpy(frame)[None, None]))


def test_kinetics_as_it_is_used_stays():
    """256 pixels high, whatever is drawn of it."""
    processor, frame = Processor(), noise(256, 340, 3)
    for seed in range(20):
        shrink = Shrink(processor, lambda h, w, seed=seed: Augment(processor).resize(h, w, seed))
        assert shrink(frame) is frame


def test_a_turned_frame_is_resized():
    frame = np.rot90(noise(90, 160, 3))
    shrunk = for_evaluation(Processor(size=32, crop_size=28))(frame)
    upright = np.ascontiguousarray(frame)
    np.testing.assert_array_equal(shrunk, for_evaluation(Processor(size=32, crop_size=28))(upright))


@pytest.mark.parametrize("shape", [(90, 160), (200, 81)])
@pytest.mark.parametrize(
    "processor",
    [{}, {"resample": "bicubic"}, {"size": (30, 40), "do_normalize": True}],
    ids=["shortest edge", "bicubic", "fixed"],
)
def test_evaluation_sees_the_same_pixels(shape, processor):
    processor = Processor(**{"size": 32, "crop_size": 28} | processor)
    frames = noise(3, *shape, 3)
    shrunk = shrink_all(for_evaluation(processor), frames)
    assert shrunk.shape[1:3] == processor.resized_size(*shape)
    for views in (1, 3):
        expected = processor(torch.from_numpy(frames)[None], views)
        assert torch.equal(processor(shrunk[None], views), expected)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"scale_jitter": None, "random_crop": False},
        {"random_resized_crop": (0.08, 1)},
        {"rand_augment_layers": 2, "random_erasing": 0.5},
    ],
    ids=["scale jitter", "plain", "random resized crop", "all that follows"],
)
def test_training_sees_the_same_pixels(arguments):
    """Each seed's own resize, once."""
    processor = Processor(size=32, crop_size=28)
    augment, frames = Augment(processor, hue=0.0, **arguments), noise(2, 120, 161, 3)
    clip = torch.from_numpy(frames)
    sizes = set()
    for seed in range(12):
        shrink = Shrink(processor, lambda h, w, seed=seed: augment.resize(h, w, seed))
        shrunk = shrink_all(shrink, frames)
        sizes.add(shrunk.shape[1:3])
        assert shrink.shrunk
        both = augment.clips([shrunk, clip], [seed, seed], [True, False])
        assert torch.equal(both[0], both[1])
        assert torch.equal(both[:1], augment.clips([clip], [seed]))
    assert (len(sizes) > 1) == (not arguments or "rand_augment_layers" in arguments)


def test_a_crop_that_does_not_fit_is_said():
    augment = Augment(Processor(size=(32, 20), crop_size=28))
    shrink = Shrink(augment.processor, lambda h, w: augment.resize(h, w, 0))
    with pytest.raises(UserError, match="a crop of 28x28 .* does not fit"):
        shrink(noise(90, 160, 3))
