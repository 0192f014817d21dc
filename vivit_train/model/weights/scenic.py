"""Google's checkpoints: Scenic's ViViT (msgpack), and image ViTs of the same family (.npz).

Both hold a tree of arrays, written here as paths like ``Transformer/encoder_norm/scale``.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivit_train.errors import UserError, first_line
from vivit_train.io.foreign import damage, is_of
from vivit_train.model.weights.files import (
    Weights,
    check_tensors,
    fuse,
    kinetics400_names,
    square_image_size,
)

ENCODERS = {
    "Transformer": "encoder",
    "SpatialTransformer": "encoder",
    "TemporalTransformer": "temporal_encoder",
}
MODULES = {
    "cls": "encoder.cls_token",
    "cls_SpatialTransformer": "encoder.cls_token",
    "cls_TemporalTransformer": "temporal_encoder.cls_token",
    "embedding": "embed",
    "pre_logits": "pre_logits",
    "output_projection": "head",
    "head": "head",  # of an image ViT
}
# Within a block: of Models 1, 2 and 4 and of image ViTs, then of Model 3.
BLOCK_MODULES = {
    "LayerNorm_0": "norm1",
    "MultiHeadDotProductAttention_0": "attn",
    "LayerNorm_1": "norm2",
    "MlpBlock_0": "mlp",
    "LayerNorm_time": "temporal_norm",
    "MultiHeadDotProductAttention_time": "temporal_attn",
    "LayerNorm_space": "norm1",
    "MultiHeadDotProductAttention_space": "attn",
    "LayerNorm_mlp": "norm2",
    "MlpBlock": "mlp",
}
QKV = ("query", "key", "value")
# Types of msgpack extension that flax writes: an array, and a scalar of numpy.
ARRAY, SCALAR = 1, 3
CHUNKED = "__msgpack_chunked_array__"


def read_scenic(path: Path) -> Weights:
    """Reads a checkpoint that Scenic wrote, of its old optimiser (flax.optim) or the new (optax).

    All sizes and depths follow from the file. The grid of its positions and the order of Model 3
    do not; nor, without a class token, whether it is Model 1 or Model 4.

    Args:
        path: The msgpack file, usually called ``checkpoint`` or ``checkpoint_<step>``.

    Raises:
        UserError: If msgpack is not installed, or the file is broken or of another program.
    """
    try:
        import msgpack
    except ImportError:
        raise UserError(
            f'{path} is a Scenic checkpoint, which needs msgpack: pip install "vivit-train[scenic]"'
        ) from None
    try:
        # Arrays stay packed: of a checkpoint's many, the optimiser's are never needed.
        content = msgpack.unpackb(
            path.read_bytes(), ext_hook=msgpack.ExtType, raw=False, strict_map_key=False
        )
        tree = _find_parameters(content)
        leaves = {name: _array(leaf, msgpack) for name, leaf in _flatten(tree).items()}
    # msgpack raises its own exceptions, ValueError, UnicodeDecodeError; a damaged array any.
    except Exception as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path} is not a Scenic checkpoint, or not a whole one "
            f"({type(error).__name__}: {str(error)[:80]}): copy or download it again"
        ) from error
    return convert(leaves, f"Scenic checkpoint {path}")


def read_npz(path: Path) -> Weights:
    """Reads an image ViT in Google's format: vision_transformer, big_vision, AugReg.

    Args:
        path: The ``.npz`` file; its keys may stand under ``opt/target/`` or ``params/``.

    Returns:
        The weights of an image model.

    Raises:
        UserError: If the file is broken, holds Python objects, or is of another model.
    """
    if reason := damage(path):
        raise UserError(f"{path} is not an .npz file of arrays, or not a whole one ({reason})")
    try:
        with np.load(path, allow_pickle=False) as file:
            leaves = {name: torch.from_numpy(file[name].copy()) for name in file.files}
    except Exception as error:  # zipfile's, zlib's, numpy's, ...
        reason = first_line(error)[:80]
        if "allow_pickle" in str(error):
            reason = "it holds Python objects, which could run code"
        raise UserError(
            f"{path} is not an .npz file of arrays, or not a whole one ({reason})"
        ) from error
    for prefix in ("opt/target/", "params/"):
        if any(name.startswith(prefix) for name in leaves):
            leaves = {
                name.removeprefix(prefix): leaf
                for name, leaf in leaves.items()
                if name.startswith(prefix)
            }
    return convert(leaves, f"image ViT {path}", is_image=True)


def convert(leaves: dict[str, Tensor], origin: str, is_image: bool = False) -> Weights:
    """Weights from a tree of Scenic's parameters.

    Args:
        leaves: Tensors by path, e.g. ``Transformer/encoderblock_0/LayerNorm_0/scale``.
        origin: What was read, for messages.
        is_image: Whether it is known to be an image model.

    Raises:
        UserError: If this is no ViT.
    """
    leaves = _renumber(leaves)
    parts: dict[str, dict[int, Tensor]] = {}
    counts: dict[str, int] = {}
    for path, leaf in leaves.items():
        ours, part, count = translate(path)
        if part in parts.setdefault(ours, {}):
            raise UserError(f"{origin} holds {ours} twice: as {path} and under another name")
        parts[ours][part] = _reshape(path, leaf, origin)
        counts[ours] = count
    state = fuse(origin, parts, counts)
    check_tensors(origin, state)
    model = _sizes(origin, state, leaves)
    class_names = None
    if is_image:
        model["num_frames"] = 1
        if size := square_image_size(state["encoder.pos_embed"], model):
            model["image_size"] = size
    elif model.get("num_classes") == 400:
        class_names = kinetics400_names()
        origin += " (400 unnamed classes, taken as those of Kinetics-400)"
    return Weights(
        origin=origin,
        format="scenic",
        state=state,
        model=model,
        class_names=class_names,
        is_image=is_image,
        pixel_range=((-1.0, 1.0),) * model["num_channels"],
    )


def is_msgpack_map(path: Path) -> bool:
    """Whether a file begins like a msgpack map, as Scenic's checkpoints do."""
    with path.open("rb") as file:
        first = file.read(1)
    return bool(first) and (0x80 <= first[0] <= 0x8F or first[0] in (0xDE, 0xDF))


