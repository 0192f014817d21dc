from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.video.test_decode import numbered, numbers
from vivit_train.errors import UserError
from vivit_train.video.decode import VideoReader
from vivit_train.video.sampling import (
    Array,
    Sampling,
    frames_at,
    random_moments,
    random_parts,
    random_window,
    reorder,
    spread_moments,
    spread_parts,
    spread_windows,
)

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


@pytest.mark.parametrize(
    "sampling", [{"frame_stride": 2}, {"frame_rate": 5}, {"sampling": "whole"}]
)
def test_no_view_is_refused(sampling):
    video = Array(9, np.arange(10.0))
    with pytest.raises(UserError, match="0 temporal views: 1 or more"):
        Sampling(4, **sampling).spread(video, 0)


def test_unknown_order_is_refused():
    with pytest.raises(UserError, match="data.frame_order='backwards' is not one of natural, sh"):
        Sampling(4, frame_order="backwards")


def at(rate, seconds):
    """When the frames of a video of constant rate are shown."""
    return np.arange(round(rate * seconds) + 1) / rate


def test_the_frame_that_is_on_screen():
    shown_at = np.array([0, 0.1, 0.5, 1.0])
    moments = [[-1, 0, 0.0999], [0.1, 0.3, 0.5], [0.7, 1.0, 9]]
    assert frames_at(shown_at, np.array(moments)).tolist() == [[0, 0, 0], [1, 1, 2], [2, 2, 2]]
    # 0.1 + 0.2 is above 0.3, 3 * 0.1 below
    assert frames_at(at(10, 2), np.arange(20) * 0.1).tolist() == list(range(20))
    assert frames_at(at(10, 2), np.arange(20) / 10).tolist() == list(range(20))


