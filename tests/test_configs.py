"""Every choice in configs/ composes, says what the code takes, and builds."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import get_class
from lightning import Trainer

from tests.conftest import REPOSITORY
from vivit_train.config import compose_config, to_plain
from vivit_train.data.datamodule import VideoDataModule
from vivit_train.loggers import build_loggers
from vivit_train.model.vivit import ViViT
from vivit_train.optim import build_optimizer
from vivit_train.transforms.augment import Augment
from vivit_train.transforms.processor import Processor

CONFIGS = REPOSITORY / "configs"
# The backbones' hidden_size, num_layers, num_heads, mlp_size: ViT and DeiT, ViViT section 4.1.
SIZES = {
    "vivit_ti": (192, 12, 3, 768),
    "vivit_s": (384, 12, 6, 1536),
    "vivit_b": (768, 12, 12, 3072),
    "vivit_l": (1024, 24, 16, 4096),
    "vivit_h": (1280, 32, 16, 5120),
}


def options(group: str) -> list[str]:
    found = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
    assert found
    return found


def composed(*words: str) -> dict[str, Any]:
    return to_plain(compose_config(list(words)))


def parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """Arguments of a constructor with their defaults, ``...`` where there is none."""
    plain = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not parameter.VAR_KEYWORD:
            default = parameter.default
            default = list(default) if isinstance(default, tuple) else default
            plain[name] = ... if default is parameter.empty else default
    return plain


def test_groups() -> None:
    found = sorted(path.name for path in CONFIGS.iterdir() if path.is_dir())
    assert found == [
        "augment", "callbacks", "data", "experiment", "logger", "model", "optim", "processor",
        "trainer",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("group", "option"),
    [
        (folder.name, path.stem)
        for folder in sorted(CONFIGS.iterdir())
        if folder.is_dir()
        for path in sorted(folder.glob("*.yaml"))
        if path.stem != "video"  # no choice by itself
    ],
)
def test_every_option_composes(group: str, option: str) -> None:
    plain = composed(f"{group}={option}")
    assert set(plain) == {
        "augment", "callbacks", "ckpt_path", "data", "logger", "model", "name", "optim",
        "processor", "run_dir", "seed", "trainer",
    }  # fmt: skip
    if group in ("model", "optim", "data"):
        assert plain[group]["name"] == option
    assert plain["name"] == f"{plain['model']['name']}_{plain['data']['name']}"
    assert plain["data"]["clip_frames"] == plain["model"]["num_frames"]
    assert plain["processor"]["crop_size"] == plain["model"]["image_size"]
    assert plain["trainer"]["num_sanity_val_steps"] == 0


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: path.stem)
def test_every_file_begins_with_what_it_is(path: Path) -> None:
    lines = path.read_text().splitlines()
    head = next(line for line in lines if not line.startswith("# @package"))
    assert head.startswith("# ") or path.parent.name == "callbacks"


def test_experiments_change_what_they_name() -> None:
    plain = composed("experiment=vivit_b_k400", "data.root=/k400")
    assert (plain["model"]["name"], plain["data"]["name"]) == ("vivit_b", "kinetics400")
    assert (plain["optim"]["name"], plain["optim"]["lr"]) == ("sgd", 0.1)
    assert (plain["trainer"]["max_epochs"], plain["data"]["batch_size"]) == (30, 8)


def test_a_value_on_the_command_line_wins_over_what_a_data_set_sets() -> None:
    epochs = [composed(f"data={name}")["trainer"]["max_epochs"] for name in ("demo", "folder")]
    assert epochs[0] < epochs[1] == 30  # the demo sets its own
    plain = composed("trainer.max_epochs=77", "optim.lr=0.5")
    assert (plain["trainer"]["max_epochs"], plain["optim"]["lr"]) == (77, 0.5)
    plain = composed("experiment=vivit_b_k400", "trainer.max_epochs=3")
    assert plain["trainer"]["max_epochs"] == 3


@pytest.mark.parametrize("option", options("model"))
def test_models_build(option: str) -> None:
    """On the meta device: shapes without memory."""
    arguments = composed(f"model={option}")["model"]
    assert arguments.pop("name") == option
    assert arguments.pop("pretrained") is None
    with torch.device("meta"):
        model = ViViT(num_classes=400, **arguments)
        size = arguments["image_size"]
        logits = model.eval()(torch.empty(1, 3, arguments["num_frames"], size, size))
    assert logits.shape == (1, 400)
    if option == "vivit_demo":
        return
    d, layers, heads, mlp = SIZES[option]
    assert arguments["num_heads"] == heads
    tokens = 16 * 14 * 14
    attention, mlps, norms = 4 * d * d + 4 * d, 2 * d * mlp + mlp + d, 4 * d
    embedding = 2 * 16 * 16 * 3 * d + d + d + (tokens + 1) * d  # tubelets, class token, positions
    by_hand = embedding + layers * (attention + mlps + norms) + 2 * d + (d + 1) * 400
    assert sum(parameter.numel() for parameter in model.parameters()) == by_hand
    if option == "vivit_b":
        assert by_hand == 88_954_000  # the 89.0 M of the original


def test_the_models_keys_are_the_constructors() -> None:
    written = yaml.safe_load((CONFIGS / "model/vivit_b.yaml").read_text())
    del written["name"], written["pretrained"]
    expected = parameters(ViViT)
    assert expected.pop("num_classes") is ...
    assert written == expected


def test_the_processors_keys_are_the_constructors() -> None:
    """And the configuration's values for a model of 224 pixels are its defaults."""
    written = composed("model=vivit_b")["processor"]
    assert written == parameters(Processor)
    assert Processor(**written).settings() == Processor().settings()
    theirs = composed("model=vivit_b", "processor=huggingface")["processor"]
    assert Processor(**theirs).settings() == Processor.from_huggingface({}).settings()


