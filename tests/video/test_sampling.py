import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivit_train.errors import UserError
from vivit_train.video.sampling import FRAME_ORDERS, random_window, reorder, spread_windows

counts = {
    "num_frames": st.integers(1, 400),
    "clip_frames": st.integers(1, 64),
    "frame_stride": st.integers(1, 8),
}


def rng(seed=0):
    return np.random.default_rng(seed)


@given(**counts, seed=st.integers(0, 2**32))
def test_random_window_steps_by_the_stride_and_loops(num_frames, clip_frames, frame_stride, seed):
    window = random_window(num_frames, clip_frames, frame_stride, rng(seed))
    assert window.shape == (clip_frames,)
    assert window.dtype == np.int64
    assert window.min() >= 0
    assert window.max() < num_frames
    assert (np.diff(window) % num_frames == frame_stride % num_frames).all()
    if num_frames > (clip_frames - 1) * frame_stride:
        assert (np.diff(window) == frame_stride).all(), "a clip that fits does not loop"
    np.testing.assert_array_equal(
        window, random_window(num_frames, clip_frames, frame_stride, rng(seed))
    )


@pytest.mark.parametrize(
    ("num_frames", "offsets"),
    [
        (12, range(6)),  # 4 frames, 2 apart, span 7
        (7, range(1)),  # fits exactly once
        (6, range(6)),  # fits never: loops from anywhere
        (1, range(1)),
    ],
)
def test_random_window_reaches_every_offset(num_frames, offsets):
    generator = rng()
    first = {int(random_window(num_frames, 4, 2, generator)[0]) for _ in range(400)}
    assert first == set(offsets)


@given(**counts, num_views=st.integers(1, 12))
def test_spread_windows_go_from_start_to_end(num_frames, clip_frames, frame_stride, num_views):
    windows = spread_windows(num_frames, clip_frames, frame_stride, num_views)
    assert windows.shape == (num_views, clip_frames)
    assert windows.dtype == np.int64
    assert windows.min() >= 0
    assert windows.max() < num_frames
    assert (np.diff(windows, axis=1) % num_frames == frame_stride % num_frames).all()
    last_offset = max(0, num_frames - clip_frames * frame_stride)
    if num_views == 1:
        assert windows[0, 0] == last_offset // 2
    else:
        assert windows[0, 0] == 0
        assert windows[-1, 0] == last_offset
        gaps = np.diff(windows[:, 0])
        assert gaps.min() >= 0
        assert gaps.max() - gaps.min() <= 1, "evenly, up to the truncation"


def test_spread_windows_truncate_as_the_original():
    # tf.cast(tf.linspace(0.0, 218.0, 4), tf.int32) for 250 frames and 16 of them 2 apart
    assert spread_windows(250, 16, 2, 4)[:, 0].tolist() == [0, 72, 145, 218]


def test_short_video_loops():
    assert spread_windows(3, 5, 2, 2).tolist() == [[0, 2, 1, 0, 2]] * 2


@given(num_frames=st.integers(1, 40), seed=st.integers(0, 2**32))
@settings(max_examples=50)
def test_reorder(num_frames, seed):
    clip = np.arange(100, 100 + 2 * num_frames, 2)
    before = clip.copy()
    shuffled = reorder(clip, "shuffled", rng(seed))
    repeated = reorder(clip, "repeated", rng(seed))
    np.testing.assert_array_equal(reorder(clip, "natural", rng(seed)), before)
    np.testing.assert_array_equal(np.sort(shuffled), before)
    np.testing.assert_array_equal(shuffled, reorder(clip, "shuffled", rng(seed)))
    assert repeated.shape == clip.shape
    assert len(set(repeated)) == 1
    assert repeated[0] in before
    np.testing.assert_array_equal(clip, before)


def test_reorder_draws_every_frame_and_permutation():
    generator, clip = rng(), np.arange(3)
    assert {int(reorder(clip, "repeated", generator)[0]) for _ in range(100)} == {0, 1, 2}
    assert len({tuple(reorder(clip, "shuffled", generator)) for _ in range(200)}) == 6


@pytest.mark.parametrize("name", ["num_frames", "clip_frames", "frame_stride", "num_views"])
def test_counts_below_one_are_refused(name):
    arguments = {"num_frames": 9, "clip_frames": 4, "frame_stride": 2, "num_views": 3, name: 0}
    with pytest.raises(UserError, match=f"{name}=0 must be at least 1"):
        spread_windows(**arguments)
    if name != "num_views":
        del arguments["num_views"]
        with pytest.raises(UserError, match=f"{name}=0"):
            random_window(**arguments, rng=rng())


def test_unknown_order_is_refused():
    with pytest.raises(UserError, match="backwards") as error:
        reorder(np.arange(4), "backwards", rng())
    assert all(order in str(error.value) for order in FRAME_ORDERS)
