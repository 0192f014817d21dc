"""Composing a configuration, changing a saved one, and refusing words that do not fit."""

import copy
import difflib
import functools
import itertools
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vivit_train.config.folders import CONFIG_DIR, options_of, own_config_dir
from vivit_train.config.keys import KEYS, in_words, misfits, opened_by, refusal
from vivit_train.config.plain import resolve
from vivit_train.config.saved import check_target, is_foreign
from vivit_train.config.words import parse_overrides, values_of
from vivit_train.errors import UserError, in_one_line
from vivit_train.io.files import user_path
from vivit_train.io.terminal import say

_DEMO = "vivit_train.data.demo.Demo"


def compose_config(overrides: Sequence[str], sweeps: bool = False) -> DictConfig:
    """The configuration that ``train.py`` would run with these overrides, unresolved.

    Hydra accepts any key behind a ``+`` and any value; here every key that means anything is in
    the configuration already, so a new one is a typo.

    Args:
        overrides: ``key=value`` words of a command line.
        sweeps: Whether they may have several values, as behind ``-m``. All of them are checked,
            and the first is in the result.

    Raises:
        UserError: Naming the key that does not exist and the nearest that do, or the value that
            its key does not take.
    """
    parsed = parse_overrides(overrides, sweeps)
    groups = [override for override in parsed if is_group(override)]
    for group in groups:
        _check_option(group)
    config = compose_options([first_word(group) for group in groups])
    _check_files(config)
    defaults = copy.deepcopy(config)
    ours = [o for o in parsed if not is_group(o) and not o.key_or_group.startswith("hydra.")]
    for override in [*ours, *parse_overrides(replaced(parsed))]:
        key = override.key_or_group
        _check_key(config, key)
        if override.is_add():  # which Hydra refuses
            raise UserError(f"{override.input_line}: the key exists, write it without the +")
        first, *others = values_of(override)
        for value in others:
            _check_value(key, value, defaults)
        _set(config, key, first)
    _check_demo(config, defaults, parsed)
    _check_values(config, defaults)
    return config


