"""Line charts as SVG, in the colours of the page's style sheet."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 22
COLOURS = 6  # of the style sheet: --line-0 ...
# More points than these cannot be told apart in a chart of this width.
MOST_POINTS = 300


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        label: What it shows.
        points: (step, value), in the order of the steps.
        colour: 0 to 5, of the style sheet's ``--line-0`` ...
        is_faint: Whether it is drawn behind the others, thin and pale.
    """

    label: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    is_faint: bool = False


def chart(title: str, lines: Sequence[Line], unit: str = "") -> Markup:
    """A chart of lines over training steps; empty where no line has two points.

    Args:
        title: Stands above.
        lines: Those without two points are left out.
        unit: Stands beside the title.
    """
    lines = [_thinned(line) for line in lines if len(line.points) > 1]
    if not lines:
        return Markup("")
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    x_ticks, y_ticks = ticks(min(xs), max(xs), 4), ticks(min(ys), max(ys), 4)
    low, high = min(min(ys), y_ticks[0]), max(max(ys), y_ticks[-1])

    def x_of(x: float) -> float:
        return LEFT + (x - min(xs)) / (max(xs) - min(xs) or 1) * (WIDTH - LEFT - RIGHT)

    def y_of(y: float) -> float:
        return HEIGHT - BOTTOM - (y - low) / (high - low or 1) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in y_ticks:
        y = y_of(tick)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(
            f'<text x="{LEFT - 5}" y="{y + 3:.1f}" text-anchor="end">{number(tick)}</text>'
        )
    for tick in x_ticks:
        x = x_of(tick)
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{number(tick)}</text>'
        )
    for line in sorted(lines, key=lambda line: not line.is_faint):
        way = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in line.points)
        kind = "faint" if line.is_faint else "line"
        parts.append(f'<polyline class="{kind} c{line.colour}" points="{way}"/>')
    legend = Markup("").join(
        Markup('<span class="key{}"><i class="c{}"></i>{} <b>{}</b></span>').format(
            " pale" if line.is_faint else "", line.colour, line.label, number(line.points[-1][1])
        )
        for line in lines
    )
    return Markup(
        "<figure><figcaption>{} <small>{}</small></figcaption>"
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
        '<div class="legend">{}</div></figure>'
    ).format(title, unit, WIDTH, HEIGHT, title, Markup("".join(parts)), legend)


def smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The running mean of noisy values, over a tenth of the run to each side."""
    values = [y for _, y in points]
    reach = max(1, len(values) // 10)
    return [
        (x, sum(part) / len(part))
        for i, (x, _) in enumerate(points)
        for part in [values[max(0, i - reach) : i + reach + 1]]
    ]


def ticks(low: float, high: float, number_of: int) -> list[float]:
    """Round numbers within a range, about as many as asked for; at least one."""
    if high <= low:
        return [low]
    rough = (high - low) / number_of
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [(first + i) * step for i in range(count)] or [low]


def number(value: float) -> str:
    """A number in few characters: ``0.0003``, ``12.5``, ``4.2k``, ``1e-05``."""
    if value and abs(value) < 1e-4:
        return f"{value:.0e}"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g}{letter}"
    return f"{value:.4g}"


def _thinned(line: Line) -> Line:
    """A line with fewer points: the mean of each of `MOST_POINTS` equal parts."""
    if len(line.points) <= MOST_POINTS:
        return line
    bounds = [round(i * len(line.points) / MOST_POINTS) for i in range(MOST_POINTS + 1)]
    parts = [line.points[a:b] for a, b in pairwise(bounds)]
    means = [(part[-1][0], sum(y for _, y in part) / len(part)) for part in parts]
    return Line(line.label, means, line.colour, line.is_faint)
