import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vivit_train.transforms import resize as module
from vivit_train.transforms.resize import Window, axis_taps, resize

CODES = {"nearest": 0, "bilinear": 2, "bicubic": 3}


def noise(*shape, extremes=False):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return pixels // 128 * 255 if extremes else pixels


def by_pillow(frames, size, resample, window):
    """Uint8 [N, H, W, 3] -> [N, 3, h, w]."""
    images = [Image.fromarray(f).resize(size[::-1], CODES[resample]) for f in frames]
    rows = slice(window.top, window.top + window.height)
    columns = slice(window.left, window.left + window.width)
    return np.stack([np.asarray(image)[rows, columns] for image in images]).transpose(0, 3, 1, 2)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), resample=st.sampled_from(sorted(CODES)), extremes=st.booleans())
def test_any_window_is_pillows(data, resample, extremes):
    height, width, *size = (data.draw(st.integers(1, 130)) for _ in range(4))
    (top, h), (left, w) = (sorted(data.draw(st.tuples(*[st.integers(0, s)] * 2))) for s in size)
    window = Window(
        min(top, size[0] - 1), min(left, size[1] - 1), max(h - top, 1), max(w - left, 1)
    )
    frames = noise(2, height, width, 3, extremes=extremes)
    ours = resize(frames, tuple(size), resample, window)
    np.testing.assert_array_equal(ours, by_pillow(frames, size, resample, window))


@pytest.mark.parametrize("resample", CODES)
@pytest.mark.parametrize(
    ("before", "size"),
    [
        ((240, 426), (256, 454)),
        ((240, 320), (256, 341)),
        ((720, 300), (200, 256)),
        ((500, 90), (40, 80)),
    ],
)
def test_sizes_of_videos(before, size, resample):
    window = Window(3, 5, 30, 61)
    frames = noise(3, *before, 3)
    expected = by_pillow(frames, size, resample, window)
    for num_threads in (1, 2, 5):
        np.testing.assert_array_equal(resize(frames, size, resample, window, num_threads), expected)


def test_large_clips_are_resized_in_parts(monkeypatch):
    frames, window = noise(7, 20, 30, 3), Window(0, 0, 25, 40)
    monkeypatch.setattr(module, "_ROW_VALUES", 2 * 3 * 40)
    expected = by_pillow(frames, (25, 40), "bilinear", window)
    np.testing.assert_array_equal(resize(frames, (25, 40), "bilinear", window), expected)


@pytest.mark.parametrize("before", [(9, 5), (50, 80), (1, 1)])
def test_order_in_memory_does_not_matter(before):
    frames, window = noise(2, *before, 3), Window(1, 2, 6, 7)
    planar = np.ascontiguousarray(frames.transpose(3, 2, 0, 1)).transpose(2, 3, 1, 0)
    flipped = np.ascontiguousarray(frames[:, ::-1])[:, ::-1]
    for same in (planar, flipped):
        expected = by_pillow(frames, (9, 11), "bicubic", window)
        np.testing.assert_array_equal(resize(same, (9, 11), "bicubic", window), expected)


@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("length", "resized"), [(240, 256), (426, 454), (1280, 455), (3, 7), (9, 1)]
)
def test_no_sum_overflows(length, resized, resample):
    for tap in axis_taps(length, resized, resample):
        assert abs(sum(tap.weights) - 2**22) <= len(tap.weights)
        assert 255 * sum(map(abs, tap.weights)) + 2**21 < 2**31
        assert 0 <= tap.start < tap.stop <= length
