"""Hugging Face's models: ViViT (Model 1), and image ViTs, which have the same layers."""

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from vivit_train.errors import UserError
from vivit_train.io.foreign import is_of, read_json
from vivit_train.model.arguments import Arguments, check_types
from vivit_train.model.weights import timm
from vivit_train.model.weights.checkpoint import FORMAT_VERSION, KEY
from vivit_train.model.weights.files import (
    Weights,
    check_sampling,
    check_tensors,
    fuse,
    kinetics400_names,
    pixel_range,
    read_tensors,
    square_image_size,
)

# Our module or parameter -> theirs; three of theirs are fused in one of ours. Hub checkpoints
# hold the names of transformers 4, which version 5 still writes; inside it has its own.
LAYOUT_V4 = {
    "encoder.cls_token": ("vivit.embeddings.cls_token",),
    "encoder.pos_embed": ("vivit.embeddings.position_embeddings",),
    "embed": ("vivit.embeddings.patch_embeddings.projection",),
    "encoder.blocks.{i}.norm1": ("vivit.encoder.layer.{i}.layernorm_before",),
    "encoder.blocks.{i}.attn.qkv": (
        "vivit.encoder.layer.{i}.attention.attention.query",
        "vivit.encoder.layer.{i}.attention.attention.key",
        "vivit.encoder.layer.{i}.attention.attention.value",
    ),
    "encoder.blocks.{i}.attn.proj": ("vivit.encoder.layer.{i}.attention.output.dense",),
    "encoder.blocks.{i}.norm2": ("vivit.encoder.layer.{i}.layernorm_after",),
    "encoder.blocks.{i}.mlp.fc1": ("vivit.encoder.layer.{i}.intermediate.dense",),
    "encoder.blocks.{i}.mlp.fc2": ("vivit.encoder.layer.{i}.output.dense",),
    "encoder.norm": ("vivit.layernorm",),
    "head": ("classifier",),
    "pre_logits": ("vivit.pooler.dense",),  # of image ViTs; ViViT's pooler is not used
}
LAYOUT_V5 = LAYOUT_V4 | {
    "encoder.blocks.{i}.norm1": ("vivit.layers.{i}.layernorm_before",),
    "encoder.blocks.{i}.attn.qkv": (
        "vivit.layers.{i}.attention.q_proj",
        "vivit.layers.{i}.attention.k_proj",
        "vivit.layers.{i}.attention.v_proj",
    ),
    "encoder.blocks.{i}.attn.proj": ("vivit.layers.{i}.attention.o_proj",),
    "encoder.blocks.{i}.norm2": ("vivit.layers.{i}.layernorm_after",),
    "encoder.blocks.{i}.mlp.fc1": ("vivit.layers.{i}.mlp.fc1",),
    "encoder.blocks.{i}.mlp.fc2": ("vivit.layers.{i}.mlp.fc2",),
}
PROJECTION = "embeddings.patch_embeddings.projection.weight"
# ViViT's argument -> the key in config.json.
CONFIG_KEYS = {
    "image_size": "image_size",
    "num_frames": "num_frames",
    "tubelet_size": "tubelet_size",
    "num_channels": "num_channels",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "mlp_size": "intermediate_size",
    "activation": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "layer_norm_eps": "layer_norm_eps",
    "qkv_bias": "qkv_bias",
}
MULTI_LABEL = "multi_label_classification"  # a problem_type
# The types of what else is read there.
CONFIG_TYPES: dict[str, Any] = {
    "model_type": str,
    "architectures": list[str],
    "problem_type": str,
    "id2label": dict[str, str | int],
    "pretrained_cfg": dict[str, Any],
    KEY: dict[str, Any],
}
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# transformers' image processor writes the first name, its video processor the second.
PROCESSOR_FILES = ("preprocessor_config.json", "video_preprocessor_config.json")


