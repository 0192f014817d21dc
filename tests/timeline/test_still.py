from fractions import Fraction
from math import inf
from pathlib import Path

import av
import numpy as np
import pytest

from tests.timeline.conftest import Blinkered
from vivit_train.timeline.decoded import decoded
from vivit_train.timeline.rows import rows_of
from vivit_train.timeline.still import BLOCK, SAMPLES, Changes, Still
from vivit_train.transforms.processor import Processor
from vivit_train.transforms.shrink import for_evaluation
from vivit_train.video.write import _encode

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
SHRINK = for_evaluation(Processor(crop_size=32, size=32))
SCENE = np.random.default_rng(0).integers(30, 226, (20, 40)).repeat(8, 0).repeat(8, 1)
# Until when, in seconds, and whether the picture moves.
PARTS = ((1.0, True), (1.8, False), (2.4, True), (2.7, False), (3.2, True))
LEAST = 0.5


def place(seconds: float) -> int:
    """Of the scene, in pixels: 3 of them a frame."""
    moved = start = 0.0
    for end, moves in PARTS:
        moved += moves * max(0, min(seconds, end) - start)
        start = end
    return round(75 * moved)


def write_scene(path: Path, crf: int, repeats: bool = True) -> Path:
    """The scene with 25 frames a second; without ``repeats`` only those that differ."""
    times = [
        t for t in range(0, 3200, 40)
        if repeats or not t or place(t / 1000) != place(t / 1000 - 0.04)
    ]  # fmt: skip
    pictures = [
        SCENE[16:112, place(t / 1000) :][:, :128, None].repeat(3, axis=2).astype(np.uint8)
        for t in times
    ]
    frames = [av.VideoFrame.from_ndarray(picture, format="rgb24") for picture in pictures]
    options = {"crf": str(crf)}
    _encode(path, zip(times, frames), Fraction(1, 1000), Fraction(25), "libx264", options)
    return path


def spans(path: Path, least: float = LEAST) -> list[tuple[float, float]]:
    """When the picture stands still."""
    with decoded(str(path), 0.4, 0.4, 4, SHRINK, least) as film:
        list(film.clips)
        film.still.last(film.windows.duration)
        parts = list(film.still.parts(0, film.windows.duration))
    assert film.still.seconds == pytest.approx(sum(b - a for a, b, is_still in parts if is_still))
    return [(start, end) for start, end, is_still in parts if is_still]


def freezes(path: Path, noise: float) -> list[tuple[float, float]]:
    """The same by FFmpeg."""
    graph, starts, ends = av.filter.Graph(), [], []
    with av.open(str(path)) as container:
        (stream,) = container.streams.video
        source, sink = graph.add_buffer(template=stream), graph.add("buffersink")
        detector = graph.add("freezedetect", f"n={noise}:d={LEAST}")
        source.link_to(detector)
        detector.link_to(sink)
        graph.configure()
        for frame in container.decode(stream):
            graph.push(frame)
            told = graph.pull().metadata
            starts += [float(told[key]) for key in told if key.endswith("freeze_start")]
            ends += [float(told[key]) for key in told if key.endswith("freeze_end")]
    return list(zip(starts, ends, strict=True))


@pytest.mark.parametrize(("crf", "repeats"), [(12, True), (20, True), (28, True), (28, False)])
def test_still_pictures_of_a_coded_film(tmp_path: Path, crf: int, repeats: bool) -> None:
    """The pause of 0.3 s is too short; a frame that is shown for long is a still picture."""
    film = write_scene(tmp_path / "film.mp4", crf, repeats)
    (found,) = spans(film)
    assert found == pytest.approx((1.0, 1.84), abs=0.05)
    if repeats:  # of a single frame FFmpeg does not see that it is shown for long
        assert found == pytest.approx(freezes(film, noise=0.01)[0], abs=0.05)
    assert spans(film, least=0.0) == []


def test_a_shorter_least(tmp_path: Path) -> None:
    found = spans(write_scene(tmp_path / "film.mp4", 20), least=0.25)
    assert found == [
        pytest.approx((1.0, 1.84), abs=0.05), pytest.approx((2.4, 2.74), abs=0.05)
    ]  # fmt: skip


def runs(pictures: list[np.ndarray]) -> list[int]:
    """How many pictures each picture that differs stands for."""
    is_new = Changes()
    at = [number for number, picture in enumerate(pictures) if is_new(picture)]
    return np.diff([*at, len(pictures)]).tolist()


