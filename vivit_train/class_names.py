"""Class names are the contract between data sets and heads: matched by name, never by index."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from vivit_train.errors import UserError

# What a mirror makes of a word, also of leftwards, right-handed and the like.
_MIRRORED = {
    "left": "right",
    "right": "left",
    "clockwise": "counterclockwise",
    "counterclockwise": "clockwise",
    "cw": "ccw",
    "ccw": "cw",
}
_MIRRORS = re.compile(rf"\b({'|'.join(_MIRRORED)})(?=(?:wards?|hand|handed)?\b)")


def match_class_names(ours: Sequence[str], theirs: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs classes of the same name, whatever their order.

    Case, spaces, underscores and punctuation do not count, unless two names of one list then
    become the same: in that case names must be equal to the letter.

    Returns:
        (index in ours, index in theirs) for each name that both have once.
    """
    if list(ours) == list(theirs):
        return [(i, i) for i in range(len(ours))]
    a, b = _once(map(_canonical, ours)), _once(map(_canonical, theirs))
    if len(a) < len(ours) or len(b) < len(theirs):
        a, b = _once(ours), _once(theirs)
    return [(i, b[name]) for name, i in a.items() if name in b]


def find_classes(names: Sequence[str], targets: Sequence[str], whose: str) -> list[int]:
    """Index in ``targets`` of each of ``names``.

    Args:
        names: A data set's class names.
        targets: The class names to find them in, in the order of a head's rows.
        whose: Whom ``targets`` belong to, for the message.

    Raises:
        UserError: If a name is not among the targets, listing those that are not.
    """
    pairs = dict(match_class_names(names, targets))
    lost = [name for i, name in enumerate(names) if i not in pairs]
    if lost:
        left = [name for j, name in enumerate(targets) if j not in set(pairs.values())]
        raise UserError(
            f"{len(lost)} of the data set's {len(names)} classes are not among the "
            f"{len(targets)} of {whose}: {shorten(lost)}. Unmatched there: {shorten(left)}. "
            "Classes are matched by name: rename the data set's classes, or train a new head"
        )
    return [pairs[i] for i in range(len(names))]


def check_heads(places: Sequence[int], heads: Mapping[str, int], data_name: str) -> None:
    """Each head's classes must be the same rows of the model, in any order.

    Args:
        places: For each class of the data set, head after head, its row in the model.
        heads: Name -> number of classes.
        data_name: The data set's, for the message.

    Raises:
        UserError: If a class is a row of another head.
    """
    start = 0
    for name, size in heads.items():
        end = start + size
        if sorted(places[start:end]) != list(range(start, end)):
            raise UserError(
                f"rows {start} to {end - 1} of the model are not the {size} classes of the "
                f"head {name} of {data_name}, whose heads are {', '.join(heads)} in this "
                "order: train a new head"
            )
        start = end


def look_alikes(names: Sequence[str]) -> list[str]:
    """Names that differ in case, spaces and punctuation alone, which may be one class misspelt."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_canonical(name), []).append(name)
    return [", ".join(map(repr, group)) for group in groups.values() if len(group) > 1]


def shorten(names: Sequence[str], most: int = 8) -> str:
    """Names in one line, a long list cut short."""
    shown = ", ".join(names[:most]) or "none"
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _canonical(name: str) -> str:
    """A class name without case, spaces and punctuation; composed, as file names may not be."""
    kept = (
        c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c)[0] not in "PZC"
    )
    return "".join(kept).casefold() or name


def _once(names: Iterable[str]) -> dict[str, int]:
    """Index of each name that occurs once."""
    names = list(names)
    counts = Counter(names)
    return {name: i for i, name in enumerate(names) if counts[name] == 1}


def mirrored_pair(names: Sequence[str]) -> tuple[str, str] | None:
    """The first two classes of which, by their names, a mirror makes the other; ``None`` if none.

    Known are left and right and the two ways to turn, in English.
    """
    by_words = {_words(name): name for name in names}
    for words, name in by_words.items():
        mirrored = _MIRRORS.sub(lambda match: _MIRRORED[match[0]], words)
        if mirrored != words and mirrored in by_words:
            return name, by_words[mirrored]
    return None


def _words(name: str) -> str:
    """The words of a name in lower case: ``turnLeft`` and ``Turn_left`` are ``turn left``."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    joined = re.sub(r"(counter|anti)[\W_]*clockwise", "counterclockwise", spaced)
    return " ".join(re.findall(r"[^\W_]+", joined))
