"""List files: which videos there are and of which class, read strictly.

A list says what it was understood as, and what is not understood is refused with its line.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vivit_train.data.tables import (
    check_header,
    check_width,
    cut,
    lines_of,
    read_rows,
    read_text,
    seconds,
)
from vivit_train.errors import UserError
from vivit_train.video.container import is_video

# What the columns of a list are called; of several for a path the first.
COLUMNS = {
    "path": (
        "path", "video_path", "clip_path", "file_path", "filepath", "file_name", "filename",
        "file", "video_name", "clip_name", "video", "clip", "name",
    ),
    "label": (
        "label_name", "class_name", "label", "class", "category", "action", "tag", "class_id",
        "label_id",
    ),
    "split": ("split", "subset", "partition"),
    "start": ("start", "start_time", "start_sec", "start_seconds", "start_timestamp"),
    "end": ("end", "end_time", "end_sec", "end_seconds", "end_timestamp", "stop_timestamp"),
}  # fmt: skip
# Columns that ask for something else than the whole video or [start, end) of it, once per epoch.
INSTRUCTIONS = (
    "start_frame", "end_frame", "stop_frame", "first_frame", "last_frame", "frame_start",
    "frame_end", "time_start", "time_end", "stride", "frame_stride", "weight", "sample_weight",
    "crop", "bbox",
)  # fmt: skip
# Third fields that may follow path and label without a header.
SPLITS = ("train", "training", "val", "valid", "validation", "dev", "test", "testing")
KINETICS = "youtube_id"


@dataclass
class Listing:
    """The rows of a list file, column by column.

    Attributes:
        file: Where it lies.
        lines: The line of each row.
        columns: ``path``, and those that there are of ``label``, ``split``, ``start`` and ``end``
            -> the field of each row.
        understood: What was understood, in words.
        others: The columns that were ignored, by the name in lower case with ``_`` for spaces.
    """

    file: Path
    lines: list[int]
    columns: dict[str, list[str]]
    understood: str
    others: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.lines)

    def place(self, row: int) -> str:
        """Where a row stands, for messages."""
        return f"{self.file}, line {self.lines[row]}"

    def segments(self) -> list[tuple[float, float]] | None:
        """(start, end) in seconds of each row; ``None`` where rows are whole videos.

        Raises:
            UserError: If times are none, or do not end after they start.
        """
        if "start" not in self.columns:
            return None
        times = []
        for row, texts in enumerate(zip(self.columns["start"], self.columns["end"])):
            try:
                start, end = map(seconds, texts)
            except ValueError as error:
                raise UserError(f"{self.place(row)}: {error}") from None
            if start >= end:
                raise UserError(
                    f"{self.place(row)}: a segment must end after it starts, got {start:g} to "
                    f"{end:g} seconds"
                )
            times.append((start, end))
        return times


def read_list(file: Path, multi_label: bool = False) -> Listing:
    """Reads a list file: a row for each video, fields separated by tabs, commas, ; or spaces.

    The first line may name the columns (`COLUMNS`). Without that, rows are ``path label`` or
    ``path,label,split``; or paths alone, whose folder is their class. Where spaces separate, a
    path ends in the suffix of a video, and all that follows is the label.

    Args:
        file: Where it lies.
        multi_label: Whether ; separates the labels of a video, not fields, and a label may be
            empty.

    Raises:
        UserError: If the file is empty, or a row or column is not as expected.
    """
    text = read_text(file)
    first = next((line for line in text.split("\n") if line.strip()), "")
    marks = "\t," if multi_label else "\t,;"
    delimiter = next((mark for mark in marks if mark in first), None)
    rows = (
        list(read_rows(text, str(file), delimiter))
        if delimiter
        else [(n, _split_at_space(line, f"{file}, line {n}")) for n, line in lines_of(text)]
    )
    if not rows:
        raise UserError(f"{file} is empty; expected a line `path label` per video")
    lines, fields = [line for line, _ in rows], [row for _, row in rows]
    read = _with_header if _is_header(fields[0]) else _without_header
    return _checked(read(file, lines, fields), ("path",) if multi_label else ("path", "label"))


def _split_at_space(line: str, place: str) -> list[str]:
    """The path, and the label if there is one, of a line whose fields are separated by spaces."""
    gaps = list(re.finditer(r"\s+", line))
    ends = [gap for gap in gaps if is_video(line[: gap.start()])]
    cuts = ends or gaps
    if len(cuts) > 1:
        raise UserError(
            f"{place}: it is unclear where the path ends and the label begins: {cut(line)!r}. "
            "Separate them by a comma or a tab"
        )
    if not cuts or (is_video(line) and not ends):
        return [line]
    path, label = line[: cuts[0].start()], line[cuts[0].end() :]
    if len(label.split()) > 1 and all(map(is_number, label.split())):
        raise UserError(
            f"{place}: {len(label.split())} numbers follow the path, {cut(label)!r}: expected "
            "`path label` with one label"
        )
    return [path, label]


def is_number(text: str) -> bool:
    """Whether a field is a decimal number."""
    return re.fullmatch(r"-?[0-9]+(\.[0-9]*)?", text) is not None


def _normal(name: str) -> str:
    """A column's name in lower case, its words joined by underscores."""
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _is_header(row: Sequence[str]) -> bool:
    """Whether a first row names columns: it holds no video, and a name of a known column."""
    known = {name for names in COLUMNS.values() for name in names} | {KINETICS}
    return not any(map(is_video, row)) and any(_normal(field) in known for field in row)


