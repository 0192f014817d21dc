"""What ViViT's arguments may be: each value is of its type and in its range, or `UserError`."""

from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, get_args

from vivit_train.errors import UserError
from vivit_train.io.foreign import is_of
from vivit_train.model.layers import ACTIVATIONS

# Models 1 to 4 of the paper.
ATTENTIONS = (
    "spatio_temporal",
    "factorised_encoder",
    "factorised_self_attention",
    "factorised_dot_product",
)
ATTENTION_ORDERS = ("time_space", "space_time")
POOLINGS = ("cls", "mean", "max", "sum", "first")
DROP_PATH_STYLES = ("scenic", "timm")
ATTENTION_IMPLEMENTATIONS = ("sdpa", "eager")


# What a type of an argument is called.
NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a word",
    Sequence[int]: "a list of whole numbers",
    type(None): "null",
}


def check_types(
    arguments: Mapping[str, Any], types: Mapping[str, Any], origin: str | None = None
) -> None:
    """Refuses arguments of other types than the constructor of ViViT declares.

    Args:
        arguments: Some or all of them.
        types: ``ViViT.__init__.__annotations__``.
        origin: The file that they come from, for the message.

    Raises:
        UserError: Naming the first.
    """
    whose = f"{origin}: " if origin else ""
    for name, value in arguments.items():
        kind = types[name]
        kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
        expected = " or ".join(NAMES[choice] for choice in kinds)
        _require(is_of(value, kind), f"{whose}model.{name}={value!r:.80} is not {expected}")
    if isinstance(size := arguments.get("image_size"), list | tuple):
        _require(
            len(size) == 2,
            f"{whose}model.image_size={size} is not one number or (height, width)",
        )
    tubelet = arguments.get("tubelet_size", (1, 1, 1))
    _require(
        len(tubelet) == 3 and min(tubelet) >= 1,
        f"{whose}model.tubelet_size is (frames, height, width), three numbers of 1 or more, got "
        f"{list(tubelet)}",
    )


def check_ranges(config: dict[str, Any]) -> None:
    """Refuses values that no model takes, and those that this one has no use for.

    Args:
        config: All arguments, of the right types.

    Raises:
        UserError: Naming the first.
    """
    for name, choices in {
        "attention": ATTENTIONS,
        "pooling": POOLINGS,
        "activation": tuple(ACTIVATIONS),
        "drop_path_style": DROP_PATH_STYLES,
        "attention_implementation": ATTENTION_IMPLEMENTATIONS,
    }.items():
        _require_choice(name, config[name], choices)
    counts = ("num_classes", "num_channels", "num_frames", "hidden_size", "num_layers", "num_heads")
    for name in (*counts, "mlp_size", "representation_size"):
        value = 1 if config[name] is None else config[name]
        _require(value >= 1, f"model.{name} must be 1 or more, got {value}")
    for name in ("dropout", "attention_dropout", "drop_path", "token_drop"):
        value = config[name]
        _require(0 <= value < 1, f"model.{name} is a probability in [0, 1), got {value}")

    eps, std = config["layer_norm_eps"], config["initializer_range"]
    _require(eps >= 0, f"model.layer_norm_eps must be 0 or more, got {eps}")
    _require(std is None or std > 0, f"model.initializer_range must be above 0, got {std}")

    attention, hidden_size = config["attention"], config["hidden_size"]
    owners = {
        "attention_order": "factorised_self_attention",
        "temporal_layers": "factorised_encoder",
        "temporal_heads": "factorised_encoder",
        "temporal_mlp_size": "factorised_encoder",
    }
    for name, owner in owners.items():
        value = config[name]
        _require(
            value is None or attention == owner,
            f"model.{name}={value} is for model.attention={owner}; with {attention} it must be "
            "null",
        )
        least = 0 if name == "temporal_layers" else 1
        _require(
            not isinstance(value, int) or value >= least,
            f"model.{name} must be {least} or more, got {value}",
        )
    if config["attention_order"] is not None:
        _require_choice("attention_order", config["attention_order"], ATTENTION_ORDERS)
    if attention in ("factorised_self_attention", "factorised_dot_product"):
        _require(
            config["pooling"] in ("mean", "max", "sum"),
            f"model.pooling={config['pooling']}: model.attention={attention} has no class token, "
            "which would have no place in time and space; use mean, max or sum",
        )
    if config["token_drop"]:
        _require(
            attention in ("spatio_temporal", "factorised_encoder"),
            f"model.token_drop={config['token_drop']}: the blocks of model.attention={attention} "
            "need every token of the grid; use 0, or spatio_temporal or factorised_encoder",
        )
        _require(
            config["pooling"] in ("cls", "mean", "max"),
            f"model.token_drop={config['token_drop']}: model.pooling={config['pooling']} reads "
            "something else when tokens are missing; use cls, mean or max",
        )
    for name in ("num_heads", "temporal_heads"):
        heads = config[name] or 1
        _require(
            hidden_size % heads == 0,
            f"model.hidden_size={hidden_size} is not a multiple of model.{name}={heads}",
        )
    _require(
        attention != "factorised_dot_product" or config["num_heads"] % 2 == 0,
        f"model.num_heads={config['num_heads']} must be even with model.attention={attention}: "
        "half of the heads attend over time, half over space",
    )


def settled(arguments: dict[str, Any]) -> dict[str, Any]:
    """ViViT's arguments with each ``None`` replaced by what it stands for in this model.

    Args:
        arguments: Of ViViT, all of them.
    """
    settled = dict(arguments)
    if arguments["attention"] == "factorised_self_attention":
        settled["attention_order"] = arguments["attention_order"] or "time_space"
    if arguments["attention"] == "factorised_encoder":
        defaults = {
            "temporal_layers": 4,
            "temporal_heads": arguments["num_heads"],
            "temporal_mlp_size": arguments["mlp_size"],
        }
        settled |= {name: value for name, value in defaults.items() if arguments[name] is None}
    return settled


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _require_choice(name: str, value: str, choices: Sequence[str]) -> None:
    _require(value in choices, f"model.{name}={value!r} is not one of {', '.join(choices)}")
