"""The configuration that a run has saved, in its folder or in a checkpoint: maybe a stranger's.

It holds plain, resolved values. Nothing in it is evaluated, and no code is imported because of it.
"""

import io
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vivit_train.config.keys import EXTRA, KEYS
from vivit_train.errors import UserError, in_one_line
from vivit_train.io.foreign import check_regular

# Saved configurations have about 100 values, 5 KB and 4 levels.
MOST_BYTES, MOST_VALUES, MOST_LEVELS = 2**20, 10_000, 20


def read_saved(path: Path) -> DictConfig:
    """Reads a run's config.yaml.

    Raises:
        UserError: If it is cut off, no YAML, or not a configuration.
    """
    return saved_config(read_values(path), str(path))


def read_values(path: Path) -> dict[str, Any]:
    """Reads the plain values of a config.yaml, whatever keys it has.

    Raises:
        UserError: If it is no YAML, or has a value that would have to be evaluated.
    """
    check_regular(path)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it is larger than {MOST_BYTES:,} bytes")
        text = path.read_text(encoding="utf-8")
        _check_events(text)
        content: Any = OmegaConf.load(io.StringIO(text)) if text.strip() else {}
        plain: Any = OmegaConf.to_container(content) if OmegaConf.is_config(content) else content
    except (OSError, ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        told = in_one_line(error)
        raise UserError(f"{path} cannot be read as a run's configuration: {told}") from None
    _check_plain(plain, str(path))
    return plain


def _check_events(text: str) -> None:
    """Refuses, before anything is built, what a few kilobytes can keep a reader busy with."""
    level = 0
    for event in yaml.parse(text):
        # A few lines of aliases stand for any number of values.
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has YAML aliases")
        level += isinstance(event, yaml.CollectionStartEvent)
        level -= isinstance(event, yaml.CollectionEndEvent)
        # Reading brackets within brackets takes time with the square of their number.
        if level > MOST_LEVELS:
            raise ValueError(f"it has more than {MOST_LEVELS} levels")


def saved_config(content: Any, origin: str) -> DictConfig:
    """The configuration of a run from its plain values.

    Args:
        content: As `to_plain` gave them when the run started.
        origin: The file, for messages.

    Raises:
        UserError: If it is something else, or has a value that would have to be evaluated.
    """
    _check_plain(content, origin)
    groups = {key.partition(".")[0] for key in KEYS if "." in key}
    wrong = sorted(name for name in groups & content.keys() if not isinstance(content[name], dict))
    for group, name in (("optim", "name"), ("data", "_target_")):
        value = content[group].get(name) if isinstance(content.get(group), dict) else None
        if not isinstance(value, str) or not value.replace(".", "_").isidentifier():
            wrong.append(f"{group}.{name}")
    if wrong:
        raise UserError(
            f"{origin} is not a run's configuration, or not a whole one: {', '.join(wrong)} is "
            "missing or something else than a run saves"
        )
    config = OmegaConf.create(content)
    assert isinstance(config, DictConfig)
    return config


def _check_plain(content: Any, origin: str) -> None:
    """Refuses all but nested dicts of plain values."""
    count = 0

    def check(value: Any, key: str, level: int) -> None:
        nonlocal count
        count += 1
        if count > MOST_VALUES or level > MOST_LEVELS:
            raise UserError(f"{origin} is not a run's configuration: it has too many values")
        if isinstance(value, dict):
            for name, part in value.items():
                if not isinstance(name, str):
                    raise UserError(f"{origin}: the key {name!r:.80} is not text")
                check(part, f"{key}.{name}" if key else name, level + 1)
        elif isinstance(value, list | tuple):
            for part in value:
                check(part, key, level + 1)
        elif isinstance(value, str) and ("${" in value or value == "???"):
            raise UserError(
                f"{origin}: {key}={value:.80} would have to be evaluated; a run saves plain "
                "values, and others are refused, as the file may be a stranger's"
            )
        elif not isinstance(value, str | int | float | None):
            raise UserError(f"{origin}: {key} is a {type(value).__name__}, not a plain value")

    if not isinstance(content, dict):
        raise UserError(f"{origin} is not a run's configuration but a {type(content).__name__}")
    check(content, "", 0)


def is_foreign(target: str) -> bool:
    """Whether a ``data._target_`` names a class outside of this package."""
    return not target.startswith("vivit_train.data.")


def check_target(config: DictConfig, names_data: bool) -> None:
    """Refuses to import what only a saved configuration names.

    Args:
        config: Saved by a run, with this call's overrides.
        names_data: Whether the overrides name ``data._target_`` or an option of ``data``.

    Raises:
        UserError: With the override to add if the user trusts the class.
    """
    target = config.data._target_
    if is_foreign(target) and not names_data:
        raise UserError(
            f"the data set of this run is the class {target}, outside of vivit-train, which would "
            "be imported and run. Its files may be a stranger's: if you trust the class, name it "
            f"yourself, data._target_={target}"
        )


def extra_targets(config: DictConfig) -> Iterator[tuple[str, str]]:
    """The classes of callbacks, loggers, and outside of torch of the optimiser and its schedule.

    Gives the key and the name of each.

    Args:
        config: Saved by a run.
    """
    for extra in EXTRA:
        parts = OmegaConf.select(config, extra)
        for name in map(str, parts) if isinstance(parts, DictConfig) else ():
            part = parts[name]
            if isinstance(part, DictConfig):
                yield f"{extra}.{name}._target_", str(part.get("_target_"))
    for name in ("optim", "optim.schedule"):
        part = OmegaConf.select(config, name)
        target = part.get("_target_") if isinstance(part, DictConfig) else None
        if target is not None and not str(target).startswith("torch.optim."):
            yield f"{name}._target_", str(target)


def check_extra(config: DictConfig, named: Collection[str]) -> None:
    """Refuses to import a class that only a saved configuration names, as `extra_targets` has it.

    Args:
        config: Saved by a run, with this call's overrides.
        named: The keys that the overrides set, and the groups of which they choose an option.

    Raises:
        UserError: With the override to add if the user trusts the class.
    """
    for key, target in extra_targets(config):
        if not {key, key.partition(".")[0]} & set(named):
            without = f"; to go on without it, {key.removesuffix('._target_')}=null"
            raise UserError(
                f"this run has {key}={target}, a class which would be imported and run. Its files "
                f"may be a stranger's: if you trust the class, name it yourself, {key}={target}"
                f"{without if key.startswith(EXTRA) else ''}"
            )
