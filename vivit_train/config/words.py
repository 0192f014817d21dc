"""Words of a command line: Hydra's flags and ``key=value``, paths and names as they are written."""

import itertools
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, Quote, QuotedString
from hydra.errors import HydraException

from vivit_train.config.folders import program
from vivit_train.config.keys import KEYS, opened_by
from vivit_train.errors import UserError

# One value in quotes, which are Hydra's; a backslash goes with what comes after it.
_QUOTED = r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\""
# Values of a sweep: commas separate them, except in quotes.
_PART = re.compile(rf"(?:{_QUOTED}|[^,])+", re.DOTALL)
_FUNCTION = re.compile(r"(choice|glob|interval|range|shuffle|sort|tag)\(")


class Call(NamedTuple):
    """What a call of ``train.py`` asks for.

    Attributes:
        flags: Hydra's, e.g. ``-m`` and ``--cfg job``.
        words: ``key=value``, ready for Hydra.
        is_sweep: Whether words may have several values.
        composes: Whether the words are about our own configuration: not where a flag names another.
        config_dir: The folder that ``--config-dir`` names, which is not among the flags then.
    """

    flags: list[str]
    words: list[str]
    is_sweep: bool
    composes: bool
    config_dir: str | None


def command_line(arguments: Sequence[str]) -> Call:
    """Takes a call of ``train.py`` apart; flags may stand anywhere, also between words.

    Args:
        arguments: ``sys.argv`` without the program.

    Raises:
        UserError: If a flag is unknown, or means nothing here.
    """
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; {program()} --help says what there is")

    parser.error = refuse  # type: ignore[method-assign]
    parsed = parser.parse_intermixed_args(arguments)
    if parsed.experimental_rerun is not None:
        refuse("--experimental-rerun ignores all overrides: to resume a run use ckpt_path")
    flags, left = [], list(parsed.overrides)
    for argument in arguments:
        if left and argument == left[0]:
            left.pop(0)
        else:
            flags.append(argument)
    others = parsed.config_path, parsed.config_name
    composes = not any(others) and not parsed.shell_completion
    added = [word for word in parsed.overrides if word.startswith("+") and "hydra" not in word]
    if added and not composes:  # Hydra itself refuses new keys, but for these
        refuse(f"{added[0]}: no key can be added to another configuration")
    words = as_written(parsed.overrides, parsed.multirun)
    config_dir = parsed.config_dir if composes else None
    if config_dir is not None:
        flags = _without_config_dir(flags)
    return Call(flags, words, parsed.multirun, composes, config_dir)


def _without_config_dir(flags: Sequence[str]) -> list[str]:
    left, following = [], iter(flags)
    for flag in following:
        name, equals, _ = flag.partition("=")
        if name not in ("--config-dir", "-cd"):
            left.append(flag)
        elif not equals:
            next(following)
    return left


def as_written(words: Sequence[str], sweeps: bool = False) -> list[str]:
    """Puts names and paths in quotes, in which Hydra leaves them as they are.

    Without, ``data.root=/videos/(2024)`` is no value of its grammar, and ``run_dir=2024`` is a
    number. ``null`` (or ``none``) stays null where the key may be, ``${...}`` refers to another
    key, and what is in quotes already is left alone.

    Args:
        words: ``key=value``; of other keys than names and paths they are not changed.
        sweeps: Whether commas separate the values of a sweep, and functions such as ``choice()``
            stand for several.
    """
    return [_quote(_addable(word), sweeps) for word in words]


def _addable(word: str) -> str:
    """The word with ``++`` before a key that is the user's own: Hydra adds no others."""
    bare = word.lstrip("+")
    return f"++{bare}" if opened_by(bare.partition("=")[0]) else word


def _quote(word: str, sweeps: bool) -> str:
    key, equals, value = word.partition("=")
    kind = KEYS.get(key.lstrip("+"))
    if not equals or kind is None or not kind.is_text:
        return word
    if kind.is_nested and value.startswith(("[", "{")):
        return word
    if re.fullmatch(rf"(?:{_QUOTED})(?:,(?:{_QUOTED}))*", value, re.DOTALL):
        return word
    several = sweeps and not key.startswith("hydra.")
    if several and _FUNCTION.match(value):
        return word
    parts = _PART.findall(value) if several else [value]
    return f"{key}={','.join(_quote_value(part, kind.fits(None)) for part in parts)}"


def _quote_value(value: str, may_be_null: bool) -> str:
    if may_be_null and value.lower() in ("null", "none"):
        return "null"
    if re.fullmatch(_QUOTED, value, re.DOTALL):
        return value
    return QuotedString(value, Quote.single).with_quotes()


def word_of(key: str, value: str) -> str:
    """The word that sets a key to a name or path: what `as_written` reads it from.

    Args:
        key: One whose kind is text.
        value: Any text; ``${`` in it is no reference. For a shell the word is to be quoted still.
    """
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    quoted = QuotedString(literal, Quote.single).with_quotes()
    is_plain = _quote(f"{key}={literal}", sweeps=False) == f"{key}={quoted}"
    return f"{key}={literal if is_plain else quoted}"


def in_shell(words: Iterable[str]) -> str:
    """``key=value`` words as they are written in a shell."""
    named = (word.partition("=") for word in words)
    return " ".join(f"{key}={shlex.quote(value)}" for key, _, value in named)


def parse_overrides(words: Sequence[str], sweeps: bool = False) -> list[Override]:
    """Hydra's overrides, parsed; names and paths are taken as they are written.

    Args:
        words: ``key=value``.
        sweeps: Whether they may have several values, as behind ``-m``.

    Raises:
        UserError: If one is not of that form, or has several values where it may not.
    """
    parser = OverridesParser.create()
    parsed = []
    for word, quoted in zip(words, as_written(words, sweeps)):
        key, equals, _ = word.partition("=")
        if word.startswith("~"):
            raise UserError(f"{word}: keys can be set, not removed")
        if not equals or not key:
            raise UserError(f"{word!r} is not of the form KEY=VALUE, e.g. optim.lr=1e-4")
        try:
            parsed.append(parser.parse_override(quoted))
        except HydraException:
            raise UserError(
                f"{word}: the value of {key} cannot be read. Characters such as ( ) [ ] {{ }} , = "
                f"and : mean something else unless they are in quotes: {key}='\"...\"' in a "
                "shell"
            ) from None
        if parsed[-1].is_sweep_override() and not sweeps:
            raise UserError(
                f"{word}: several values make a sweep, with a run for each: add -m to train.py"
            )
    return parsed


def values_of(override: Override) -> list[Any]:
    """The values of an override: one, those of a sweep, or both ends of an interval."""
    value = override.value()
    if not override.is_sweep_override():
        return [value]
    if isinstance(value, IntervalSweep):
        return [value.start, value.end]
    parser = OverridesParser.create()
    words = itertools.islice(override.sweep_string_iterator(), 1000)
    return [parser.parse_override(f"value={word}").value() for word in words]