def _invert_layouts() -> dict[str, tuple[str, int, int]]:
    inverse = {}
    for layout in (LAYOUT_V4, LAYOUT_V5):
        for ours, theirs in layout.items():
            leaves = (
                ("",)
                if ours in ("encoder.cls_token", "encoder.pos_embed")
                else (".weight", ".bias")
            )
            for part, name in enumerate(theirs):
                for leaf in leaves:
                    inverse[name + leaf] = (ours + leaf, part, len(theirs))
    return inverse


# Their tensor -> ours, its place there, and how many are fused there.
_INVERSE = _invert_layouts()


def read_folder(folder: Path, origin: str) -> Weights:
    """Reads what ``save_pretrained`` wrote, in one file or in shards.

    Args:
        folder: Holds ``config.json`` and ``model.safetensors`` or ``pytorch_model.bin``.
        origin: What to call it in messages.

    Raises:
        UserError: If a file is absent, broken or of another model.
    """
    # Before the weights, which may be of another model and large.
    config = _read_config(folder, origin)
    file = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if file is None:
        raise UserError(f"{origin} has no weights: expected one of {', '.join(WEIGHT_FILES)}")
    tensors = _read_shards(file) if file.suffix == ".json" else _read_file(file)
    return _convert(origin, tensors, config, _read_processor(folder))


def describe_folder(folder: Path, origin: str) -> Weights:
    """What the files beside the weights say, see `read_folder`: ``state`` is empty.

    Raises:
        UserError: If a file is absent, broken or of another model.
    """
    config = _read_config(folder, origin)
    is_video = config.get("model_type") == "vivit"
    return Weights(
        origin=origin,
        format="huggingface",
        state={},
        model=_arguments(origin, config) if is_video else {},
        processor=_read_processor(folder) if is_video else None,
        is_image=not is_video,
        sampling=_sampling(origin, config),
        multi_label=is_video and config.get("problem_type") == MULTI_LABEL,
    )


def read_file(path: Path) -> Weights:
    """Reads one file of weights, with the ``config.json`` beside it if there is one.

    Without it, ``Weights.model`` holds what follows from the shapes. Heads, native size, activation
    and epsilon do not.

    Args:
        path: A ``.safetensors`` file or one of ``torch.save``.

    Raises:
        UserError: If the file is broken or of another model.
    """
    config = None
    origin = f"Hugging Face file {path}"
    if (path.parent / "config.json").is_file():
        config = _read_config(path.parent, origin)
    else:
        origin += " (no config.json beside it)"
    return _convert(origin, _read_file(path), config, _read_processor(path.parent))


def _read_config(folder: Path, origin: str) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise UserError(f"{origin} has no config.json, which a folder of Hugging Face's has")
    config = read_json(folder / "config.json")
    for key, kind in CONFIG_TYPES.items():
        if not is_of(config.get(key), kind | None):
            raise UserError(
                f"{folder / 'config.json'}: {key} is {config[key]!r:.80}, which is not what a "
                "checkpoint of Hugging Face's has there"
            )
    is_timm = "architecture" in config and "pretrained_cfg" in config
    if config.get("model_type") not in ("vivit", "vit") and not is_timm:
        raise UserError(
            f"{folder / 'config.json'} describes model_type {config.get('model_type')!r} "
            f"({', '.join(config.get('architectures') or ['unnamed'])}); it must be 'vivit', "
            "or an image ViT: 'vit', or one of timm's"
        )
    return config


def _read_processor(folder: Path) -> dict[str, Any] | None:
    file = next((folder / name for name in PROCESSOR_FILES if (folder / name).is_file()), None)
    return read_json(file) if file else None


def _read_file(path: Path) -> dict[str, Tensor]:
    tensors = read_tensors(path)
    if not is_of(tensors, dict[str, Tensor]):
        held = list(tensors)[:5] if isinstance(tensors, dict) else type(tensors).__name__
        raise UserError(
            f"{path} is not a dictionary of tensors, it holds {held}; "
            "a checkpoint of vivit-train keeps its suffix .ckpt"
        )
    return tensors


