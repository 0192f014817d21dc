"""Names for labels that are numbers: from a class file, whichever form it has."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from vivit_train.data.tables import cut
from vivit_train.errors import UserError

# Files that name the classes of labels that are numbers; the last is UCF101's own.
CLASS_FILES = (
    "classes.txt",
    "labels.txt",
    "class_names.txt",
    "label_map.txt",
    "classes.csv",
    "classInd.txt",
)
_INDEX_HEADERS = frozenset(["", "id", "index", "idx", "number", "class_id", "label_id", "label"])
_NAME_HEADERS = frozenset(["name", "class", "class_name", "label", "label_name", "key", "category"])
_NUMBER_AND_NAME = re.compile(r"(?P<number>[0-9]{1,6})\s*[,;\t]\s*(?P<name>.+)")
_NAME_AND_NUMBER = re.compile(r"(?P<name>.+?)\s*[,;\t]\s*(?P<number>[0-9]{1,6})")
_NUMBER_SPACE_NAME = re.compile(r"(?P<number>[0-9]{1,6})\s+(?P<name>.+)")
_CLASS_NUMBER = re.compile("[0-9]{1,6}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


class Classes(NamedTuple):
    """What a class file says.

    Attributes:
        names: In the order of the numbers.
        first: The number of the first, 0 or 1; ``None`` where the file gives none.
        file: Its name, for messages.
    """

    names: list[str]
    first: int | None
    file: str


def as_numbers(labels: Sequence[str], place: Callable[[int], str]) -> list[int] | None:
    """Labels as class numbers; ``None`` where they are names.

    Args:
        labels: Of all videos.
        place: Where label ``i`` stands, for messages.

    Raises:
        UserError: If some are numbers and others are not, or one is no number of a class.
    """
    distinct = set(labels)
    numbers = {label for label in distinct if _NUMBER.fullmatch(label)}
    if not numbers:
        return None
    if len(numbers) < len(distinct):
        odd = next(i for i, label in enumerate(labels) if label not in numbers)
        number = next(i for i, label in enumerate(labels) if label in numbers)
        raise UserError(
            f"{place(odd)}: the label {cut(labels[odd])!r} is a name, but {cut(labels[number])!r} "
            f"({place(number)}) is a number: use names for all videos, or numbers for all"
        )
    bad = {label for label in distinct if not _CLASS_NUMBER.fullmatch(label)}
    if bad:
        odd = next(i for i, label in enumerate(labels) if label in bad)
        raise UserError(
            f"{place(odd)}: the label {cut(labels[odd])!r} is neither a name nor the number of a "
            "class, a whole number from 0 to 999999"
        )
    return [int(label) for label in labels]


def numbers_among(labels: Iterable[str | None]) -> list[int]:
    """The labels that are numbers of classes."""
    return [int(label) for label in labels if label and _CLASS_NUMBER.fullmatch(label)]


def read_classes(text: str, file: str) -> Classes:
    """The names of a class file.

    It has a name per line; or, separated by comma, tab or space, a number and a name, in this
    order or the other, below a header or not. Numbers count from 0 or 1, in any order.

    Args:
        text: Lines that end in ``\\n``.
        file: The file's name, for messages.

    Raises:
        UserError: If a line is not as the others, a name or number comes twice or is missing.
    """
    if not text.strip():
        raise UserError(f"{file} is empty; expected a class name per line")
    lines = [line.strip() for line in text.rstrip().split("\n")]
    if "" in lines:
        raise UserError(
            f"{file}, line {lines.index('') + 1} is empty, and it is unclear if it counts as a "
            "class: remove it, or write each class's number before its name"
        )
    pairs = _numbered(lines, file)
    if pairs is None:
        if lines[0].lower() in _NAME_HEADERS:
            raise UserError(
                f"{file}, line 1: {lines[0]!r} reads like a header, and would be the first class: "
                "remove the line"
            )
        names, first = lines, None
    else:
        order = dict(pairs)
        names, first = [order[number] for number in sorted(order)], min(order)
        if not _counts(pairs):
            raise UserError(
                f"{file}: expected each number from 0 or 1 on once, got "
                f"{cut(', '.join(str(number) for number, _ in pairs), 60)}"
            )
    double = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if double is not None:
        raise UserError(f"{file} has the class {cut(double)!r} twice: names must differ")
    return Classes(names, first, file)


def _numbered(lines: Sequence[str], file: str) -> list[tuple[int, str]] | None:
    """(class number, name) of each line; ``None`` where lines are names alone.

    Raises:
        UserError: If some lines have a number and others have none.
    """
    header = re.split("[,;\t]", lines[0].lower())
    has_header = len(header) == 2 and any(
        a.strip() in _INDEX_HEADERS and b.strip() in _NAME_HEADERS
        for a, b in (header, header[::-1])
    )
    rows = lines[has_header:]
    for form in (_NUMBER_AND_NAME, _NAME_AND_NUMBER, _NUMBER_SPACE_NAME):
        found = [form.fullmatch(line) for line in rows]
        pairs = [(int(match["number"]), _unquoted(match["name"])) for match in found if match]
        # "100 m sprint" is a name; what counts from 0 or 1 are numbers.
        by_space = form is _NUMBER_SPACE_NAME
        if not pairs or (by_space and not (_counts(pairs) or (found[0] and pairs[0][0] <= 1))):
            continue
        if None in found:
            odd = found.index(None)
            raise UserError(
                f"{file}, line {odd + has_header + 1}: {cut(rows[odd])!r} has no number beside the "
                "name, as other lines have: write the number of each class before its name, or "
                "names alone"
            )
        return pairs
    if has_header or any("\t" in line for line in rows):
        raise UserError(
            f"{file}: expected a name per line, or a number and a name: got {cut(rows[0])!r}"
        )
    return None


def _counts(pairs: Sequence[tuple[int, str]]) -> bool:
    """Whether the numbers are 0, 1, 2, ... or 1, 2, ..., in any order."""
    numbers = sorted(number for number, _ in pairs)
    return numbers[0] <= 1 and numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def _unquoted(name: str) -> str:
    """A field of a csv without the quotes around it."""
    quoted = re.fullmatch('"(.*)"', name)
    return quoted[1].replace('""', '"') if quoted else name


def number_names(
    numbers: Sequence[int], classes: Classes, whose: str, others: Callable[[], Sequence[int]]
) -> list[int]:
    """Which of a class file's names each number stands for, from 0 on.

    Args:
        numbers: The labels of a split.
        classes: The class file.
        whose: Where the labels stand, for messages.
        others: Labels of all splits; asked only where these leave open whether numbers begin at
            0 or at 1.

    Raises:
        UserError: If a number has no name, or it stays open.
    """
    first = classes.first
    count = len(classes.names)
    if first is None:
        first = 0
        if min(numbers) > 0:
            every = [*numbers, *others()]
            first = min(min(every), 1)
            if first and max(every) != count:
                raise UserError(
                    f"{whose}: labels begin at {min(every)}, and {classes.file} does not say "
                    "whether its first line is class 0 or 1: write the number before each name, "
                    f"`{first},{cut(classes.names[0])}`"
                )
    if not first <= min(numbers) <= max(numbers) < first + count:
        odd = max(numbers) if max(numbers) >= first + count else min(numbers)
        raise UserError(
            f"{whose} has label {odd} but {classes.file} names only {count} classes, {first} to "
            f"{first + count - 1}"
        )
    return [number - first for number in numbers]