def _with_header(file: Path, lines: list[int], fields: list[list[str]]) -> Listing:
    header = fields[0]
    check_header([_normal(name) for name in header], file)
    place = {_normal(name): i for i, name in enumerate(header)}
    found = {kind: [n for n in names if n in place] for kind, names in COLUMNS.items()}
    named = f"{file}, line 1: the columns are {cut(', '.join(header), 300)}"
    for kind in ("path", "label"):
        if not found[kind]:
            theirs = (
                "; these are Kinetics' annotations, which data=kinetics400 reads (its own test "
                "list has no labels)"
                if KINETICS in place
                else ""
            )
            raise UserError(
                f"{named}; none names the {kind}: expected one of "
                f"{', '.join(COLUMNS[kind])}{theirs}"
            )
    if bool(found["start"]) != bool(found["end"]):
        raise UserError(f"{named}: a segment needs both start and end, in seconds or h:m:s")
    asks = [name for name in INSTRUCTIONS if name in place]
    if asks:
        raise UserError(
            f"{named}: {', '.join(asks)} cannot be followed. For a part of a video give start and "
            "end, its times in that file in seconds or h:m:s; remove or rename the others"
        )
    for line, row in zip(lines[1:], fields[1:]):
        check_width(row, header, f"{file}, line {line}")
    if len(fields) == 1:
        raise UserError(f"{file} has a header and no row")
    taken = {kind: names[0] for kind, names in found.items() if names}
    taken["label"] = _label_column(found["label"], place, fields[1:], named)
    columns = {kind: [row[place[name]] for row in fields[1:]] for kind, name in taken.items()}
    told = [kind if kind == name else f"{kind} ({name})" for kind, name in taken.items()]
    ignored = [
        name or "one without a name" for name in header if _normal(name) not in taken.values()
    ]
    understood = f"columns {', '.join(told)}"
    if ignored:
        understood += f"; ignored: {', '.join(ignored)}"
    others = {
        name: [row[i] for row in fields[1:]]
        for name, i in place.items()
        if name not in taken.values()
    }
    return Listing(file, lines[1:], columns, understood, others)


def _label_column(
    names: Sequence[str], place: dict[str, int], rows: Sequence[Sequence[str]], named: str
) -> str:
    """Of several columns for the label, which say the same in numbers and names, the names."""
    first = names[0]
    for other in names[1:]:
        pairs = {(row[place[first]], row[place[other]]) for row in rows}
        if any(len({pair[i] for pair in pairs}) < len(pairs) for i in (0, 1)):
            raise UserError(
                f"{named}: both {first} and {other} may be the label, and they differ: one label "
                "per video is read, so remove or rename the other column"
            )
    return next((n for n in names if not all(is_number(row[place[n]]) for row in rows)), first)


def _without_header(file: Path, lines: list[int], fields: list[list[str]]) -> Listing:
    width = len(fields[0])
    odd = next((i for i, row in enumerate(fields) if len(row) != width), None)
    if odd is not None:
        raise UserError(
            f"{file}, line {lines[odd]}: {len(fields[odd])} fields, but line {lines[0]} has "
            f"{width}: {cut(', '.join(fields[odd]))}. Expected `path label` in every row; put "
            "double quotes around a field that holds the separator"
        )
    if width == 3 and all(row[2].lower() in SPLITS for row in fields):
        names: tuple[str, ...] = ("path", "label", "split")
    elif width > 2:
        raise UserError(
            f"{file}, line {lines[0]}: {width} fields, expected path and label: "
            f"{cut(', '.join(fields[0]))}. Put double quotes around a field that holds the "
            "separator, or name the columns in a first line, such as path,label"
        )
    else:
        names = ("path", "label")[:width]
    columns = {name: [row[i] for row in fields] for i, name in enumerate(names)}
    understood = ", ".join(names) + " without a header"
    if width == 1:
        understood = "paths alone, whose folder is their class"
    return Listing(file, lines, columns, understood)


def _checked(listing: Listing, kinds: Sequence[str]) -> Listing:
    """Refuses rows in which one of these columns is empty."""
    for kind in kinds:
        for row, text in enumerate(listing.columns.get(kind, ())):
            if not text:
                raise UserError(f"{listing.place(row)}: expected `path label`, the {kind} is empty")
    return listing
