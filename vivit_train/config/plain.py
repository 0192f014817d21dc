"""A composed configuration as plain values, and what must hold between them."""

import os
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vivit_train.config.keys import AUTO, KEYS, in_words, misfits
from vivit_train.errors import UserError, in_one_line
from vivit_train.io.terminal import is_rank_zero, say

# What a recipe has for model.pretrained that is to be given: Hydra merges no ??? over a null.
REQUIRED = "required"
# Paths that are read, and count from the working directory where they are relative.
FROM_THE_START = (
    "model.pretrained", "data.root", "data.verdicts", "data.index_dir", "augment.flip_labels",
)  # fmt: skip


def to_plain(config: DictConfig, needs_weights: bool = True) -> dict[str, Any]:
    """A resolved configuration of plain dicts, lists, strings and numbers.

    A leading ``~`` of a path becomes the home directory, and a monitor that is left open the score
    of the task.

    Args:
        config: Composed, or saved by a run.
        needs_weights: Whether to refuse a recipe that starts from pretrained weights where none
            are named; otherwise ``model.pretrained`` is then ``None``.

    Raises:
        UserError: If a value is missing, refers to something that does not exist, or is not one
            that its key takes.
    """
    plain = resolve(config)
    model = plain.get("model", {})
    if model.get("pretrained") == REQUIRED:
        if needs_weights:
            raise UserError(
                "model.pretrained is not set, and this recipe starts from pretrained weights: give "
                "a file, a folder or a hub id (the head of its file in configs/experiment/ says of "
                "which model), or model.pretrained=none to start from scratch"
            )
        model["pretrained"] = None
    for key, value, told in misfits(plain):
        raise UserError(f"{key}={in_words(value)}: {told}")
    callbacks = plain.get("callbacks", {})
    if callbacks.get("monitor", "") is None:
        callbacks["monitor"] = "val/map" if plain["data"].get("multi_label") else "val/top1"
    return _with_home(plain)


def resolve(config: DictConfig) -> dict[str, Any]:
    """Plain values, references resolved."""
    data = config.get("data")
    if isinstance(data, DictConfig) and OmegaConf.is_missing(data, "_target_"):
        raise UserError(
            "data=video only holds what all data sets have in common: choose one of them, e.g. "
            "data=folder"
        )
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(f"the configuration cannot be resolved: {in_one_line(error)}") from None
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _with_home(part: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The same with ``~`` expanded in paths."""
    expanded = {}
    for name, value in part.items():
        kind = KEYS.get(f"{prefix}{name}")
        if isinstance(value, Mapping):
            value = _with_home(value, f"{prefix}{name}.")
        elif kind is not None and kind.is_path and isinstance(value, str):
            value = os.path.expanduser(value)
        expanded[name] = value
    return expanded


def from_here(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration whose paths lead to the same files from the working directory.

    A relative path that leads nowhere from here counts from the folder where the run was started,
    and is printed.

    Args:
        config: Plain; of a new run, or saved by one.

    Returns:
        The same, started here.
    """
    found: dict[str, Any] = dict(config)
    for key in FROM_THE_START:
        group, _, name = key.partition(".")
        value, start = config[group].get(name), config.get("started_in")
        if not isinstance(value, str) or value == AUTO or start is None or os.path.exists(value):
            continue
        there = os.path.join(start, value)
        if os.path.exists(there):
            found[group] = found[group] | {name: there}
            if is_rank_zero():
                say(f"{key}={value} is not here: {there}, seen from where the run was started")
    return found | {"started_in": os.getcwd()}


def check_schedule(config: Mapping[str, Any]) -> None:
    """Refuses a warm-up that does not end before ``trainer.max_epochs``.

    Where ``trainer.max_steps`` ends the run, or a value is ``auto``, this depends on the data.

    Args:
        config: Of a run, composed or resolved.

    Raises:
        UserError: With the arithmetic.
    """
    epochs, warmup = config["trainer"]["max_epochs"], config["optim"]["warmup_epochs"]
    if AUTO not in (epochs, warmup) and epochs > 0:
        check_warmup(warmup, epochs, f"trainer.max_epochs={epochs}")


def check_lora(config: Mapping[str, Any]) -> None:
    """Refuses LoRA beside weights that nothing has trained.

    Args:
        config: Of a run, composed or resolved.

    Raises:
        UserError: If no pretrained weights are named.
    """
    rank = config["optim"]["lora_rank"]
    if rank is not None and config["model"]["pretrained"] is None:
        raise UserError(
            f"optim.lora_rank={rank} trains small matrices beside frozen weights, and without "
            "model.pretrained these would be random: name weights to start from, or train all of "
            "the model, optim.lora_rank=null"
        )


def check_warmup(warmup_epochs: float, epochs: float, end: str) -> None:
    """Refuses a warm-up of the learning rate that does not end before the run.

    Args:
        warmup_epochs: Length of the warm-up.
        epochs: Length of the run.
        end: What ends the run, for the message.

    Raises:
        UserError: With the arithmetic.
    """
    if warmup_epochs and warmup_epochs >= epochs:
        raise UserError(
            f"optim.warmup_epochs={warmup_epochs:g}: the run ends after {epochs:.4g} epochs "
            f"({end}), and the warm-up must end before: give less than {epochs:.4g}, e.g. "
            f"optim.warmup_epochs={epochs / 10:.2g}, or 0 for none"
        )
