"""Draws architecture.svg from the table of docs/architecture.md; run it as a program."""

import re
from html import escape
from itertools import groupby
from pathlib import Path

HERE = Path(__file__).parent
ROOM = re.compile(r"^\| (\d+) \| `(\w+)` \| (.+?) \| (.*?) ?\|$", re.M)
WIDTH, LEFT, RIGHT, HEIGHT, GAP, TOP = 880, 36, 840, 40, 10, 46
# Fill and border: legible on white and on dark, with the dark letters of a box.
TRAINING, TORCH, PLAIN = ("#cfe2ff", "#4c7fd0"), ("#d5efd9", "#4f9a62"), ("#e9e9ec", "#8a8a94")
LEGEND = (
    (TRAINING, "imports Lightning or Hydra"),
    (TORCH, "torch, but neither"),
    (PLAIN, "none of them"),
)
GREY = "#8b949e"  # of what lies on the page itself
# The page's numbers of the way of a clip.
CLIP = {
    "data": "124", "video": "3", "transforms": "5", "module": "6", "model": "6", "losses": "6",
    "metrics": "6",
}  # fmt: skip


def draw(page: str) -> str:
    """The picture of the rooms that a page's table lists, the highest floor first."""
    rows = [list(rooms) for _, rooms in groupby(ROOM.findall(page), key=lambda room: room[0])]
    height = TOP + len(rows) * (HEIGHT + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="DejaVu Sans, Verdana, sans-serif">',
        f"<title>Rooms of vivit_train on {len(rows)} floors; imports go down only</title>",
    ]
    for place, (colours, words) in enumerate(LEGEND):
        x = LEFT + place * 215
        parts += [_box(x, 12, 18, 14, colours), _text(x + 26, 23.5, words, 12, GREY)]
    x = LEFT + len(LEGEND) * 215
    parts += [_circle(x, 19, "1"), _text(x + 14, 23.5, "step on the way of a clip", 12, GREY)]
    for number, rooms in enumerate(rows):
        y = TOP + number * (HEIGHT + GAP)
        parts.append(_text(10, y + 25, rooms[0][0], 12, GREY))
        width = (RIGHT - LEFT + GAP) // len(rooms) - GAP
        for place, room in enumerate(rooms):
            parts += _room(LEFT + place * (width + GAP), y, width, *room[1:])
    x, bottom = WIDTH - 14, height - GAP
    parts += [
        f'<path d="M{x} {TOP} V{bottom} m-5 -9 l5 9 l5 -9" fill="none" stroke="{GREY}"/>',
        f'<text transform="translate({x - 14} {(TOP + bottom) / 2}) rotate(90)" '
        f'font-size="12" fill="{GREY}" text-anchor="middle">imports go down only</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _room(x: float, y: float, width: float, name: str, what: str, imports: str) -> list[str]:
    trains = "Lightning" in imports or "Hydra" in imports
    words = what.replace("`", "")
    if 6.3 * len(words) > width:  # of letters of 11 px
        words = words.partition(":")[0]
    return [
        _box(x, y, width, HEIGHT, TRAINING if trains else TORCH if imports else PLAIN),
        _text(x + 10, y + 17, name, 13, "#16181d", "bold"),
        _text(x + 10, y + 32, words, 11, "#3b3f46"),
        *(
            _circle(x + width - 14 - 20 * place, y + 13, digit)
            for place, digit in enumerate(reversed(CLIP.get(name, "")))
        ),
    ]


def _box(x: float, y: float, width: float, height: float, colours: tuple[str, str]) -> str:
    fill, stroke = colours
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" '
        f'fill="{fill}" stroke="{stroke}"/>'
    )


def _text(x: float, y: float, words: str, size: int, colour: str, weight: str = "normal") -> str:
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}" '
        f'font-weight="{weight}">{escape(words)}</text>'
    )


def _circle(x: float, y: float, digit: str) -> str:
    return (
        f'<circle cx="{x}" cy="{y}" r="8.5" fill="#c2410c"/>'
        f'<text x="{x}" y="{y + 4}" font-size="11" fill="#ffffff" font-weight="bold" '
        f'text-anchor="middle">{digit}</text>'
    )


if __name__ == "__main__":
    (HERE / "architecture.svg").write_text(draw((HERE.parent / "architecture.md").read_text()))
