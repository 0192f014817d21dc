"""Which keys a command of `vivit` uses: any other override is refused, not ignored."""

from collections.abc import Sequence

from vivit_train.config.folders import CONFIG_DIR
from vivit_train.config.words import parse_overrides
from vivit_train.errors import UserError


def check_used(command: str, overrides: Sequence[str], uses: Sequence[str]) -> None:
    """Refuses the overrides that a command has no use for.

    Args:
        command: The command's name.
        overrides: ``key=value`` words.
        uses: See `is_used`.

    Raises:
        UserError: Naming all of them.
    """
    unused = [
        word
        for word, override in zip(overrides, parse_overrides(overrides), strict=True)
        if not is_used(override.key_or_group, uses)
    ]
    if unused:
        known = ", ".join(key for key in uses if not key.startswith("-"))
        without = [key[1:] for key in uses if key.startswith("-")]
        known += f", without {', '.join(without)}" if without else ""
        raise UserError(
            f"vivit {command} does not use {', '.join(unused)}: leave that out. It uses {known}"
        )


def is_used(key: str, uses: Sequence[str]) -> bool:
    """Whether a key or group is among those that a command uses.

    Args:
        key: Such as ``optim.lr``; or a group, which counts if one of its keys does.
        uses: Keys, and groups for all keys in them; with ``-`` before it, a key that is not used
            although its group is.
    """
    if (CONFIG_DIR / key).is_dir():
        return any(f"{name}.".startswith(f"{key}.") for name in uses)
    names = [name for name in uses if f"{key}.".startswith(f"{name.removeprefix('-')}.")]
    return bool(names) and not max(names, key=lambda n: len(n.removeprefix("-"))).startswith("-")