def test_the_augmentations_keys_are_the_constructors() -> None:
    expected = parameters(Augment)
    assert expected.pop("processor") is ...
    assert composed("augment=basic")["augment"] == expected


@pytest.mark.parametrize("option", options("augment"))
def test_augmentations_build(option: str) -> None:
    processor = Processor(size=18, crop_size=16)
    augment = Augment(processor, **composed(f"augment={option}")["augment"])
    frames = torch.randint(0, 256, (2, 24, 40, 3), dtype=torch.uint8)
    clips = [augment([frames], [seed]) for seed in range(8)]
    varies = any(not torch.equal(clips[0], clip) for clip in clips)
    assert varies is (option != "none")
    if option == "none":
        assert torch.equal(clips[0], processor(frames[None]))


@pytest.mark.parametrize("option", [o for o in options("data") if o != "video"])
def test_the_data_sets_keys_are_the_constructors(option: str) -> None:
    written = composed(f"data={option}")["data"]
    target = get_class(written.pop("_target_"))
    assert issubclass(target, VideoDataModule)
    expected: dict[str, Any] = {}
    for kind in reversed(target.__mro__):
        if issubclass(kind, VideoDataModule) and "__init__" in vars(kind):
            expected |= parameters(kind.__init__)
    for name in ("self", "processor", "augment", "seed", "class_names"):  # given by the code
        del expected[name]
    assert written.keys() == expected.keys()
    # Values that every data set shares are the constructor's own.
    differing = {k for k, v in expected.items() if v is not ... and written[k] != v}
    assert differing <= ({"eval_views"} if option == "demo" else set())


@pytest.mark.parametrize("option", options("optim"))
def test_optimisers_build(option: str) -> None:
    optim = composed("data=kinetics400", f"optim={option}")["optim"]
    optimizer = build_optimizer(torch.nn.Linear(2, 2), optim)
    assert type(optimizer).__name__.lower() == option
    assert optimizer.param_groups[0]["lr"] == optim["lr"]


def test_the_trainers_keys_are_lightnings() -> None:
    written = composed()["trainer"]
    theirs = inspect.signature(Trainer.__init__).parameters
    assert set(written) <= set(theirs)
    given_by_code = {"logger", "callbacks", "default_root_dir", "plugins"}
    assert not given_by_code & set(written)


@pytest.mark.parametrize("option", options("logger"))
def test_loggers_build(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    loggers = build_loggers(composed(f"logger={option}")["logger"], tmp_path, "x")
    expected = {"csv": [], "tensorboard": ["TensorBoardLogger"], "wandb": ["WandbLogger"]}
    assert [type(logger).__name__ for logger in loggers] == ["MetricsCsv", *expected[option]]
