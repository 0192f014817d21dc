"""Heat lies on the pixels that its token saw."""

import numpy as np
import pytest
import torch

from vivit_train.explain.heat import MOST_COLUMNS, on_frames, overlay, strip
from vivit_train.model.embedding import TubeletEmbedding
from vivit_train.transforms.processor import Processor

EMBED = TubeletEmbedding(3, 8, (2, 4, 4))
SIZES = [(16, 16), (40, 60), (61, 37), (9, 30)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("do_resize", [True, False])
def test_a_marked_tubelet_is_that_of_the_pixels(size: tuple[int, int], do_resize: bool) -> None:
    """Light in a token's pixels alone reaches that token, by the processor, and few others."""
    if not do_resize and min(size) < 16:
        return
    processor = Processor(size=18, crop_size=16, resample="nearest", do_resize=do_resize)
    for place in [(0, 0, 0), (1, 3, 3), (0, 1, 2), (1, 2, 0)]:
        heat = np.zeros((2, 4, 4))
        heat[place] = 1
        marked = on_frames(heat, EMBED, processor, (4, *size)) == 1
        assert marked.any()
        frames = torch.from_numpy(np.repeat(marked[..., None], 3, -1).astype(np.uint8) * 255)
        clip = (processor(frames[None])[0].mean(0) + 1) / 2  # [T, h, w] in [0, 1]
        lit = clip.reshape(2, 2, 4, 4, 4, 4).mean((1, 3, 5)).numpy()  # of each token
        assert lit[place] == lit.max() > 0.5
        assert lit.sum() - lit[place] < 0.3 * 4


def test_exact_pixels_where_nothing_is_resized() -> None:
    processor = Processor(crop_size=16, do_resize=False)
    heat = np.arange(32.0).reshape(2, 4, 4)
    found = on_frames(heat, EMBED, processor, (4, 20, 26))
    crop = found[:, 2:18, 5:21]
    np.testing.assert_array_equal(crop, heat.repeat(2, 0).repeat(4, 1).repeat(4, 2))
    assert np.isfinite(found).sum() == crop.size


def test_twice_the_size() -> None:
    processor = Processor(size=16, crop_size=16)
    heat = np.arange(32.0).reshape(2, 4, 4)
    found = on_frames(heat, EMBED, processor, (4, 32, 48))
    crop = found[:, :, 8:40]
    np.testing.assert_array_equal(crop, heat.repeat(2, 0).repeat(8, 1).repeat(8, 2))
    assert np.isfinite(found).sum() == crop.size


def test_without_a_crop_all_is_seen() -> None:
    processor = Processor(size=(16, 24), do_center_crop=False)
    found = on_frames(np.ones((2, 4, 6)), EMBED, processor, (4, 31, 17))
    assert (found == 1).all()


def test_uniform_frame_sampling_leaves_frames_unseen() -> None:
    embed = TubeletEmbedding(3, 8, (1, 4, 4), sampled_frames=2)
    heat = np.stack([np.full((4, 4), 1.0), np.full((4, 4), 2.0)])
    found = on_frames(heat, embed, Processor(size=16, crop_size=16), (6, 16, 16))
    np.testing.assert_array_equal(found[:, 3, 3], [np.nan, np.nan, 1, np.nan, 2, np.nan])


def test_colour_begins_above_the_even_share() -> None:
    frames = np.full((1, 2, 3, 3), 100, np.uint8)
    even = overlay(frames, np.full((1, 2, 3), 0.1), 0.1)
    assert (even == 45).all()  # grey, darker
    heat = np.array([[[0.1, 0.05, 0.4], [np.nan, 0.2, 0.1]]])
    laid = overlay(frames, heat, 0.1)[0]
    assert (laid[0, 0] == laid[0, 1]).all()
    assert laid[0, 2].min() > 180  # the hottest
    assert laid[1, 0].max() < 20  # unseen
    assert laid[1, 1, 0] > laid[1, 1, 2]  # some heat is red
    # Nearly even heat shows nearly nothing.
    faint = overlay(frames, np.array([[[0.1, 0.1, 0.101], [0.1] * 3]]), 0.1)
    assert abs(faint.astype(int) - 45).max() < 10


def test_strip() -> None:
    frames = np.zeros((20, 30, 40, 3), np.uint8)
    laid = frames + 200
    picture = strip(frames, laid, ["0.9  \x1b[2J\u202eevil", "rollout"])
    width, height = picture.size
    assert width == MOST_COLUMNS * (round(144 * 40 / 30) + 2)
    pixels = np.asarray(picture)
    assert (pixels[-146:-2, :192] == 200).all()
    assert (pixels[-146:-2, -194:-2] == 200).all()
    assert (pixels[-292:-146] == 0).all()
    assert pixels[: height - 292].any()  # text
    assert strip(frames[:1], laid[:1], []).size[0] == 194
