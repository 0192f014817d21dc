"""Composing a configuration, changing a saved one, and catching typos."""

import copy
import difflib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vivit_train.errors import UserError

CONFIG_DIR = Path(__file__).parents[2] / "configs"


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """Hydra's overrides, parsed.

    Raises:
        UserError: If one is not of the form key=value.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise UserError(f"cannot read the overrides {' '.join(overrides)!r}: {error}") from None
    for override in parsed:
        if override.is_delete():
            raise UserError(f"{override.input_line}: keys can be set, not removed")
    return parsed


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """The configuration that ``train.py`` would run with these overrides, unresolved.

    Raises:
        UserError: If a group, option or key does not exist.
    """
    check_keys(overrides)
    return _compose(list(overrides))


def check_keys(overrides: Sequence[str]) -> None:
    """Refuses overrides of keys that do not exist, and values of the wrong kind.

    Hydra accepts any key behind a ``+`` and any kind of value; here every key that means
    anything is in the configuration already, so a new one is a typo.

    Args:
        overrides: ``key=value`` words of a command line, sweeps included.

    Raises:
        UserError: Naming the key and the nearest that exist.
    """
    parsed = parse_overrides(overrides)
    groups = [o for o in parsed if is_group(o)]
    base = _compose([o.input_line or "" for o in groups if not o.is_sweep_override()])
    for override in parsed:
        key = override.key_or_group
        if is_group(override) or key.split(".")[0] == "hydra":
            continue
        if not _has(base, key):
            known = list(_keys(base))
            # Compared as written and by the last part: trainer.epochs means trainer.max_epochs.
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.6)
            near += [k for k in known if k.endswith("." + key) and k not in near]
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise UserError(f"there is no key {key!r} in the configuration{hint}")
        if not override.is_sweep_override():
            _check_kind(override, OmegaConf.select(base, key))


def is_group(override: Override) -> bool:
    """Whether an override chooses an option of a config group."""
    return (CONFIG_DIR / override.key_or_group).is_dir() or override.key_or_group.startswith(
        "hydra/"
    )


def complete_config(saved: DictConfig) -> DictConfig:
    """The saved configuration of a run of any version, with the keys that this one has.

    What has been added since gets its default, by which a new key leaves things as they were. A
    key that is gone is left out, with a warning that names it and its value.

    Args:
        saved: A resolved configuration.

    Returns:
        The completed copy.
    """
    loggers = [name for name, settings in saved.get("logger", {}).items() if settings]
    # The demo, chosen by default, sets parts of other groups; data=video sets none.
    choices = ["data=video", f"optim={saved.optim.name}", f"logger={(loggers or ['csv'])[0]}"]
    config = _compose(choices)
    OmegaConf.set_struct(config, False)
    data = _data_option(saved.data._target_)
    config.data.merge_with(data or {})
    # What an experiment or a data set of one's own may add to.
    open_groups = ("trainer.", "logger.") if data else ("trainer.", "logger.", "data.")
    gone = []
    for key in _keys(saved):
        value = OmegaConf.select(saved, key)
        if _has(config, key) or key.startswith(open_groups):
            OmegaConf.update(config, key, value, merge=False, force_add=True)
        else:
            gone.append(f"{key}={value}")
    if gone:
        print(
            "warning: the run's configuration is of another version; without meaning in this one: "
            f"{', '.join(gone)}",
            file=sys.stderr,
        )
    return config


def _data_option(target: str) -> DictConfig | None:
    """What a data set's option adds to the group data; options of one class have the same keys."""
    for path in sorted((CONFIG_DIR / "data").glob("*.yaml")):
        option: Any = OmegaConf.load(path)
        option = option.get("data", option)
        option.pop("defaults", None)
        if option._get_node("_target_")._value() == target:
            return option
    return None


def override_config(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Applies command-line overrides to the saved configuration of a run.

    A chosen group replaces that part as a whole; a value replaces a value.

    Args:
        config: A resolved configuration.
        overrides: ``key=value`` words.

    Returns:
        The changed copy.

    Raises:
        UserError: If a key does not exist.
    """
    parsed = parse_overrides(overrides)
    groups = {o.key_or_group: o.input_line or "" for o in parsed if is_group(o)}
    config = copy.deepcopy(config)
    if groups:
        for group, word in groups.items():
            if group not in config:
                raise UserError(f"{word} makes a new configuration; a saved one has no such part")
        # The demo, chosen by default, sets parts of other groups; data=video sets none.
        composed = _compose([*({"data": "data=video"} | groups).values()])
        for group in groups:
            # Against the saved model and the like, not against the defaults.
            part = OmegaConf.to_container(composed[group], resolve=False)
            config[group] = OmegaConf.create({**config, group: part})[group]
    for override in parsed:
        key = override.key_or_group
        if is_group(override):
            continue
        if not _has(config, key):
            near = difflib.get_close_matches(key, list(_keys(config)), n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise UserError(f"there is no key {key!r} in the configuration{hint}")
        _check_kind(override, OmegaConf.select(config, key))
        OmegaConf.update(config, key, override.value(), force_add=False)
    return config


def to_plain(config: DictConfig) -> dict[str, Any]:
    """A resolved configuration of plain dicts, lists, strings and numbers.

    Raises:
        UserError: If a value refers to something that does not exist.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(f"the configuration cannot be resolved: {error}") from None
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _compose(overrides: list[str]) -> DictConfig:
    if not CONFIG_DIR.is_dir():
        raise UserError(f"{CONFIG_DIR} does not exist: run from a clone of the repository")
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            return compose("train", overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(str(error).strip()) from None


def _has(config: DictConfig, key: str) -> bool:
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in node:
            return False
        node = node._get_node(part)
    return True


def _keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in map(str, config):
        node = config._get_node(key)
        if isinstance(node, DictConfig) and node._value() is not None:
            yield from _keys(node, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _check_kind(override: Override, current: Any) -> None:
    """A number stays a number and a switch a switch; null and references are always allowed."""
    value = override.value()
    refers = isinstance(value, str) and "${" in value
    if value is None or refers or current is None or isinstance(current, str | DictConfig):
        return
    if isinstance(current, bool):
        fits, kind = isinstance(value, bool), "true or false"
    elif isinstance(current, int | float):
        # Some numbers may be lists (an image size) or words of Lightning's (devices: auto).
        fits = not isinstance(value, bool | str)
        kind = "a number"
    else:
        fits, kind = not isinstance(value, str | bool), "a list, e.g. [2,16,16]"
    if not fits:
        raise UserError(f"{override.input_line}: expected {kind}; without it, it is {current}")