def _read_shards(index: Path) -> dict[str, Tensor]:
    """Tensors of all the files that ``*.index.json`` names."""
    weight_map = read_json(index).get("weight_map")
    if not is_of(weight_map, dict[str, str]):
        raise UserError(f"{index} has no 'weight_map' from tensors to file names")
    assert isinstance(weight_map, dict)
    there = {path.name for path in index.parent.iterdir()}
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(weight_map.values())):
        # Only beside the index, wherever its names point.
        shard = index.parent / Path(name).name
        if shard.name not in there:
            raise UserError(f"{str(shard)[:300]} is missing: {index.name} lists it")
        tensors |= _read_file(shard)
    if absent := sorted(weight_map.keys() - tensors.keys()):
        raise UserError(
            f"{index} lists {len(absent)} tensors that no shard holds, e.g. {absent[0]}"
        )
    return tensors


def _convert(
    origin: str,
    tensors: dict[str, Tensor],
    config: dict[str, Any] | None,
    processor: dict[str, Any] | None,
) -> Weights:
    if timm.is_timm(tensors):
        return timm.convert(origin, tensors, config)
    is_image = any(n.endswith(PROJECTION) and t.ndim == 4 for n, t in tensors.items())
    state, unused = _rename(origin, tensors, is_image)
    check_tensors(origin, state, embed_rank=4 if is_image else 5)
    if is_image:
        return _image_model(origin, state, config, processor)
    if config is not None and config.get("model_type") != "vivit":
        raise UserError(f"{origin} holds a video model, but its config.json describes an image one")
    model = _arguments(origin, config) if config is not None else _sizes(origin, state)
    class_names = None
    # A model without a head says nothing of classes; its config.json then holds a default of two.
    if "head.weight" in state:
        model["num_classes"] = len(state["head.weight"])
        if config is not None:
            class_names = _class_names(origin, config, model["num_classes"])
            if class_names is None and _is_placeholder(config) and model["num_classes"] == 400:
                class_names = kinetics400_names()
                origin += " (400 unnamed classes, taken as those of Kinetics-400)"
    return Weights(
        origin=origin,
        format="huggingface",
        state=state,
        model=model,
        class_names=class_names,
        processor=processor,
        unused=unused,
        sampling=_sampling(origin, config or {}),
        multi_label=(config or {}).get("problem_type") == MULTI_LABEL,
    )


def _sampling(origin: str, config: dict[str, Any]) -> dict[str, Any]:
    """How clips are taken from videos, where `vivit export` has written it into config.json."""
    ours = config.get(KEY) or {"format_version": FORMAT_VERSION}
    if ours.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{origin}: {KEY} in config.json has format_version {ours.get('format_version')!r:.80}"
            f", this version of vivit-train reads {FORMAT_VERSION}"
        )
    sampling = ours.get("sampling", {})
    check_sampling(origin, sampling)
    return sampling


def _image_model(
    origin: str,
    state: dict[str, Tensor],
    config: dict[str, Any] | None,
    processor: dict[str, Any] | None,
) -> Weights:
    """An image ViT: the same layers, but for patches of one frame.

    Its pooler is what other formats call ``pre_logits``. Activation and epsilon are not taken as
    binding: ported checkpoints say ``gelu`` and 1e-12, but were trained with the tanh form and
    1e-6.
    """
    state["embed.weight"] = state["embed.weight"][:, :, None]  # [D, C, 1, h, w]
    model = _sizes(origin, state) | {"num_frames": 1}
    del model["attention"]
    if config is not None:
        keys = {"num_heads": "num_attention_heads", "image_size": "image_size"}
        model |= {ours: config[key] for ours, key in keys.items() if key in config}
        check_types(model, origin)
    elif size := square_image_size(state["encoder.pos_embed"], model):
        model["image_size"] = size
    ranges = None
    if processor is not None and processor.get("image_mean") and processor.get("image_std"):
        white = 255 * processor.get("rescale_factor", 1 / 255)
        ranges = pixel_range(origin, processor["image_mean"], processor["image_std"], white)
    return Weights(
        origin=f"{origin}, an image ViT",
        format="huggingface",
        state=state,
        model=model,
        is_image=True,
        pixel_range=ranges,
    )