def _find_parameters(content: Any) -> dict[str, Any]:
    """The tree of parameters, wherever this version of Scenic puts it."""
    tree = content if isinstance(content, dict) else {}
    if isinstance(tree.get("optimizer"), dict):  # flax.optim; before Linen, one level deeper
        tree = tree["optimizer"].get("target")
    tree = tree.get("params", tree) if isinstance(tree, dict) else {}
    if not isinstance(tree, dict) or "embedding" not in tree:
        raise UserError(
            "a Scenic checkpoint of a ViT has its parameters under 'params' or 'optimizer/target', "
            f"'embedding' among them; this file has {', '.join(map(str, list(tree)[:5])) or 'none'}"
        )
    return tree


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and CHUNKED not in value:
            leaves |= _flatten(value, f"{prefix}{name}/")
        else:
            leaves[f"{prefix}{name}"] = value
    return leaves


def _array(leaf: Any, msgpack: Any) -> Tensor:
    """An array as flax packs it: shape, type and bytes; above 1 GiB, in flat pieces."""
    if isinstance(leaf, dict):
        shape = [leaf["shape"][str(i)] for i in range(len(leaf["shape"]))]
        if not is_of(shape, list[int]) or min(shape, default=0) < 0:
            raise ValueError(f"an array of the shape {shape}")
        pieces = [_array(leaf["chunks"][str(i)], msgpack) for i in range(len(leaf["chunks"]))]
        return torch.cat(pieces).reshape(shape)
    if not isinstance(leaf, msgpack.ExtType) or leaf.code not in (ARRAY, SCALAR):
        raise ValueError(f"a {type(leaf).__name__} where an array should be")
    shape, dtype, buffer = msgpack.unpackb(leaf.data, raw=True)
    if not is_of(shape, list[int]) or min(shape, default=0) < 0:
        raise ValueError(f"an array of the shape {shape}")
    torch_type = getattr(torch, dtype.decode(), None)
    if not isinstance(torch_type, torch.dtype):
        raise ValueError(f"an array of type {dtype.decode()}")
    return torch.frombuffer(bytearray(buffer), dtype=torch_type).reshape(shape)


