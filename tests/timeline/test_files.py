import csv
import json
from pathlib import Path

import pytest

from vivit_train.timeline.files import clock, in_words, subtitle, written
from vivit_train.timeline.rows import Row

NAMES = [
    "</script>",
    "=cmd",
    "\U0001f3c3\u200d\u2642 run",
    "\u05e9\u05dc\u05d5\u05dd \u202e gnp.exe",
    "two\nlines\n\n2\n00:00:00,000 --> 00:00:09,000\nforged",
    "{\\an8}<b>",
    "\x1b[2J",
    "bad \udcff byte",
]
ROWS = [Row(i, i + 1.0005, name, 0.25) for i, name in enumerate(NAMES)]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "00:00:00,000"), (59.9996, "00:01:00,000"), (3725.0625, "01:02:05,062")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds, ",") == text


def test_subtitles_by_hand() -> None:
    assert subtitle(2, Row(1.5, 3661.25, "open door", 0.876)) == (
        "2\n00:00:01,500 --> 01:01:01,250\nopen door 88%\n\n"
    )


def test_names_forge_no_subtitle(tmp_path: Path) -> None:
    with written(tmp_path / "a.srt") as write:
        for row in ROWS:
            write(row)
    text = (tmp_path / "a.srt").read_text(encoding="utf-8")
    blocks = text.removesuffix("\n\n").split("\n\n")
    assert len(blocks) == len(ROWS)
    for number, block in enumerate(blocks, start=1):
        first, times, name = block.split("\n")
        assert first == str(number)
        assert times.count("-->") == 1
        assert not {"<", ">", "{", "\x1b", "\u202e"} & set(name)
    assert "\u05e9\u05dc\u05d5\u05dd" in blocks[3]
    assert "\U0001f3c3\u200d" in blocks[2]


def test_names_do_no_harm_in_a_csv(tmp_path: Path) -> None:
    with written(tmp_path / "a.csv") as write:
        for row in ROWS:
            write(row)
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == ["start", "end", "class", "probability"]
    assert len(found) == len(ROWS)
    assert found[1]["class"] == "'=cmd"
    assert "\\n" in found[4]["class"]
    assert (found[0]["start"], found[0]["end"], found[0]["probability"]) == ("0", "1.0", "0.25")


def test_json_keeps_names(tmp_path: Path) -> None:
    with written(tmp_path / "a.json") as write:
        for row in ROWS:
            write(row)
    found = json.loads((tmp_path / "a.json").read_text())
    assert [row["class"] for row in found] == NAMES


@pytest.mark.parametrize("suffix", ["csv", "srt"])
def test_rows_are_there_as_soon_as_they_are_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    with written(path) as write:
        write(Row(0, 1, "first", 0.5))
        assert "first" in path.read_text()


def test_a_line_of_text() -> None:
    assert in_words(Row(0, 1.25, "open", 0.5)) == "00:00:00.000 - 00:00:01.250  0.5000  open"
