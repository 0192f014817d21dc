"""Every key is described, every description is of a key, and what fits can be built from."""

import contextlib
import copy
import functools
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf

from tests.conftest import REPOSITORY
from vivit_train.build import build_data, build_trainer
from vivit_train.callbacks.non_finite import ACTIONS
from vivit_train.config import compose_config, override_config, to_plain
from vivit_train.config.keys import KEYS, in_words, misfits, refusal
from vivit_train.errors import UserError
from vivit_train.model import arguments
from vivit_train.model.arguments import arguments_in
from vivit_train.model.layers import ACTIVATIONS
from vivit_train.model.vivit import ViViT
from vivit_train.model.weights import inflate
from vivit_train.optim import OPTIMIZERS, build_optimizer, freeze
from vivit_train.transforms.augment import Augment
from vivit_train.transforms.processor import Processor
from vivit_train.transforms.rand_augment import OPERATION_SETS
from vivit_train.transforms.settings import RESAMPLE
from vivit_train.video.decode import DECODERS
from vivit_train.video.sampling import FRAME_ORDERS

CONFIGS = REPOSITORY / "configs"
TINY = (
    "model.image_size=16", "model.num_frames=4", "model.hidden_size=16", "model.num_layers=1",
    "model.num_heads=2", "model.mlp_size=16", "data.num_workers=0", "trainer.accelerator=cpu",
)  # fmt: skip
VALUES = [
    None, 0, -1, 1, 2, 3, 1.5, 0.5, -0.5, 1e-9, math.nan, math.inf, -math.inf, 10**12, 1e300, True,
    False, "", "word", "1", "null", "a\0b", [], [1], [1, 2], [2, 1], [0.1, 0.2], [1, 2, 2],
    [1.5, 1], [None], ["a"], [["a", "b"]], [[1, 2]], [True, 1], {}, {"a": 1}, {"a": "b"},
    {"hours": 1}, {1: 2},
]  # fmt: skip


def leaves(part: dict[str, Any], prefix: str = "") -> set[str]:
    """The keys of a configuration; a mapping that is described as one value is one."""
    found = set()
    for name, value in part.items():
        key = f"{prefix}{name}"
        nested = isinstance(value, dict) and any(k.startswith(f"{key}.") for k in KEYS)
        found |= leaves(value, f"{key}.") if nested else {key}
    return found


@functools.cache
def _composed(*words: str) -> dict[str, Any]:
    return to_plain(compose_config(words), needs_weights=False)


def composed(*words: str) -> dict[str, Any]:
    return copy.deepcopy(_composed(*words))


def written(path: Path) -> set[str]:
    """The keys that a file of configs/ sets."""
    content = yaml.safe_load(path.read_text())
    content.pop("defaults", None)
    folder = path.parent.relative_to(CONFIGS).as_posix().replace("/", ".")
    is_global = path.read_text().startswith("# @package _global_") or folder == "."
    return leaves(content, "" if is_global else f"{folder}.")


def test_every_key_is_described_and_every_description_is_of_a_key() -> None:
    files = sorted(CONFIGS.rglob("*.yaml"))
    assert len(files) > 50
    keys = set().union(*(written(path) for path in files))
    hydras = {key for key in keys if re.match(r"hydra\.(help|run|output_subdir|sweep.subdir)", key)}
    assert keys - hydras == set(KEYS)


BASES = (
    ("data=demo", "data.root=x", "optim=adamw", "logger=wandb"),
    ("data=webdataset", "data.root=x", "optim=sgd", "logger=tensorboard"),
    ("data=folder", "data.root=x"),
    ("data=csv", "data.root=x", "optim=torch", "logger=mlflow"),
    ("data=ucf101", "data.root=x"),
)


def base_of(key: str) -> dict[str, Any]:
    """A configuration that has the key."""
    for words in BASES:
        plain = composed(*words, *TINY)
        if key in leaves(plain):
            return plain
    raise AssertionError(key)


def put(plain: dict[str, Any], key: str, value: Any) -> None:
    *groups, name = key.split(".")
    for group in groups:
        plain = plain[group]
    plain[name] = value


OURS = [
    key
    for key in KEYS
    if not key.startswith("hydra.")
    and key not in ("logger.wandb", "logger.tensorboard", "logger.mlflow", "data._target_")
]