def _renumber(leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """Module numbers as of today; before flax's Linen one count ran over all kinds of module.

    ``LayerNorm_0, MultiHeadDotProductAttention_1, LayerNorm_2, MlpBlock_3`` become
    ``LayerNorm_0, MultiHeadDotProductAttention_0, LayerNorm_1, MlpBlock_0``.
    """
    kinds = r"(LayerNorm|MultiHeadDotProductAttention|MlpBlock)_(\d{1,9})"
    found: dict[tuple[str, str], set[int]] = {}
    for path in leaves:
        if match := re.search(kinds, path):
            found.setdefault((path[: match.start()], match[1]), set()).add(int(match[2]))

    def renumber(path: str) -> str:
        if not (match := re.search(kinds, path)):
            return path
        rank = sorted(found[path[: match.start()], match[1]]).index(int(match[2]))
        return f"{path[: match.start()]}{match[1]}_{rank}{path[match.end() :]}"

    return {renumber(path): leaf for path, leaf in leaves.items()}


def translate(path: str) -> tuple[str, int, int]:
    """Where a leaf of Scenic's goes.

    Args:
        path: E.g. ``Transformer/encoderblock_0/MultiHeadDotProductAttention_0/key/kernel``.

    Returns:
        Our name, the leaf's place there and how many are joined there: here
        ``encoder.blocks.0.attn.qkv.weight``, 1 and 3. An unknown leaf keeps its name.
    """
    leaf_names = {"kernel": ".weight", "scale": ".weight", "bias": ".bias"}
    head, *inner, leaf = ("", path) if "/" not in path else path.split("/")
    suffix = leaf_names.get(leaf)
    if path in MODULES:  # the class tokens, which are leaves
        return MODULES[path], 0, 1
    if head in MODULES and not inner and suffix:
        return MODULES[head] + suffix, 0, 1
    if head in ENCODERS:
        encoder = ENCODERS[head]
        if inner == ["posembed_input"] and leaf == "pos_embedding":
            return f"{encoder}.pos_embed", 0, 1
        if inner == ["encoder_norm"] and suffix:
            return f"{encoder}.norm{suffix}", 0, 1
        block = re.fullmatch(r"encoderblock_(\d+)", inner[0]) if inner else None
        if block and len(inner) >= 2 and inner[1] in BLOCK_MODULES and suffix:
            module = f"{encoder}.blocks.{block[1]}.{BLOCK_MODULES[inner[1]]}"
            match inner[2:]:
                case []:
                    return module + suffix, 0, 1
                case [name] if name in QKV:
                    return f"{module}.qkv{suffix}", QKV.index(name), 3
                case ["out"]:
                    return f"{module}.proj{suffix}", 0, 1
                case ["Dense_0" | "Dense_1" as dense]:
                    return f"{module}.fc{int(dense[-1]) + 1}{suffix}", 0, 1
    return path, 0, 1


def _ranks(path: str) -> tuple[int, ...] | None:
    """How many dimensions a leaf may have; ``None``: any number."""
    if path == "embedding/kernel":
        return 4, 5
    if path.endswith(tuple(f"/{name}/bias" for name in QKV)):
        return (2,)
    if path.endswith(tuple(f"/{name}/kernel" for name in (*QKV, "out"))):
        return (3,)
    return (2,) if path.endswith("/kernel") else None


def _reshape(path: str, leaf: Tensor, origin: str) -> Tensor:
    """A leaf in PyTorch's layout.

    Raises:
        UserError: If it has other dimensions than its name asks for.
    """
    if (ranks := _ranks(path)) and leaf.ndim not in ranks:
        raise UserError(
            f"{origin}: {path} has the shape {list(leaf.shape)}, and must have "
            f"{' or '.join(map(str, ranks))} dimensions"
        )
    if path == "embedding/kernel":
        leaf = leaf if leaf.ndim == 5 else leaf[None]  # [t, h, w, C, D]
        return leaf.permute(4, 3, 0, 1, 2)  # [D, C, t, h, w]
    if path.endswith("/out/kernel"):
        return leaf.flatten(0, 1).T  # [A, d, D] -> [D, A*d]
    if path.endswith(tuple(f"/{name}/kernel" for name in QKV)):
        return leaf.flatten(1).T  # [D, A, d] -> [A*d, D]
    if path.endswith(tuple(f"/{name}/bias" for name in QKV)):
        return leaf.flatten()  # [A, d] -> [A*d]
    return leaf.T if path.endswith("/kernel") else leaf


def _sizes(origin: str, state: dict[str, Tensor], leaves: dict[str, Tensor]) -> dict[str, Any]:
    """ViViT's arguments, as far as they follow from names and shapes."""
    for name in ("embed.weight", "encoder.pos_embed", "encoder.blocks.0.mlp.fc1.weight"):
        if name not in state:
            raise UserError(f"{origin} is not a ViT or ViViT: it has nothing that makes {name}")
    embed = state["embed.weight"]
    hidden_size, num_channels, *tubelet_size = embed.shape
    has_cls = "encoder.cls_token" in state
    model: dict[str, Any] = {
        "pooling": "cls" if has_cls else "mean",
        "tubelet_size": tubelet_size,
        "num_channels": num_channels,
        "hidden_size": hidden_size,
        "activation": "gelu_fast",
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
    }
    for prefix, encoder in (("", "encoder"), ("temporal_", "temporal_encoder")):
        layers = {m[1] for name in state if (m := re.match(rf"{encoder}\.blocks\.(\d+)\.", name))}
        if layers:
            model[f"{prefix}num_layers".replace("temporal_num", "temporal")] = len(layers)
            model[f"{prefix}mlp_size"] = len(state[f"{encoder}.blocks.0.mlp.fc1.weight"])
    for path, leaf in leaves.items():
        if re.search(r"encoderblock_0/MultiHead.*/query/bias$", path) and leaf.ndim == 2:
            temporal = path.startswith("TemporalTransformer")
            model["temporal_heads" if temporal else "num_heads"] = leaf.shape[0]
    if "head.weight" in state:
        model["num_classes"] = len(state["head.weight"])
    if "pre_logits.weight" in state:
        model["representation_size"] = len(state["pre_logits.weight"])

    if any(path.startswith("SpatialTransformer/") for path in leaves):
        model["attention"] = "factorised_encoder"
        model.setdefault("temporal_layers", 0)
        positions = state.get("temporal_encoder.pos_embed")
        if positions is not None and tubelet_size[0] > 1:
            model["num_frames"] = (positions.shape[1] - has_cls) * tubelet_size[0]
    elif any("LayerNorm_time" in path for path in leaves):
        model["attention"] = "factorised_self_attention"
    elif has_cls and tubelet_size[0] > 1:
        # Models 3 and 4 have no class token, and an image's tubelets one frame.
        model["attention"] = "spatio_temporal"
    return model
