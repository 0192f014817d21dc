"""Kinds of values, of which `keys` describes every key of the configuration."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

# No count is larger: numbers of 32 bits hold it, and no run comes near.
MOST = 2**31 - 1


@dataclass(frozen=True)
class Kind:
    """The values that a key takes; ``a | b`` takes those of both.

    Attributes:
        expected: What they are, for a message that begins with "expected".
        fits: Whether a value is one of them.
        is_text: Whether words are among them that the user makes up, such as names: they are
            taken from the command line as they are written.
        is_path: Whether paths are: a leading ``~`` is then the home directory.
        is_nested: Whether lists or mappings are.
    """

    expected: str
    fits: Callable[[Any], bool]
    is_text: bool = False
    is_path: bool = False
    is_nested: bool = False

    def __or__(self, other: "Kind") -> "Kind":
        return Kind(
            f"{self.expected}, or {other.expected}",
            lambda value: self.fits(value) or other.fits(value),
            self.is_text or other.is_text,
            self.is_path or other.is_path,
            self.is_nested or other.is_nested,
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value


def whole(least: int, most: int = MOST) -> Kind:
    """A whole number; 2.0 is none."""
    upper = "or more" if most == MOST else f"to {most:,}"
    return Kind(
        f"a whole number, {least} {upper}",
        lambda value: _is_number(value) and isinstance(value, int) and least <= value <= most,
    )


def number(
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Kind:
    """A finite number, within bounds of which ``least`` and ``most`` are allowed themselves."""
    bounds = {"at least": least, "above": above, "below": below, "at most": most}
    words = [f"{word} {bound:,}" for word, bound in bounds.items() if bound is not None]
    return Kind(
        f"a number{' ' * bool(words)}{' and '.join(words)}",
        lambda value: (
            _is_number(value)
            and (least is None or value >= least)
            and (above is None or value > above)
            and (below is None or value < below)
            and (most is None or value <= most)
        ),
    )


def hinted(kind: Kind, hint: str) -> Kind:
    """The same values, and what to do instead of others, for the end of the message."""
    return replace(kind, expected=f"{kind.expected} ({hint})")


def choice(*choices: str | int) -> Kind:
    """One of a few words or numbers."""
    return Kind(
        ", ".join(map(str, choices[:-1])) + f"{' or ' * (len(choices) > 1)}{choices[-1]}",
        lambda value: not isinstance(value, bool | float) and value in choices,
    )


def list_of(kind: Kind, length: int | None = None, least: int = 0) -> Kind:
    """A list, of ``length`` entries or of ``least`` and more, each of the same kind."""
    count = f"a list of {length}" if length else f"a list of {least} or more" if least else "a list"
    return Kind(
        f"{count}, each {kind.expected}",
        lambda value: (
            isinstance(value, list)
            and (length is None or len(value) == length)
            and len(value) >= least
            and all(kind.fits(entry) for entry in value)
        ),
        is_nested=True,
    )


def interval(most: float) -> Kind:
    """A range of positive numbers."""
    end = number(above=0, most=most)
    return Kind(
        f"a list [smallest, largest] with 0 < smallest <= largest <= {most:g}",
        lambda value: list_of(end, 2).fits(value) and value[0] <= value[1],
        is_nested=True,
    )


def mapping_of(kind: Kind, example: str) -> Kind:
    """A mapping from words to values of one kind."""
    return Kind(
        f"a mapping such as {example}",
        lambda value: arguments.fits(value) and all(map(kind.fits, value.values())),
        is_nested=True,
    )


arguments = Kind(
    "a mapping of arguments by name, such as {betas: [0.9, 0.99]}",
    lambda value: isinstance(value, Mapping) and all(isinstance(name, str) for name in value),
    is_nested=True,
)


part = Kind(
    "{}, or a mapping with a _target_ and the arguments of that class",
    lambda value: arguments.fits(value) and (not value or _is_text(value.get("_target_"))),
    is_nested=True,
)


def parts(example: str) -> Kind:
    """Objects of the user's own by name, each with its class and arguments; or null, for none."""
    return Kind(
        f"a mapping of names to settings that have a _target_, such as {example}",
        lambda value: (
            arguments.fits(value)
            and all(
                part is None or (isinstance(part, Mapping) and _is_text(part.get("_target_")))
                for part in value.values()
            )
        ),
        is_nested=True,
    )


def off(option: str) -> Kind:
    """Null, where an option of the group puts a mapping."""
    return Kind(f"null; {option} turns it on", null.fits)


no_limit = Kind("-1 for no limit", choice(-1).fits)
null = Kind("null", lambda value: value is None)
switch = Kind("true or false", lambda value: isinstance(value, bool))
share = number(least=0, most=1)
text = Kind("a name", _is_text, is_text=True)
# Part of a run's folder, runs/<name>/<date_time>, which must not lie outside of runs/.
folder_name = Kind(
    "a name, without .. in its path",
    lambda value: _is_text(value) and ".." not in value.split("/"),
    is_text=True,
)
path = Kind("a path", _is_text, is_text=True, is_path=True)
pixels = whole(1, 16384)
# Spatial views are the centre crop, or three crops.
views = Kind(
    "a list [temporal, spatial] of a whole number, 1 to 1,000, and 1 or 3",
    lambda value: (
        isinstance(value, list)
        and len(value) == 2
        and whole(1, 1000).fits(value[0])
        and choice(1, 3).fits(value[1])
    ),
    is_nested=True,
)
# Lightning's, e.g. of max_time; minutes and seconds have two digits.
duration = Kind(
    "a time in quotes as DD:HH:MM:SS, e.g. 00:12:00:00",
    lambda value: isinstance(value, str) and bool(re.fullmatch(r"\d{1,5}:\d\d:\d\d:\d\d", value)),
) | mapping_of(number(least=0, most=1_000_000), "{hours: 12}")