@pytest.mark.parametrize("key", OURS)
def test_every_value_is_refused_in_a_line_or_can_be_built_from(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    base = base_of(key)
    assert (
        refusal(key, functools.reduce(lambda part, name: part[name], key.split("."), base)) is None
    )
    for value in VALUES:
        told = refusal(key, value)
        if told is not None:
            assert len(f"{key}={in_words(value)}: {told}".splitlines()) == 1
            continue
        plain = copy.deepcopy(base)
        put(plain, key, value)
        # Refused is what several keys must have in common, or what this machine lacks.
        with contextlib.suppress(UserError, MisconfigurationException):
            build(plain, key.split(".")[0], tmp_path)


def build(plain: dict[str, Any], group: str, folder: Path) -> None:
    """Builds what reads a group of the configuration."""
    if group == "model":
        arguments = arguments_in(plain["model"])
        with torch.device("meta"):
            ViViT(num_classes=3, **arguments)
    elif group in ("processor", "augment"):
        Augment(Processor.from_config(plain["processor"]), **plain["augment"])
    elif group == "data":
        build_data(plain)
    elif group == "optim":
        model = arguments_in(plain["model"])
        vivit = ViViT(num_classes=3, **model)
        freeze(vivit, plain["optim"]["freeze"], plain["optim"]["lora_rank"])
        build_optimizer(vivit, plain["optim"])
    else:
        build_trainer(plain, folder)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(OURS), st.sampled_from(VALUES))
def test_a_changed_run_is_refused_in_a_line_or_resolves(key: str, value: Any) -> None:
    """The words of a command line on a saved configuration: what resume and evaluate take."""
    saved = OmegaConf.create(base_of(key))
    words = [f"{key}={in_words(value)}"]
    plain = told = None
    try:
        plain = to_plain(override_config(saved, words))
    except UserError as error:
        told = str(error)
    assert len(told.splitlines()) == 1 if told else list(misfits(plain or {})) == []


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("data.frame_stride", 1.5, "expected a whole number, 1 to 10,000"),
        ("data.eval_views", [2.5, 1], "expected a list [temporal, spatial]"),
        ("data.batch_size", None, "expected a whole number"),
        ("optim.lr", [1, 2], "expected a number at least 0"),
        ("optim.lr", math.nan, "expected a number at least 0"),
        ("optim.betas", [0.9, 1.0], "expected a list of 2, each a number at least 0 and below 1"),
        ("augment.brightness", None, "expected a number at least 0 and at most 1"),
        ("augment.scale_jitter", [1.3, 0.9], "0 < smallest <= largest"),
        ("trainer.strategy", None, "expected a name"),
        ("trainer.max_time", 5, "expected a time in quotes as DD:HH:MM:SS"),
        ("trainer.max_epochs", None, "expected a whole number, 1 or more, or -1 for no limit"),
        ("trainer.max_steps", 0, "or -1 for no limit (`vivit evaluate` tests a model without"),
        ("trainer.max_epochs", 0, "`vivit evaluate` tests a model without training it"),
        ("trainer.limit_train_batches", 0, "`vivit evaluate` tests a model without training it"),
        ("trainer.val_check_interval", "00:01:00:00", "expected a whole number, 1 or more, or"),
        ("trainer.devices", [], "a list of 1 or more"),
        ("model.from_image", 3, "expected a mapping with the keys inflation, positions"),
        ("model.from_image", {"inflation": "x"}, "model.from_image.inflation=x: expected central"),
        ("optim", 3, "expected a mapping with the keys name, lr"),
        ("logger.wandb", True, "logger=wandb"),
        ("run_dir", "a\0b", "expected a path"),
        ("name", "..", "expected a name, without .. in its path"),
        ("model.name", "a/../../b", "expected a name, without .. in its path"),
    ],
)
def test_refusals(key: str, value: Any, told: str) -> None:
    assert told in (refusal(key, value) or "")


def test_keys_that_are_not_ours_take_anything() -> None:
    mine = {"data": {"_target_": "mine.Data", "depth": [1]}, "trainer": {"overfit_batches": 2}}
    assert list(misfits(mine)) == []


@pytest.mark.parametrize(
    ("key", "choices"),
    [
        ("model.attention", arguments.ATTENTIONS),
        ("model.attention_order", (*arguments.ATTENTION_ORDERS, None)),
        ("model.pooling", arguments.CHOICES["pooling"]),
        ("model.activation", ACTIVATIONS),
        ("model.drop_path_style", arguments.CHOICES["drop_path_style"]),
        ("model.attention_implementation", arguments.CHOICES["attention_implementation"]),
        *((f"model.from_image.{name}", words) for name, words in inflate.CHOICES.items()),
        ("data.frame_order", FRAME_ORDERS),
        ("data.decoder", DECODERS),
        ("processor.resample", [*RESAMPLE, *RESAMPLE.values(), None]),
        ("augment.rand_augment_operations", OPERATION_SETS),
        ("optim.name", OPTIMIZERS),
        ("callbacks.non_finite", ACTIONS),
    ],
)
def test_choices_are_those_of_the_code(key: str, choices: Iterable[Any]) -> None:
    """Which cannot be imported where keys are described: it would take seconds."""
    told = re.split(r", or |, | or ", KEYS[key].expected)
    assert sorted(told) == sorted("null" if word is None else str(word) for word in choices)
