"""Every choice in configs/ composes, says what the code takes, and builds."""

import copy
import functools
import inspect
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
import yaml
from hydra.utils import get_class
from lightning import Trainer

from tests.conftest import REPOSITORY
from tests.golden_files import GOLDEN
from vivit_train.config import compose_config, to_plain
from vivit_train.data.datamodule import VideoDataModule
from vivit_train.errors import UserError
from vivit_train.model.arguments import NOT_ARGUMENTS, arguments_in
from vivit_train.model.vivit import ViViT
from vivit_train.model.weights import FromImage
from vivit_train.optim import build_optimizer, freeze
from vivit_train.runs.loggers import build_loggers
from vivit_train.transforms.augment import Augment
from vivit_train.transforms.processor import Processor
from vivit_train.video.sampling import Sampling

CONFIGS = REPOSITORY / "configs"
# The backbones' hidden_size, num_layers, num_heads, mlp_size: ViT and DeiT, ViViT section 4.1.
SIZES = {
    "ti": (192, 12, 3, 768),
    "s": (384, 12, 6, 1536),
    "b": (768, 12, 12, 3072),
    "l": (1024, 24, 16, 4096),
    "h": (1280, 32, 16, 5120),
}
ATTENTIONS = {
    "": "spatio_temporal",
    "fe": "factorised_encoder",
    "fsa": "factorised_self_attention",
    "fdp": "factorised_dot_product",
}
# Millions of parameters that the paper gives or implies (Tables 2 and 6a), recounted.
KNOWN_SIZES = {
    "vivit_b": 89.0, "vivit_b_fe": 115.1, "vivit_b_fsa": 117.3, "vivit_b_fdp": 89.0,
    "vivit_l": 307.5, "vivit_l_fe": 354.9, "vivit_h_14x2": 636.9,
}  # fmt: skip


def options(group: str) -> list[str]:
    found = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
    assert found
    return found


@functools.cache
def _composed(*words: str) -> dict[str, Any]:
    return to_plain(compose_config(list(words)))


def composed(*words: str) -> dict[str, Any]:
    return copy.deepcopy(_composed(*words))  # composing takes most of a second


def header(option: str) -> str:
    lines = (CONFIGS / f"experiment/{option}.yaml").read_text().splitlines()
    return " ".join(line.strip("# \\") for line in lines if line.startswith("#"))


def experiment(option: str) -> dict[str, Any]:
    """An experiment by the command in its header."""
    command = re.search(r"python train.py (experiment=\w+.*?) Hardware: ", header(option))
    assert command
    words = command[1].split()
    assert words[0] == f"experiment={option}"
    return composed(*words)


