"""What people read: names from data sets, files and checkpoints, shown so that they do no harm.

A name may hold whatever its author liked: sequences that clear the screen or set its title, line
ends that forge another line, letters that run from right to left, or `=` at its beginning, which
a spreadsheet takes for a formula. All that is printed goes through `say`, all text in a csv
through `csv_cell`. JSON, which is for programs, keeps names exactly: `json_text`.
"""

import csv
import io
import json
import os
import signal
import sys
import threading
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

# What a spreadsheet takes for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@")
# Control characters; invisible ones, such as those that change the direction of reading; bytes that
# are not UTF-8, as Python has them in names (surrogates); ends of lines and paragraphs.
_UNSAFE = frozenset(["Cc", "Cf", "Cs", "Zl", "Zp"])
_JOINERS = "\u200c\u200d"  # invisible too, but a part of how Persian, Hindi and emoji are written


def printable(text: object) -> str:
    """Text with everything but letters, signs and spaces as an escape: ``\\x1b``, ``\\n``."""
    return "".join(_escape(c) if _is_unsafe(c) else c for c in str(text))


def _is_unsafe(character: str) -> bool:
    return unicodedata.category(character) in _UNSAFE and character not in _JOINERS


def _escape(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def is_rank_zero() -> bool:
    """Whether this process is the first of its run; known before anything heavy is imported."""
    ranks = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "GROUP_RANK", "NODE_RANK")
    return all(int(os.environ.get(name) or 0) == 0 for name in ranks)


def say(line: object, file: TextIO | None = None) -> None:
    """Prints one line, `printable` and at once, to standard output where no file is given."""
    file = file or sys.stdout
    # A terminal may know fewer characters than there are.
    encoding = file.encoding or "utf-8"
    text = printable(line).encode(encoding, "backslashreplace").decode(encoding)
    try:
        print(text, file=file, flush=True)
    except BrokenPipeError:  # who reads has enough, as `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())  # else Python tries again at exit
        sys.exit(128 + signal.SIGPIPE)


@contextmanager
def said_if_long(line: str, seconds: float = 5.0) -> Iterator[None]:
    """Says on standard error what is being done within, if that takes longer than some seconds.

    Of the processes of a run only the first says it.
    """
    timer = threading.Timer(seconds, say, (line, sys.stderr))
    timer.daemon = True
    if is_rank_zero():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def json_text(value: Any) -> str:
    """A value as indented JSON: letters as they are, what is not `printable` as JSON's escapes.

    A program reads exactly the value back, names that are not UTF-8 included.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return "".join(json.dumps(c)[1:-1] if _is_unsafe(c) and c != "\n" else c for c in text)


def say_json(value: Any) -> None:
    """Prints a value to standard output as `json_text`, for a program."""
    for line in json_text(value).split("\n"):
        say(line)


def csv_cell(value: object) -> object:
    """A value as it is written to a csv that spreadsheets open; what is not text stays.

    Text is `printable`, and begins with ``'`` where a spreadsheet would take it for a formula.
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """A table as a csv with a header, every cell by `csv_cell`; empty where a row has none."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    for row in (dict(zip(columns, columns)), *rows):
        writer.writerow({name: csv_cell(value) for name, value in row.items()})
    return text.getvalue()
