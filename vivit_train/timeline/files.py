"""Timelines on the disk: csv and subtitles grow row by row, JSON is written whole at the end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from vivit_train.io.files import write_whole
from vivit_train.io.terminal import csv_text, json_text, printable
from vivit_train.timeline.rows import Row

COLUMNS = ("start", "end", "class", "probability")
SUFFIXES = (".csv", ".json", ".srt")
# Players read these as tags and styles, and `-->` as a line of times.
_LOOK_ALIKES = str.maketrans({"<": "\u2039", ">": "\u203a", "{": "(", "}": ")"})


def as_dict(row: Row) -> dict[str, object]:
    """A row as plain values: seconds to the millisecond."""
    values = (round(row.start, 3), round(row.end, 3), row.name, round(row.probability, 6))
    return dict(zip(COLUMNS, values))


def clock(seconds: float, point: str = ".") -> str:
    """``01:02:03.456``, as subtitles have it with a comma for the point."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    minutes, second = divmod(whole, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02}:{minute:02}:{second:02}{point}{milliseconds:03}"


def in_words(row: Row) -> str:
    """A row as a line of text."""
    return f"{clock(row.start)} - {clock(row.end)}  {row.probability:.4f}  {row.name}"


def subtitle(number: int, row: Row) -> str:
    """A row as a block of an srt file; ``number`` counts from 1."""
    times = f"{clock(row.start, ',')} --> {clock(row.end, ',')}"
    name = printable(row.name).translate(_LOOK_ALIKES)
    return f"{number}\n{times}\n{name} {row.probability:.0%}\n\n"


@contextmanager
def written(path: Path) -> Iterator[Callable[[Row], None]]:
    """A file to which rows go, in the form that its suffix names, one of `SUFFIXES`.

    What was written is kept however it ends.

    Yields:
        What takes the next row.
    """
    suffix = path.suffix.lower()
    if suffix == ".json":
        rows: list[Row] = []
        try:
            yield rows.append
        finally:
            write_whole(path, json_text([as_dict(row) for row in rows]) + "\n")
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        header = csv_text(COLUMNS, ())
        file.write(header if suffix == ".csv" else "")
        file.flush()

        numbers = count(1)

        def write(row: Row) -> None:
            if suffix == ".csv":
                text = csv_text(COLUMNS, [as_dict(row)]).removeprefix(header)
            else:
                text = subtitle(next(numbers), row)
            file.write(text)
            file.flush()

        yield write
