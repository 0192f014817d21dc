import math

import numpy as np
import pytest
import torch

from tests.timeline.conftest import Seer
from vivit_train.classifier import NonFiniteLogits
from vivit_train.timeline.decoded import Film
from vivit_train.timeline.rows import (
    Joiner,
    Row,
    by_moment,
    guesses_of,
    probabilities,
    rows_of,
    smoothed,
    without_still,
)
from vivit_train.timeline.still import Still
from vivit_train.timeline.windows import Windows


def joined(guesses: list[tuple[str, float]], threshold: float = 0.0) -> list[Row]:
    joiner = Joiner(threshold)
    rows = [joiner.add((i, i + 1), guess) for i, guess in enumerate(guesses)]
    return [row for row in (*rows, joiner.end()) if row is not None]


def test_neighbours_of_one_class_are_joined() -> None:
    rows = joined([("a", 0.5), ("a", 0.75), ("b", 0.5), ("a", 0.25)])
    assert rows == [Row(0, 2, "a", 0.625), Row(2, 3, "b", 0.5), Row(3, 4, "a", 0.25)]


def test_what_is_below_the_threshold_is_in_no_row_and_parts_rows() -> None:
    rows = joined([("a", 0.5), ("a", 0.4), ("a", 0.5), ("b", 0.1)], threshold=0.5)
    assert rows == [Row(0, 1, "a", 0.5), Row(2, 3, "a", 0.5)]


