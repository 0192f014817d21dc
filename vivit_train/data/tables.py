"""Text files that come with a data set: their text, and the rows of a table, or a refusal.

A row that is not as expected is an error with its line: it never changes how others are read.
"""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vivit_train.errors import UserError

_TIME = re.compile(r"(?:(?:([0-9]+):)?([0-9]+):)?([0-9]+(?:\.[0-9]*)?)")


def read_text(path: Path) -> str:
    """The text of a file, lines ending in ``\\n``.

    Raises:
        UserError: If it cannot be read, or is not text in UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    return to_text(content, str(path))


def to_text(content: bytes, name: str) -> str:
    """What `read_text` makes of a file's bytes.

    Raises:
        UserError: If these are not UTF-8, or hold a NUL byte, as no text does.
    """
    places = [content.find(b"\0")]
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        places.append(error.start)
    place = min((place for place in places if place >= 0), default=None)
    if place is not None:
        line = content.count(b"\n", 0, place) + 1
        raise UserError(
            f"{name} is not text in UTF-8 (byte 0x{content[place]:02x} at {place}, line {line}): "
            "save it as UTF-8, in Excel as 'CSV UTF-8'"
        )
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    """(line number, line without spaces around it) of each line that is not empty.

    Args:
        text: Lines that end in ``\\n``.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def read_json(path: Path) -> Any:
    """What a file of JSON holds.

    Raises:
        UserError: If it cannot be read, or is none.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}): download it again") from None


def read_rows(text: str, name: str, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """(line number, fields without spaces around them) of each line that is not empty.

    Args:
        text: Lines that end in ``\\n``.
        name: The file's, for messages.
        delimiter: What separates fields. Within double quotes it is a part of the field.

    Raises:
        UserError: If quotes are not as a csv has them, in one line each.
    """
    lines = text.split("\n")
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    line = 0
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            told = "too long" if "limit" in str(error) else "quotes that are not as in a csv"
            raise UserError(
                f"{name}, line {line + 1}: {told} ({error}). Put quotes around the whole field, "
                'and double those within: "a ""b"" c"'
            ) from None
        if row is None:
            return
        if reader.line_num > line + 1:
            raise UserError(
                f"{name}, line {line + 1}: a quote opens and is not closed in this line"
            )
        line = reader.line_num
        fields = [field.strip() for field in row]
        if any(fields):
            yield line, fields


def read_table(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, column -> field) of each row of a csv with a header.

    Raises:
        UserError: If it is empty, a column comes twice, or a row has more or fewer fields.
    """
    rows = read_rows(read_text(path), str(path))
    _, header = next(rows, (0, []))
    check_header(header, path)
    for line, row in rows:
        check_width(row, header, f"{path}, line {line}")
        yield line, dict(zip(header, row))


def check_header(header: Sequence[str], path: Path) -> None:
    """Refuses a header without columns, or with two of one name."""
    if not header:
        raise UserError(f"{path} is empty; expected a first line with the names of the columns")
    double = {name for name in header if name and list(header).count(name) > 1}
    if double:
        raise UserError(f"{path}: the column {sorted(double)[0]} is there twice: remove one")


def check_width(row: Sequence[str], header: Sequence[str], place: str) -> None:
    """Refuses a row that has not a field for each column."""
    if len(row) != len(header):
        raise UserError(
            f"{place}: {len(row)} fields, but the header has {len(header)} "
            f"({cut(', '.join(header))}): "
            f"got {cut(', '.join(row))}. A field with a comma needs double quotes around it"
        )


def in_order(pairs: Sequence[tuple[int, str]], path: Path) -> list[str]:
    """Class names in the order of an official index.

    Args:
        pairs: Index and name of each class.
        path: The file that says so, for the message.

    Raises:
        UserError: If the indices are not 0, 1, 2, ..., each once.
    """
    indices = sorted(index for index, _ in pairs)
    if not pairs or indices != list(range(len(pairs))):
        raise UserError(
            f"{path}: expected each index from 0 on once, got "
            f"{', '.join(map(str, indices[:8])) or 'none'}, ...; take the file from the download"
        )
    return [name for _, name in sorted(pairs)]


def cut(text: str, most: int = 120) -> str:
    """The beginning of a text that may be long."""
    return text if len(text) <= most else f"{text[:most]}..."


def seconds(text: str) -> float:
    """A time as ``62.5``, ``1:02.5`` or ``0:01:02.5``, in seconds.

    Raises:
        ValueError: If it is not of that form.
    """
    match = _TIME.fullmatch(text.strip())
    if not match or len(text) > 40:
        raise ValueError(f"{cut(text)!r} is no time in seconds or hours:minutes:seconds")
    hours, minutes, rest = match.groups()
    # To the precision of timestamps: 62.5, not 62.50000000000001.
    return round(3600 * int(hours or 0) + 60 * int(minutes or 0) + float(rest), 6)