def replaced(overrides: Sequence[Override]) -> list[str]:
    """The words that unset what a user's word replaces: of these keys one says how clips are taken.

    Args:
        overrides: The user's; of a sweep's word the first value counts.

    Returns:
        ``key=value`` words to add; none where the user's have no need of any.

    Raises:
        UserError: If two of them contradict each other.
    """
    keys = ("data.frame_stride", "data.frame_rate", "data.clip_seconds", "data.sampling")
    given = {o.key_or_group: values_of(o)[0] for o in overrides if o.key_or_group in keys}
    chosen = [f"{key}={value}" for key, value in given.items() if value not in (None, "window")]
    if len(chosen) > 1:
        raise UserError(
            f"{' and '.join(chosen)} contradict each other: give one of {', '.join(keys[:3])} and "
            "data.sampling=whole"
        )
    others = {**dict.fromkeys(keys, "null"), "data.sampling": "window"} if chosen else {}
    return [f"{key}={value}" for key, value in others.items() if key not in given]


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
    logger = saved.get("logger", {})
    loggers = [name for name in ("wandb", "tensorboard", "mlflow") if logger.get(name)]
    # The demo, chosen by default, sets parts of other groups; data=video sets none.
    choices = ["data=video", f"optim={saved.optim.name}", f"logger={(loggers or ['csv'])[0]}"]
    config = compose_options(choices)
    OmegaConf.set_struct(config, False)
    data = _data_option(saved.data._target_)
    config.data.merge_with(data or {})
    # What an experiment or a data set of one's own may add to.
    open_groups = ("trainer.", "logger.") if data else ("trainer.", "logger.", "data.")
    gone = []
    for key in _keys(saved):
        value = OmegaConf.select(saved, key)
        if _has(config, key) or opened_by(key) or key.startswith(open_groups):
            OmegaConf.update(config, key, value, merge=False, force_add=True)
        else:
            gone.append(f"{key}={value}")
    if gone:
        say(
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
        UserError: If a key does not exist, or the data set's class is outside of this package
            and the overrides do not name it.
    """
    parsed = parse_overrides(overrides)
    for override in parsed:
        if is_group(override):
            _check_option(override)
    groups = {o.key_or_group: o.input_line or "" for o in parsed if is_group(o)}
    config = copy.deepcopy(config)
    if groups:
        for group, word in groups.items():
            if group not in config:
                raise UserError(f"{word} makes a new configuration; a saved one has no such part")
        # The demo, chosen by default, sets parts of other groups; data=video sets none.
        composed = compose_options([*({"data": "data=video"} | groups).values()])
        for group in groups:
            # Against the saved model and the like, not against the defaults.
            part = OmegaConf.to_container(composed[group], resolve=False)
            config[group] = OmegaConf.create({**config, group: part})[group]
    saved = copy.deepcopy(config)
    for override in [*parsed, *parse_overrides(replaced(parsed))]:
        if not is_group(override):
            _check_key(config, override.key_or_group)
            _set(config, override.key_or_group, override.value())
    _check_demo(config, saved, parsed)
    _check_values(config, saved)
    named = {override.key_or_group for override in parsed}
    check_target(config, names_data=not named.isdisjoint(("data", "data._target_")))
    return config


def compose_options(overrides: Sequence[str], hydras: bool = False) -> DictConfig:
    """What Hydra composes, with its own part where ``hydras``.

    Raises:
        UserError: In Hydra's words.
    """
    words, own = list(overrides), own_config_dir()
    if own is not None:  # what Hydra's own --config-dir does
        words.append(
            f"hydra.searchpath=[{QuotedString(f'file://{own}', Quote.single).with_quotes()}]"
        )
    if own is not None or hydras:  # files of the user; the working directory
        return _composed(str(CONFIG_DIR), tuple(words), hydras)
    return copy.deepcopy(_composed_once(str(CONFIG_DIR), tuple(words)))


def _composed(folder: str, words: tuple[str, ...], hydras: bool = False) -> DictConfig:
    if not os.path.isdir(folder):
        raise UserError(f"{folder} does not exist: run from a clone of the repository")
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(folder, version_base="1.3"):
            return compose("train", list(words), return_hydra_config=hydras)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(in_one_line(error)) from None


# Hydra takes a tenth of a second, and a run composes at its start and for its report.
_composed_once = functools.cache(_composed)


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


def first_word(override: Override) -> str:
    """The word of an override, of a sweep with its first value."""
    if not override.is_sweep_override():
        return override.input_line or ""
    return f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"


def _check_option(group: Override) -> None:
    """Refuses an option that a group does not have."""
    options = options_of(group.key_or_group)
    if options and (group.package is not None or group.is_add() or group.is_force_add()):
        raise UserError(
            f"{group.input_line}: every group is there once, and an option of it is chosen as "
            f"{group.key_or_group}=OPTION"
        )
    for value in values_of(group) if options else ():  # others are of a plugin of Hydra's
        for name in value if isinstance(value, list) else [value]:
            if name is None and group.key_or_group in ("experiment", "debug"):
                continue
            if name not in options:
                near = difflib.get_close_matches(str(name), options, n=3)
                hint = f"; did you mean {' or '.join(near)}?" if near else "."
                raise UserError(
                    f"{group.key_or_group}={in_words(name)}: there is no such option{hint} There "
                    f"are {', '.join(options)}"
                )


def _check_files(config: DictConfig) -> None:
    """Refuses keys that a configuration file adds and nothing takes, naming the nearest that do.

    A data set of one's own may have keys of its own, and so may Lightning's trainer and loggers.
    """
    open_groups: tuple[str, ...] = ("trainer.", "logger.")
    if is_foreign(str(OmegaConf.select(config, "data._target_"))):
        open_groups += ("data.",)
    for key in _keys(config):
        named = itertools.accumulate(key.split("."), "{}.{}".format)
        if not key.startswith(open_groups) and not any(name in KEYS for name in named):
            raise UserError(
                f"a configuration file sets {key}, and there is no such key{_nearest(key, KEYS)}"
            )


def _check_key(config: DictConfig, key: str) -> None:
    """Refuses a key that does not exist, naming the nearest that do."""
    if not _has(config, opened_by(key) or key):
        hint = _nearest(key, list(_keys(config)))
        raise UserError(f"there is no key {key!r} in the configuration{hint}")


def _nearest(key: str, known: Collection[str]) -> str:
    """The end of a sentence: keys that may be meant."""
    # Compared as written and by the last part: trainer.epochs means trainer.max_epochs.
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.6)
    near += [k for k in known if k.endswith("." + key) and k not in near]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _set(config: DictConfig, key: str, value: Any) -> None:
    if isinstance(value, Mapping) and isinstance(OmegaConf.select(config, key), DictConfig):
        for name, part in value.items():
            _check_key(config, f"{key}.{name}")
            _set(config, f"{key}.{name}", part)
        return
    try:
        OmegaConf.update(config, key, value, force_add=opened_by(key) is not None)
    except OmegaConfBaseException as error:
        raise UserError(f"{key}={in_words(value)}: {in_one_line(error)}") from None


def _check_values(config: DictConfig, defaults: DictConfig) -> None:
    """Refuses values that their keys do not take, also where they are another key's."""
    for key, value, _ in misfits(resolve(config)):
        _check_value(key, value, defaults)


def _check_value(key: str, value: Any, defaults: DictConfig) -> None:
    told = None if isinstance(value, str) and "${" in value else refusal(key, value)
    if told:
        default = OmegaConf.select(defaults, key, throw_on_missing=False)
        without = "" if default is None else f"; without it, it is {in_words(_plain(default))}"
        raise UserError(f"{key}={in_words(value)}: {told}{without}")


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _check_demo(config: DictConfig, before: DictConfig, overrides: Sequence[Override]) -> None:
    """Refuses ``data.root`` alone, which would have the demo write its clips to a user's folder."""
    named = {override.key_or_group for override in overrides}
    root = OmegaConf.select(config, "data.root")
    if (
        OmegaConf.select(config, "data._target_") == _DEMO
        and not named & {"data", "experiment"}
        and root not in (None, OmegaConf.select(before, "data.root"))
        and not (user_path(str(root)) / "demo.json").is_file()
    ):
        raise UserError(
            f"data.root={root}: no data set is named, and the demo, which is the default, writes "
            "clips of its own there. To use the videos in that folder add data=folder (or csv, "
            "kinetics400, ...); to have the demo written there add data=demo"
        )
