"""What people read: names from data sets, files and checkpoints, shown so that they do no harm.

A name may hold whatever its author liked: sequences that clear the screen or set its title, line
ends that forge another line, letters that run from right to left, or `=` at its beginning, which
a spreadsheet takes for a formula. All that is printed goes through `say`, all text in a csv
through `csv_cell`. Files for programs, such as results.json, keep names exactly.
"""

import sys
import unicodedata
from typing import TextIO

# What a spreadsheet takes for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@")
# Control characters; invisible ones, such as those that change the direction of reading; bytes that
# are not UTF-8, as Python has them in names (surrogates); ends of lines and paragraphs.
_UNSAFE = frozenset(["Cc", "Cf", "Cs", "Zl", "Zp"])
_JOINERS = "\u200c\u200d"  # invisible too, but a part of how Persian, Hindi and emoji are written


def printable(text: object) -> str:
    """Text with everything but letters, signs and spaces as an escape: ``\\x1b``, ``\\n``."""
    return "".join(map(_escape, str(text)))


def _escape(character: str) -> str:
    if unicodedata.category(character) not in _UNSAFE or character in _JOINERS:
        return character
    code = ord(character)
    if code < 0x100:
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def say(line: object, file: TextIO | None = None) -> None:
    """Prints one line, `printable` and at once.

    Args:
        line: What to print.
        file: Where to; ``None``: standard output.
    """
    file = file or sys.stdout
    # A terminal may know fewer characters than there are.
    encoding = file.encoding or "utf-8"
    text = printable(line).encode(encoding, "backslashreplace").decode(encoding)
    print(text, file=file, flush=True)


def csv_cell(value: object) -> object:
    """A value as it is written to a csv that spreadsheets open; what is not text stays.

    Text is `printable`, and begins with ``'`` where a spreadsheet would take it for a formula.
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