@given(
    num_frames=st.integers(1, 3000),
    clip_frames=st.integers(1, 64),
    rate=st.sampled_from([12, 24000 / 1001, 25, 30000 / 1001, 30, 59.94, 60, 240]),
)
def test_the_whole_video_as_in_transformers(num_frames, clip_frames, rate):
    """``default_sample_indices_fn`` of transformers 5: np.arange(T) * N // T."""
    shown_at = np.arange(num_frames + 1) / rate
    views = frames_at(shown_at, spread_parts(shown_at[-1], clip_frames, 3))
    assert views[0].tolist() == [k * num_frames // clip_frames for k in range(clip_frames)]
    merged = views.T.ravel()  # [V, T] -> [T * V]
    together = [k * num_frames // (3 * clip_frames) for k in range(3 * clip_frames)]
    assert merged.tolist() == together, "the views together are one of V * T frames"


def test_the_whole_video_in_training():
    generator = rng()
    clips = np.array([random_parts(8.0, 4, generator) for _ in range(500)])  # [500, T]
    assert (clips // 2).astype(int).tolist() == [[0, 1, 2, 3]] * 500
    assert clips.min() < 0.1
    assert clips.max() > 7.9
    assert abs(np.corrcoef(clips, rowvar=False) - np.eye(4)).max() < 0.15, "drawn independently"


@given(
    duration=st.floats(0.05, 400),
    clip_frames=st.integers(1, 64),
    frame_rate=st.floats(0.1, 120),
    seed=st.integers(0, 2**32),
)
def test_random_moments_step_by_the_rate_and_loop(duration, clip_frames, frame_rate, seed):
    moments = random_moments(duration, clip_frames, frame_rate, rng(seed))
    assert moments.shape == (clip_frames,)
    assert moments.min() >= 0
    assert moments.max() <= duration
    if (clip_frames - 1) / frame_rate < duration:
        np.testing.assert_allclose(np.diff(moments), 1 / frame_rate, atol=1e-9)
    steps = (np.diff(moments) - 1 / frame_rate) / duration
    np.testing.assert_allclose(steps, steps.round(), atol=1e-6)


@pytest.mark.parametrize("num_frames", [6, 7, 8, 12, 40])
def test_random_moments_reach_the_frames_that_a_window_reaches(num_frames):
    """A rate of half the video's is a stride of 2."""
    generator, shown_at = rng(), at(25, num_frames / 25)
    clips = [
        frames_at(shown_at, random_moments(shown_at[-1], 4, 12.5, generator)) for _ in range(900)
    ]
    windows = [random_window(num_frames, 4, 2, generator) for _ in range(900)]
    if num_frames > 6:
        assert {tuple(clip) for clip in clips} == {tuple(window) for window in windows}
    counts, theirs = (
        np.bincount([c[0] for c in cs], minlength=num_frames) for cs in (clips, windows)
    )
    assert abs(counts - theirs).max() < 120


@given(num_frames=st.integers(1, 200), clip_frames=st.integers(1, 32), views=st.integers(1, 5))
def test_views_by_the_videos_own_rate_are_those_of_stride_1(num_frames, clip_frames, views):
    shown_at = np.arange(num_frames + 1) / 30
    moments = spread_moments(shown_at[-1], clip_frames, 30, views)
    expected = spread_windows(num_frames, clip_frames, 1, views)
    assert frames_at(shown_at, moments).tolist() == expected.tolist()


@pytest.mark.parametrize("views", [1, 2, 4])
@pytest.mark.parametrize("seconds", [0.5, 2.0, 9.25])
def test_views_of_any_rate_are_at_the_same_moments(views, seconds):
    """Of one scene at several rates, of which each has a frame at every sixth of a second."""
    moments = [
        shown_at[frames_at(shown_at, spread_moments(shown_at[-1], 8, 6, views))]
        for shown_at in (at(rate, seconds) for rate in (12, 24, 60, 120))
    ]
    for other in moments[1:]:
        np.testing.assert_allclose(other, moments[0], atol=1e-9)


# When a camera takes a frame of the scene, in sixtieths of a second: at 12, 24, 30 and 60 frames
# per second, and at rates that vary, with a frame at least at every sixth of a second.
CAMERAS = {
    "12": np.arange(0, 120, 5),
    "24": np.arange(0, 120, 2.5),
    "30": np.arange(0, 120, 2),
    "60": np.arange(120),
    "varies": np.union1d(np.arange(0, 120, 10), [1, 2, 3, 27, *range(41, 70), 118]),
    "varies more": np.union1d(np.arange(0, 120, 10), [15, 75, 76, 77, 111, 119]),
}


def film(path, camera, images, **options):
    """Writes what a camera took: an image at each of its moments."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"bf": "2", "g": "8"} | options)
        stream.height, stream.width, stream.pix_fmt = *images.shape[1:3], "yuv420p"
        stream.codec_context.time_base = Fraction(1, 120)
        for image, moment in zip(images, camera):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = int(2 * moment), Fraction(1, 120)
            packets = stream.encode(frame)
            container.mux(packets)
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    names = [f"{camera}.{suffix}" for camera in CAMERAS for suffix in ("mp4", "mkv")]
    for name in names:  # stripes tell the time in sixtieths of a second, without loss
        camera = CAMERAS[name.split(".")[0]]
        film(folder / name, camera, numbered(128)[np.floor(camera).astype(int)], qp="0")
    return {name: folder / name for name in names}


@pytest.mark.parametrize("decoder", ["pyav", "decord", "torchcodec"])
@pytest.mark.parametrize("segment", [None, (0.5, 1.8)])
def test_one_scene_at_any_rate_is_seen_at_the_same_moments(films, decoder, segment):
    if decoder != "pyav":
        pytest.importorskip("decord" if decoder == "decord" else "torchcodec.decoders")
    sampling = Sampling(4, frame_rate=6)
    seen = {}
    for name, path in films.items():
        with VideoReader(path, decoder, segment) as video:
            seen[name] = [numbers(video.read(view)) for view in sampling.spread(video, 3)]
    starts = (0, 40, 80) if segment is None else (30, 50, 70)
    for name, views in seen.items():
        assert views == [[start + 10 * k for k in range(4)] for start in starts], name


class TestSampling:
    def test_what_it_is_when_nothing_is_given(self):
        assert Sampling(8) == Sampling(8, frame_stride=2)
        assert Sampling(8, sampling="whole").frame_stride is None

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"frame_stride": 2, "frame_rate": 5.0}, "data.frame_stride=2 and data.frame_rate=5.0"),
            ({"frame_rate": 5, "clip_seconds": 2}, "data.frame_rate=5 and data.clip_seconds=2: g"),
            ({"frame_stride": 1, "sampling": "whole"}, "data.frame_stride=1 with data.sampling=wh"),
            ({"sampling": "all"}, "data.sampling='all' is not one of window, whole"),
            ({"frame_rate": 0}, "data.frame_rate must be above 0, got 0"),
            ({"clip_seconds": float("nan")}, "data.clip_seconds must be above 0, got nan"),
            ({"frame_stride": 0}, "data.frame_stride must be 1 or more, got 0"),
        ],
    )
    def test_what_is_refused(self, values, message):
        with pytest.raises(UserError) as error:
            Sampling(8, **values)
        assert str(error.value).startswith(message)

    @pytest.mark.parametrize(
        ("values", "seconds", "words"),
        [
            ({"frame_stride": 3}, 0.96, "8 frames, 3 frames of the video apart"),
            ({"frame_rate": 12.5}, 0.64, "8 frames, 12.5 per second"),
            ({"clip_seconds": 2}, 2.0, "8 frames, spread over 2 s"),
            ({"sampling": "whole"}, None, "8 frames, spread over the whole video"),
        ],
    )
    def test_what_a_clip_covers(self, values, seconds, words):
        sampling = Sampling(8, **values)
        assert sampling.seconds(25) == seconds
        assert sampling.seconds(None) == (None if "frame_stride" in values else seconds)
        assert str(sampling) == words
        assert sampling.span(25) == (8 if seconds is None else round(25 * seconds, 6))
        assert Sampling(**sampling.contract()) == sampling

    def test_by_a_stride_no_time_is_asked_for(self):
        """To the bit as it always was, and where a file tells no time."""
        video = SimpleNamespace(num_frames=100)
        drawn = Sampling(8, 3).draw(video, rng(5))
        np.testing.assert_array_equal(drawn, random_window(100, 8, 3, rng(5)))
        spread = Sampling(8, 3).spread(video, 4)
        np.testing.assert_array_equal(spread, spread_windows(100, 8, 3, 4))

    def test_seconds_and_a_rate_are_the_same(self):
        video = SimpleNamespace(shown_at=at(30, 10))
        by_rate, by_seconds = Sampling(8, frame_rate=4), Sampling(8, clip_seconds=2)
        assert by_rate.draw(video, rng()).tolist() == by_seconds.draw(video, rng()).tolist()
        assert by_rate.spread(video, 2).tolist() == by_seconds.spread(video, 2).tolist()
        assert by_rate.spread(video, 2)[0].tolist() == [0, 7, 15, 22, 30, 37, 45, 52]