def _rename(
    origin: str, tensors: dict[str, Tensor], is_image: bool
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors under our names, queries, keys and values fused; and the unused with the reason."""
    parts: dict[str, dict[int, Tensor]] = {}
    fused: dict[str, int] = {}
    unused: dict[str, str] = {}
    for name, tensor in tensors.items():
        full = name.removeprefix("vit.")  # of an image ViT
        full = full if full.startswith(("vivit.", "classifier.")) else f"vivit.{full}"
        if full.startswith("vivit.pooler.") and not is_image:
            unused[name] = "Hugging Face's pooler, which classification does not use"
            continue
        layer = re.search(r"\.(\d+)\.", full)
        kind = full.replace(layer[0], ".{i}.", 1) if layer else full
        ours, part, count = _INVERSE.get(kind, (name, 0, 1))
        ours = ours.replace("{i}", layer[1]) if layer else ours
        if part in parts.setdefault(ours, {}):
            raise UserError(f"{origin} holds {ours} twice: under the name {name} and another")
        parts[ours][part] = tensor
        fused[ours] = count
    return fuse(origin, parts, fused), unused


def _arguments(origin: str, config: dict[str, Any]) -> dict[str, Any]:
    """ViViT's arguments from config.json."""
    # What config.json leaves out is the library's default, and ViViT's are the same.
    arguments = {
        ours: config.get(key, getattr(Arguments, ours)) for ours, key in CONFIG_KEYS.items()
    }
    check_types(arguments, origin)
    arguments["tubelet_size"] = list(arguments["tubelet_size"])
    return {"attention": "spatio_temporal", "pooling": "cls"} | arguments


def _sizes(origin: str, state: dict[str, Tensor]) -> dict[str, Any]:
    """ViViT's arguments, as far as they follow from the shapes."""
    embed, fc1 = state.get("embed.weight"), state.get("encoder.blocks.0.mlp.fc1.weight")
    if embed is None or fc1 is None:
        raise UserError(
            f"{origin} does not hold a video model of Hugging Face's ViViT: it needs "
            f"{LAYOUT_V4['embed'][0]}.weight with 5 dimensions and Transformer blocks; "
            f"it holds {', '.join(list(state)[:3]) or 'nothing'}, ..."
        )
    hidden_size, num_channels, *tubelet_size = embed.shape
    layers = {m[1] for name in state if (m := re.match(r"encoder\.blocks\.(\d+)\.", name))}
    return {
        "attention": "spatio_temporal",
        "pooling": "cls",
        "tubelet_size": tubelet_size,
        "num_channels": num_channels,
        "hidden_size": hidden_size,
        "num_layers": len(layers),
        "mlp_size": len(fc1),
        "qkv_bias": "encoder.blocks.0.attn.qkv.bias" in state,
    }


def _class_names(origin: str, config: dict[str, Any], num_classes: int) -> list[str] | None:
    """Names in ``id2label``, in the order of their numbers; ``None`` for placeholders."""
    id2label = config.get("id2label")
    if not id2label or _is_placeholder(config):
        return None
    if set(id2label) != set(map(str, range(num_classes))):
        raise UserError(
            f"{origin}: id2label in config.json names {len(id2label)} classes, but must name those "
            f"of the head, 0 to {num_classes - 1}"
        )
    return [str(id2label[str(i)]) for i in range(num_classes)]


def _is_placeholder(config: dict[str, Any]) -> bool:
    id2label = config.get("id2label") or {}
    return bool(id2label) and all(name == f"LABEL_{i}" for i, name in id2label.items())