@pytest.mark.parametrize(
    ("height", "width", "side", "top"),
    [(1080, 1920, 20, 700), (240, 320, 6, 100), (1075, 1920, 20, 1055), (56, 72, 3, 30)],
)
def test_a_small_thing_that_moves(height: int, width: int, side: int, top: int) -> None:
    """Also at an edge where no block is whole. The mean of the picture hardly changes."""
    rows, columns = -(-height // 40), -(-width // 40)
    scene = np.random.default_rng(0).integers(30, 160, (rows, columns), np.uint8)
    scene = scene.repeat(40, 0).repeat(40, 1)[:height, :width]
    pictures = []
    for number in range(25):
        picture = scene.copy()
        left = 10 + number * max(1, side // 4)
        picture[top : top + side, left : left + side] = 220
        pictures.append(picture)
    change = np.abs(pictures[12].astype(int) - pictures[0]).mean()
    assert change < 0.01 * 255
    assert max(runs(pictures)) < 12
    assert runs([pictures[0]] * 25) == [25]


def test_noise_of_a_camera_and_of_coding() -> None:
    rng, scene = np.random.default_rng(0), SCENE.astype(float)
    loud, faint = (
        [scene + rng.normal(0, sigma, scene.shape) for _ in range(25)] for sigma in (3, 0.5)
    )
    assert max(runs([picture.clip(0, 255).astype(np.uint8) for picture in loud])) == 1
    assert runs([picture.clip(0, 255).astype(np.uint8) for picture in faint]) == [25]


@pytest.mark.parametrize("step", [10, 0.4])
def test_a_fade(step: float) -> None:
    """Slow ones too: a picture is compared with the first of its span, not with its neighbour."""
    pictures = [np.full((48, 64), round(step * number), np.uint8) for number in range(26)]
    assert len(runs(pictures)) > 1
    assert max(runs(pictures)) < 12


def test_pictures_of_any_size() -> None:
    assert runs([np.zeros(shape, np.uint8) for shape in ((1, 1), (1, 1), (3, 500), (500, 3))]) == [
        2,
        1,
        1,
    ]
    beyond = [np.zeros((SAMPLES + 1, 4 * SAMPLES), np.uint8) for _ in range(2)]
    beyond[1][-BLOCK // 2 :, -BLOCK // 2 :] = 255
    assert runs(beyond) == [1, 1]


def test_the_picture_is_looked_at_when_it_is_shown() -> None:
    """What a decoder does with its memory later changes nothing."""
    is_new, memory = Changes(), np.zeros((16, 16), np.uint8)
    assert is_new(memory)
    memory[:] = 200
    assert is_new(memory)


def test_spans_as_they_become_known() -> None:
    still = Still(1.0)
    still.change(0.0)
    still.last(0.9)
    assert (still.known, list(still.parts(0, 0.9))) == (0, [(0, 0.9, False)])
    still.last(1.0)
    assert (still.known, still.seconds) == (1, 1)
    assert list(still.parts(0, 2)) == [(0, 2, True)]  # it is taken to go on
    still.change(1.5)
    still.change(2.0)
    still.last(3.5)
    assert list(still.parts(0.5, 4)) == [(0.5, 1.5, True), (1.5, 2, False), (2, 4, True)]
    assert still.covers(0.5, 1.5)
    assert not still.covers(1.4, 2.1)
    assert (still.known, still.seconds) == (3.5, 3)
    still.forget(1.5)
    assert list(still.parts(1.5, 3)) == [(1.5, 2, False), (2, 3, True)]


def test_spans_that_touch_leave_no_gap() -> None:
    """As where slides follow each other, or a key frame looks different."""
    still = Still(0.5)
    for at in (0.0, 0.7, 1.4):
        still.change(at)
    assert list(still.parts(0, 1.4)) == [(0, 0.7, True), (0.7, 1.4, True)]
    assert still.covers(0.1, 1.3)


def test_nobody_looks() -> None:
    still = Still(0.0)
    still.last(5)
    assert (still.known, still.seconds, list(still.parts(0, 5))) == (inf, 0, [(0, 5, False)])


def test_the_model_is_spared_still_windows(films: dict[str, Path]) -> None:
    """Of 37 windows 14 lie in the still seconds; each counts for the progress."""
    seer, told = Blinkered(), []
    with decoded(str(films["film.mp4"]), 0.4, 0.1, 4, SHRINK, LEAST) as film:
        rows = list(rows_of(seer, film, "film", advance=told.append))
    assert [row.name for row in rows] == ["right", "left"]
    assert told == ["windows"] * len(film.windows) == ["windows"] * 37
    assert 21 <= seer.clips <= 27