def vivit_arguments(plain: dict[str, Any]) -> dict[str, Any]:
    """ViViT's arguments, but for its number of classes."""
    return arguments_in(plain["model"])


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
        "augment", "callbacks", "data", "debug", "experiment", "hydra", "logger", "model", "optim",
        "processor", "trainer",
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
    plain = experiment(option) if group == "experiment" else composed(f"{group}={option}")
    assert set(plain) == {
        "allow_other_videos", "augment", "callbacks", "ckpt_path", "data", "logger", "model",
        "name", "optim", "processor", "run_dir", "seed", "started_in", "trainer",
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


# The paper's Table 7, and its section 4.1: frames of 224 pixels, 32 of them.
TABLE_7 = {
    #         epochs, frame_stride, color_jitter, drop_path, label_smoothing, mixup, and
    #         RandAugment's layers and magnitude (10, the default, where it is off)
    "k400": (30, 2, 0.8, 0.0, 0.0, 0.0, 0, 10),
    "k600": (30, 2, 0.8, 0.0, 0.0, 0.0, 0, 10),
    "mit": (10, 2, 0.8, 0.0, 0.0, 0.0, 0, 10),
    "ek100": (50, 1, 0.0, 0.2, 0.2, 0.1, 2, 15),
    "ssv2": (35, 1, 0.0, 0.3, 0.3, 0.3, 2, 20),
}
LEARNING_RATES = {"k400": 0.1, "k600": 0.1, "mit": 0.25, "ek100": 0.5, "ssv2": 0.5}
DATA_SETS = {
    "k400": "kinetics400", "k600": "kinetics600", "mit": "moments_in_time",
    "ek100": "epic_kitchens", "ssv2": "ssv2",
}  # fmt: skip
# The original's configurations, by the experiments that are to do the same.
RELEASED = {
    "vivit_b_k400": "kinetics400/vivit_base_k400",
    "vivit_b_fe_k400_scenic": "kinetics400/vivit_base_factorised_encoder",
    "vivit_l_fe_k400_scenic": "kinetics400/vivit_large_factorised_encoder",
    "vivit_l_fe_k600_scenic": "kinetics600/vivit_large_factorised_encoder",
    "vivit_l_fe_ssv2_scenic": "something_something_v2/vivit_large_factorised_encoder",
    "vivit_l_fe_ek100": "epic_kitchens/vivit_large_factorised_encoder",
}
RECIPES = [o for o in options("experiment") if not o.startswith(("demo", "finetune"))]
# model, data set, "scenic" or nothing
PARTS = {option: re.fullmatch(r"(vivit_\w+?)_([a-z]+\d+|mit)_?(\w*)", option) for option in RECIPES}


@pytest.mark.parametrize("option", RECIPES)
def test_experiments_follow_the_paper(option: str) -> None:
    match = PARTS[option]
    assert match
    model, data, variant = match.groups()
    plain = experiment(option)
    assert (plain["model"]["name"], plain["data"]["name"]) == (model, DATA_SETS[data])
    ours = (
        plain["trainer"]["max_epochs"], plain["data"]["frame_stride"],
        plain["augment"]["color_jitter"], plain["model"]["drop_path"],
        plain["optim"]["label_smoothing"], plain["augment"]["mixup"],
        plain["augment"]["rand_augment_layers"], plain["augment"]["rand_augment_magnitude"],
    )  # fmt: skip
    assert ours == TABLE_7[data]
    optim, augment = plain["optim"], plain["augment"]
    assert (optim["name"], optim["momentum"], optim["weight_decay"]) == ("sgd", 0.9, 0)
    assert (optim["warmup_epochs"], plain["trainer"]["gradient_clip_val"]) == (2.5, 1)
    assert (augment["scale_jitter"], augment["horizontal_flip"]) == ([0.9, 1.33], 0.5)
    assert augment["rand_augment_operations"] == "paper"
    later = ("random_resized_crop", "flip_labels", "random_erasing", "cutmix")
    assert not any(augment[name] for name in later)
    assert plain["model"]["num_frames"] == (128 if option == "vivit_l_fe_k400" else 32)
    from_image = plain["model"]["from_image"]
    assert from_image["inflation"] == "central"
    if variant == "scenic":
        assert option in RELEASED
        return
    assert (optim["lr"], optim["lr_batch_size"]) == (LEARNING_RATES[data], 64)
    assert plain["model"]["temporal_layers"] == (4 if "_fe" in model else None)
    assert (plain["model"]["image_size"], from_image["positions"]) == (224, "tile")
    assert plain["data"]["eval_views"] == ([1, 3] if option == "vivit_l_fe_k400" else [4, 3])


@pytest.mark.parametrize("option", RELEASED)
def test_experiments_follow_the_released_configurations(option: str) -> None:
    theirs = json.loads((GOLDEN / "scenic_configs.json").read_text())[RELEASED[option]]
    plain = experiment(option)
    model, optim, data = plain["model"], plain["optim"], plain["data"]
    resized = Processor.from_config(plain["processor"]).resized_size(1000, 1000)
    epochs = theirs["num_training_epochs"]
    steps_per_epoch = theirs["lr_configs/steps_per_cycle"] / epochs
    encoder = "model/spatial_transformer/" if "_fe" in option else "model/"
    ours_and_theirs = {
        "epochs": (plain["trainer"]["max_epochs"], epochs),
        "lr": (optim["lr"], theirs["lr_configs/base_learning_rate"]),
        "warm-up": (
            optim["warmup_epochs"], round(theirs["lr_configs/warmup_steps"] / steps_per_epoch, 3)
        ),
        "label smoothing": (optim["label_smoothing"], theirs.get("label_smoothing") or 0),
        "mixup": (plain["augment"]["mixup"], theirs.get("mixup/alpha", 0)),
        "drop path": (model["drop_path"], theirs.get("model/stochastic_droplayer_rate", 0)),
        "frames": (model["num_frames"], theirs["dataset_configs/num_frames"]),
        "stride": (data["frame_stride"], theirs["dataset_configs/stride"]),
        "crop": (model["image_size"], theirs["dataset_configs/crop_size"]),
        "resize": (resized, (theirs["dataset_configs/min_resize"],) * 2),
        "layers": (model["num_layers"], theirs[f"{encoder}num_layers"]),
        "temporal layers": (
            model["temporal_layers"], theirs.get("model/temporal_transformer/num_layers")
        ),
        "width": (model["hidden_size"], theirs["model/hidden_size"]),
        "positions": (
            model["from_image"]["positions"], theirs["init_from/positional_embed_size_change"]
        ),
        "colour": (
            plain["augment"]["color_jitter"] > 0,
            theirs["dataset_configs/augmentation_params/do_color_augment"],
        ),
        "RandAugment": (
            (plain["augment"]["rand_augment_layers"], plain["augment"]["rand_augment_magnitude"]),
            (
                theirs.get("dataset_configs/augmentation_params/rand_augment_num_layers", 0),
                theirs.get("dataset_configs/augmentation_params/rand_augment_magnitude", 10),
            ),
        ),
        "views": (data["eval_views"], [theirs["dataset_configs/num_test_clips"], 3]),
    }  # fmt: skip
    differing = {name: pair for name, pair in ours_and_theirs.items() if pair[0] != pair[1]}
    assert differing == {}


@pytest.mark.parametrize("option", options("experiment"))
@pytest.mark.filterwarnings("ignore:model.drop_path=0.2 has no effect")  # as the recipe says
def test_experiments_build(option: str) -> None:
    with torch.device("meta"):
        ViViT(num_classes=397, **vivit_arguments(experiment(option)))


@pytest.mark.parametrize("option", options("experiment"))
def test_experiments_say_what_they_are(option: str) -> None:
    """The command, the hardware, the score to expect and where it comes from."""
    head = header(option)
    plain = experiment(option)
    if option.startswith("demo"):
        score = "mean average precision" if plain["data"]["multi_label"] else "top-1"
        assert re.search(rf"Measured {score}: (0\.9\d|1\.00) ", head)
        return
    if option.startswith("finetune"):
        assert f"python train.py experiment={option} data=folder" in head
        assert "Hardware: one GPU." in head
        return
    assert "Not measured here." in head
    hardware = re.search(r"Hardware: (\d+) GPUs of (\d+) GB; an estimated (\d+) GB", head)
    assert hardware
    gpus, memory, used = map(int, hardware.groups())
    assert used < memory
    assert plain["trainer"]["devices"] * plain["trainer"]["num_nodes"] == gpus
    assert plain["data"]["batch_size"] * gpus == 64  # the paper's
    assert re.search(r"Expected (action )?top-1: (about )?\d\d\.\d.*\((paper|Scenic)", head)
    assert re.search(r"[Ss]tarts from an? (ImageNet-21k )?Vi(Vi)?T-[BLH]/1", head)


@pytest.mark.parametrize("option", RECIPES)
def test_the_papers_recipes_start_from_weights(option: str) -> None:
    """Or from scratch where that is said; what needs no weights does not ask for them."""
    config = compose_config([f"experiment={option}", "data.root=/x"])
    with pytest.raises(UserError, match=r"model\.pretrained is not set.*model\.pretrained=none"):
        to_plain(config)
    assert to_plain(config, needs_weights=False)["model"]["pretrained"] is None
    for word in ("none", "null"):
        plain = composed(f"experiment={option}", "data.root=/x", f"model.pretrained={word}")
        assert plain["model"]["pretrained"] is None
    assert experiment(option)["model"]["pretrained"]
    assert plain["optim"]["lr_batch_size"] == 64


def test_fine_tuning_of_the_temporal_encoder_leaves_the_spatial_one_alone() -> None:
    plain = experiment("finetune_temporal")
    with torch.device("meta"):
        model = ViViT(num_classes=5, **vivit_arguments(plain))
    frozen = freeze(model, plain["optim"]["freeze"])
    assert {model.embed, model.encoder} <= set(frozen)
    trained = {n.partition(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {"temporal_encoder", "head"}


def test_the_demo_has_an_experiment_for_each_model() -> None:
    for option in ("demo_fe", "demo_fsa", "demo_fdp"):
        plain = experiment(option)
        assert plain["model"]["name"] == f"vivit_{option}"
        plain["model"] = plain["name"] = None
        demo = composed()
        for config in (plain, demo):  # some learn more slowly
            config["trainer"] = config["trainer"] | {"max_epochs": None}
        if option == "demo_fe":
            demo["optim"] = demo["optim"] | {"lr": 5e-4}
        assert plain == demo | {"model": None, "name": None, "run_dir": plain["run_dir"]}


def test_a_value_on_the_command_line_wins_over_what_a_data_set_sets() -> None:
    epochs = [composed(f"data={name}")["trainer"]["max_epochs"] for name in ("demo", "folder")]
    assert epochs[0] < epochs[1] == 30  # the demo sets its own
    plain = composed("trainer.max_epochs=77", "optim.lr=0.5")
    assert (plain["trainer"]["max_epochs"], plain["optim"]["lr"]) == (77, 0.5)
    plain = composed("experiment=vivit_b_k400", "model.pretrained=none", "trainer.max_epochs=3")
    assert plain["trainer"]["max_epochs"] == 3


@pytest.mark.parametrize("option", options("model"))
def test_models_build(option: str) -> None:
    """On the meta device: shapes without memory."""
    arguments = vivit_arguments(composed(f"model={option}"))
    with torch.device("meta"):
        model = ViViT(num_classes=400, **arguments)
        size = arguments["image_size"]
        logits = model.eval()(torch.empty(1, 3, arguments["num_frames"], size, size))
    assert logits.shape == (1, 400)
    _, size, *rest = option.split("_")
    tubelet = [2, 14, 14] if "14x2" in rest else [2, 16, 16]
    attention = ATTENTIONS[next((word for word in rest if word in ATTENTIONS), "")]
    assert arguments["attention"] == attention
    if size == "demo":
        return
    hidden_size, num_layers, num_heads, mlp_size = SIZES[size]
    assert arguments["num_heads"] == (4 if option == "vivit_ti_fdp" else num_heads)
    assert arguments["tubelet_size"] == tubelet
    by_hand = parameter_count(attention, tubelet, hidden_size, num_layers, mlp_size)
    assert sum(parameter.numel() for parameter in model.parameters()) == by_hand
    if option in KNOWN_SIZES:
        assert by_hand / 1e6 == pytest.approx(KNOWN_SIZES[option], abs=0.05)
    if option == "vivit_b":
        assert by_hand == 88_954_000  # the 89.0 M of the original
    head = (CONFIGS / f"model/{option}.yaml").read_text().splitlines()[0]
    assert f": {by_hand / 1e6:.1f} M parameters, " in head


def parameter_count(attention: str, tubelet: list[int], d: int, layers: int, mlp: int) -> int:
    """Parameters of the paper's models with 32 frames of 224 pixels and 400 classes."""
    t, s = 32 // tubelet[0], (224 // tubelet[1]) * (224 // tubelet[2])
    attn, norm = 4 * d * d + 4 * d, 2 * d
    block = attn + norm + 2 * d * mlp + mlp + d + norm
    total = (math.prod(tubelet) * 3 + 1) * d + (d + 1) * 400  # tubelets, head
    if attention == "factorised_encoder":  # two of all but the tubelets, 4 temporal blocks
        return total + (s + t + 4) * d + (layers + 4) * block + 2 * norm
    if attention == "factorised_self_attention":
        return total + t * s * d + layers * (block + attn + norm) + norm
    has_cls = attention == "spatio_temporal"
    return total + (t * s + 2 * has_cls) * d + layers * block + norm


def test_the_models_keys_are_the_constructors() -> None:
    written = yaml.safe_load((CONFIGS / "model/vivit_b.yaml").read_text())
    others = {name: written.pop(name) for name in NOT_ARGUMENTS}
    assert others["from_image"] == parameters(FromImage)
    expected = parameters(ViViT)
    assert expected.pop("num_classes") is ...
    assert written == expected


def test_the_processors_keys_are_the_constructors() -> None:
    """And the configuration's values for a model of 224 pixels are its defaults."""
    written = composed("model=vivit_b", "processor=scenic")["processor"]
    assert written == parameters(Processor)
    assert Processor(**written).settings() == Processor().settings()
    left_open = composed("model=vivit_b")["processor"]
    assert left_open == dict.fromkeys(written) | {"crop_size": 224}
    assert Processor.from_config(left_open).settings() == Processor().settings()
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
    clips = [augment.clips([frames], [seed]) for seed in range(8)]
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
    # Values that every data set shares are the constructor's own; splits have their own names.
    differing = {k for k, v in expected.items() if v is not ... and written[k] != v}
    differing -= {"train_split", "val_split", "test_split"}
    differing -= {"name", "clip_frames"}  # of the option, and of the model
    # Sets of one's own leave open how clips are taken; others name the stride that it then is.
    assert Sampling(8).frame_stride == composed("data=kinetics400")["data"]["frame_stride"]
    differing -= {"sampling" if option in ("folder", "csv", "webdataset") else "frame_stride"}
    assert differing <= ({"eval_views", "batch_size"} if option == "demo" else set())


TINY = {
    "image_size": 8, "num_frames": 2, "tubelet_size": (2, 4, 4), "hidden_size": 8, "num_layers": 1,
    "num_heads": 2, "mlp_size": 16,
}  # fmt: skip


@pytest.mark.parametrize("option", options("optim"))
def test_optimisers_build(option: str) -> None:
    optim = composed("data=kinetics400", f"optim={option}")["optim"]
    optimizer = build_optimizer(ViViT(num_classes=2, **TINY), optim)
    assert type(optimizer).__name__.lower() == {"torch": "nadam"}.get(option, option)
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
    if option == "mlflow":
        pytest.importorskip("mlflow")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    loggers = build_loggers(composed(f"logger={option}")["logger"], tmp_path, "x")
    expected = {
        "csv": [], "tensorboard": ["TensorBoardLogger"], "wandb": ["Wandb"], "mlflow": ["Mlflow"],
    }  # fmt: skip
    assert [type(logger).__name__ for logger in loggers] == ["MetricsCsv", *expected[option]]
    wandb.finish()  # the run that its logger has begun, which the next one would take up