def test_nothing_gives_no_row() -> None:
    assert joined([]) == []
    assert joined([("a", 0.1)], threshold=0.2) == []


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("length", [0, 1, 4, 7])
def test_smoothing_is_the_mean_of_the_neighbours(number: int, length: int) -> None:
    values = torch.rand(length, 3, generator=torch.Generator().manual_seed(0))
    found = list(smoothed(iter(values), number))
    assert len(found) == length
    for i, mean in enumerate(found):
        first = max(0, i - (number - 1) // 2)
        torch.testing.assert_close(mean, values[first : i + number // 2 + 1].mean(dim=0))


def test_a_row_has_the_mean_over_its_seconds() -> None:
    joiner = Joiner()
    joiner.add((0, 3), ("a", 0.5))
    joiner.add((3, 4), ("a", 0.9))
    assert joiner.end() == Row(0, 4, "a", pytest.approx(0.6))


@pytest.mark.parametrize(
    ("duration", "window", "every"),
    [(5.5, 2, 1), (5.5, 2, 0.7), (3, 0.64, 0.04), (6, 2, 2), (5, 2, 2), (1, 2, 1), (0.9, 0.3, 0.1)],
)
def test_a_moment_has_the_mean_of_all_windows_that_contain_it(
    duration: float, window: float, every: float
) -> None:
    windows = Windows(duration, window, every)
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.random((len(windows), 3)))
    spans, means = zip(*by_moment(iter(values), windows))
    starts, ends = zip(*spans)
    assert (starts[0], ends[-1]) == (0, pytest.approx(duration))
    assert starts[1:] == ends[:-1]
    assert min(end - start for start, end in spans) > 1e-7
    for moment in rng.uniform(0, duration, 50):
        among = [
            windows.start(n) <= moment < windows.start(n) + windows.seconds
            for n in range(len(windows))
        ]
        (found,) = [mean for (a, b), mean in zip(spans, means) if a <= moment < b]
        torch.testing.assert_close(found, values[torch.tensor(among)].mean(dim=0))


def test_windows_of_still_pictures_have_no_say() -> None:
    one, two = torch.tensor([1.0]), torch.tensor([2.0])
    found = list(smoothed(iter([one, None, two, two]), 3))
    assert [None if value is None else float(value) for value in found] == [1, None, 2, 2]
    found = list(by_moment(iter([one, None, None, two]), Windows(5, 2, 1)))
    values = [None if value is None else float(value) for _, value in found]
    assert values == [1, 1, None, 2, 2]


def test_still_pictures_are_cut_out_when_they_are_known() -> None:
    """The picture stands still from 1.5 to 3 s, which is known when the third moment comes."""
    still, taken = Still(1.0), []

    def moments():
        for number in range(5):
            taken.append(number)
            for at in (number, number + 0.5):
                if not 1.5 < at < 3:
                    still.change(at)
            still.last(number + 1)
            yield (number, number + 1), torch.tensor([float(number)])

    found = []
    for span, value in without_still(moments(), Windows(5.0, 1, 1), still):
        found.append((*span, None if value is None else float(value), taken[-1]))
    assert found == [
        (0, 1, 0, 1), (1, 1.5, 1, 2), (1.5, 2, None, 2), (2, 3, None, 2), (3, 4, 3, 4),
        (4, 5, 4, 4),
    ]  # fmt: skip


def test_gaps_go_to_the_nearest_window() -> None:
    windows = Windows(10, 1, 3)
    values = torch.arange(4.0)[:, None]
    found = [(span, float(value)) for span, value in by_moment(iter(values), windows)]
    assert found == [((0, 2), 0), ((2, 5), 1), ((5, 8), 2), ((8, 10), 3)]


def test_what_is_known_comes_before_the_error() -> None:
    def values():
        yield torch.tensor([1.0])
        yield torch.tensor([0.5])
        raise KeyError

    spans = by_moment(values(), Windows(10, 2, 1))
    assert [next(spans) for _ in range(3)] == [((0, 1), 1.0), ((1, 2), 0.75), ((2, 3), 0.5)]
    with pytest.raises(KeyError):
        next(spans)


class Told(Seer):
    """One that gives these logits."""

    def __init__(self, logits: list[list[float]], heads: dict[str, int]) -> None:
        super().__init__()
        self.logits, self.heads = torch.tensor(logits), heads

    def __call__(self, clips: np.ndarray) -> torch.Tensor:
        return self.logits[: len(clips)]


def test_the_best_of_several_heads() -> None:
    clip = np.zeros((4, 8, 8, 3), np.uint8)
    logits = [[0.0, 1.0, 2.0, 0.0, 1.0]]
    classifier = Told(logits, {"noun": 2, "verb": 3})
    (found,) = probabilities(classifier, iter([clip]), "film")
    nouns, verbs = torch.tensor(logits[0]).split([2, 3])
    classifier.class_names = ["tap", "pan", "open", "shut", "wash"]
    ((name, probability),) = guesses_of(found, classifier)
    assert name == "pan, open"
    assert probability == pytest.approx(float(nouns.softmax(0)[1] * verbs.softmax(0)[0]))


def test_a_class_of_no_probability() -> None:
    assert guesses_of(torch.tensor([0.0, 1.0]), Seer(["a", "b"])) == [("b", 1.0)]


def test_rows_of_any_number_of_classes_overlap() -> None:
    classifier = Told([[3.0, -3.0, 3.0], [3.0, 3.0, -3.0], [-3.0, 3.0, -3.0]], {})
    classifier.multi_label = True
    clips = iter(np.zeros((3, 4, 8, 8, 3), np.uint8))
    film = Film(Windows(6, 2, 2), clips, 0, Still(0.0))
    found = list(rows_of(classifier, film, "film", threshold=0.5))
    share = pytest.approx(1 / (1 + math.exp(-3)))
    assert found == [
        Row(0, 2, "still", share), Row(0, 4, "right", share), Row(2, 6, "left", share),
    ]  # fmt: skip


def test_logits_that_say_nothing() -> None:
    clip = np.zeros((4, 8, 8, 3), np.uint8)
    with pytest.raises(NonFiniteLogits, match=r"^film: the logits are NaN"):
        next(probabilities(Told([[float("nan"), 1.0]], {}), iter([clip]), "film"))
