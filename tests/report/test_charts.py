"""Line charts."""

import xml.etree.ElementTree as ET

import pytest

from vivit_train.report.charts import MOST_POINTS, Line, chart, number, smoothed, ticks


def test_points_lie_where_their_values_say() -> None:
    drawn = ET.fromstring(str(chart("Loss", [Line("train", [(0, 0.0), (5, 1.0), (10, 0.5)])])))
    (way,) = drawn.iter("polyline")
    (x0, y0), (x1, y1), (x2, y2) = (map(float, p.split(",")) for p in way.get("points").split())
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y2 == pytest.approx(y2 - y1, abs=0.2)
    assert y0 > y1  # SVG counts from the top


def test_a_name_is_text_and_no_markup() -> None:
    drawn = str(chart("<b>", [Line("</figure><script>", [(0, 0), (1, 1)])]))
    assert "<script>" not in drawn
    assert "<b>" not in drawn.split("<figcaption>")[1].split("<small>")[0]


def test_many_points_become_means_of_parts() -> None:
    points = [(i, float(i % 2)) for i in range(30_000)]
    drawn = ET.fromstring(str(chart("Loss", [Line("train", points)])))
    (way,) = drawn.iter("polyline")
    assert len(way.get("points").split()) == MOST_POINTS
    heights = {round(float(p.split(",")[1])) for p in way.get("points").split()}
    assert len(heights) == 1  # 0.5 everywhere


def test_a_line_of_one_point_is_no_line() -> None:
    assert chart("Loss", [Line("train", [(0, 1.0)])]) == ""


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.5, 1]),
        (0.13, 0.87, [0.2, 0.4, 0.6, 0.8]),
        (5, 5, [5]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (0, 3e6, [0, 1e6, 2e6, 3e6]),
    ],
)
def test_ticks(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high, 4) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1e-5, "1e-05"),
        (0.00031, "0.00031"),
        (12345, "12.3k"),
        (2.5e6, "2.5M"),
        (0.5, "0.5"),
    ],
)
def test_number(value: float, text: str) -> None:
    assert number(value) == text


def test_smoothing_keeps_steps_and_a_constant() -> None:
    assert smoothed([(i, 3.0) for i in range(50)]) == [(i, 3.0) for i in range(50)]
    rough = [(i, float(i % 2)) for i in range(100)]
    assert all(0.4 < y < 0.6 for _, y in smoothed(rough)[5:-5])
