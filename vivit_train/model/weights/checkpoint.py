"""Our own files: Lightning checkpoints (``.ckpt``) and the folders that ``vivit export`` writes."""

import math
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, get_type_hints

from torch import Tensor

from vivit_train.errors import UserError
from vivit_train.io.files import user_path
from vivit_train.io.foreign import is_of, read_json
from vivit_train.io.layout import BEST, CHECKPOINTS, LAST, MODEL_PREFIX, HyperParameters
from vivit_train.model.arguments import Arguments
from vivit_train.model.lora import matrices, merged
from vivit_train.model.weights.files import (
    Base,
    Weights,
    check_sampling,
    check_tensors,
    read_tensors,
)

# What an exported folder says of its model, beside the weights or the graph.
DESCRIPTION = "vivit_train.json"
FORMAT_VERSION = 1
# The most combinations of the heads' classes: beyond them even one video's do not fit into memory.
MOST_ACTIONS = 2**24
# Where other formats keep what they have no key for.
KEY = "vivit_train"


def resolve_checkpoint(source: str | Path) -> Path:
    """The checkpoint file that a run's folder, or a path to a file, means.

    Raises:
        UserError: If there is none.
    """
    path = user_path(source)
    if path.is_dir() and (path / CHECKPOINTS).is_dir():
        for name in (BEST, LAST):
            if (path / CHECKPOINTS / name).is_file():
                return path / CHECKPOINTS / name
        raise UserError(f"the run {path} has no checkpoint yet: {path / CHECKPOINTS} is empty")
    return path


def read_checkpoint(path: Path, verify: bool = True) -> Weights:
    """Reads the model out of a checkpoint that training wrote.

    Args:
        path: A ``.ckpt``.
        verify: See `read_tensors`.

    Returns:
        The weights, with LoRA's matrices merged into them; ``model`` holds every argument of
        ViViT, defaults included.

    Raises:
        UserError: If the file is broken, or written by another program or version.
    """
    weights = weights_of(path, read_tensors(path, verify))
    return with_lora_merged(weights)


def with_lora_merged(weights: Weights) -> Weights:
    """Weights whose ``state`` is that of the model without LoRA; the matrices stand beside."""
    state = merged(weights.state, weights.origin)
    return replace(weights, state=state, lora=matrices(weights.state))


def weights_of(path: Path, content: Any) -> Weights:
    """The model in the content of a checkpoint, with LoRA's matrices as tensors of their own.

    Args:
        path: The file, for messages.
        content: What the file holds: a `CheckpointContent`, or anything else.

    Raises:
        UserError: If another program or version wrote it.
    """
    stored = content if isinstance(content, dict) else {}
    state_dict = _part(stored, "state_dict", dict[str, Any])
    hyper_parameters = _part(stored, "hyper_parameters", dict[str, Any]) or {}
    state: dict[str, Tensor] = {}
    unused: dict[str, str] = {}
    for name, tensor in (state_dict or {}).items():
        if name.startswith(MODEL_PREFIX):
            state[name.removeprefix(MODEL_PREFIX)] = tensor
        else:
            unused[name] = "not part of the model"
    missing = ["state_dict"] if state_dict is None else []
    missing += [f"hyper_parameters[{name!r}]" for name in _missing(hyper_parameters)]
    if missing or not state:
        raise UserError(
            f"{path} is not a checkpoint of vivit-train: it has no "
            f"{', '.join(missing) or f'tensors under {MODEL_PREFIX!r}'}"
        )
    return _weights(path, f"vivit-train checkpoint {path}", state, hyper_parameters, unused)


def read_exported(folder: Path, with_tensors: bool = True) -> Weights:
    """Reads the model out of a folder that ``vivit export`` wrote.

    Args:
        folder: Of ``--format safetensors`` or ``lora``. Holds ``model.safetensors``, the tensors
            under ViViT's own names, and ``vivit_train.json``, which says what a checkpoint's
            ``hyper_parameters`` say.
        with_tensors: Whether to read the tensors; else ``state`` is empty.

    Returns:
        The weights; ``model`` holds every argument of ViViT, defaults included. Those of
        ``--format lora`` lack what their ``base`` has.

    Raises:
        UserError: If the folder holds a graph to run instead of weights, a file is broken, or
            another version wrote it.
    """
    path = folder / DESCRIPTION
    description = read_json(path)
    if description.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path} has format_version {description.get('format_version')!r}, this version of "
            f"vivit-train reads {FORMAT_VERSION}: export the checkpoint again with this version"
        )
    if missing := _missing(description):
        raise UserError(f"{path} is incomplete: it has no {', '.join(missing)}")
    file = folder / "model.safetensors"
    if not file.is_file():
        raise UserError(
            f"{folder} has no model.safetensors: a folder of --format torch-export or onnx holds a "
            "graph to run, not a checkpoint to load; export with --format safetensors as well"
        )
    base = description.get("base")
    if not is_of(base, dict[str, str] | None) or (base and base.keys() != {"source", "sha256"}):
        raise UserError(
            f"{path}: base={base!r:.80} does not name the weights that LoRA was trained beside: "
            "expected their source and sha256"
        )
    origin = f"vivit-train export {folder}"
    tensors = read_tensors(file) if with_tensors else {}
    weights = _weights(path, origin, tensors, description, {})
    return replace(weights, base=Base(**base) if base else None)


def _missing(hyper_parameters: dict[str, Any]) -> list[str]:
    """What a model cannot be rebuilt without and is not there, or is of another type."""
    kinds, needed = get_type_hints(HyperParameters), ("model", "class_names", "processor")
    return [name for name in needed if _part(hyper_parameters, name, kinds[name]) is None]


def _weights(
    path: Path,
    origin: str,
    state: dict[str, Tensor],
    hyper_parameters: dict[str, Any],
    unused: dict[str, str],
) -> Weights:
    """Weights from their parts; ``path`` is the file that described them."""
    arguments, class_names = hyper_parameters["model"], hyper_parameters["class_names"]
    if unknown := sorted(arguments.keys() - Arguments.__dataclass_fields__.keys()):
        raise UserError(
            f"{path} was written by another version of vivit-train: this one has no "
            f"{', '.join(f'model.{name}' for name in unknown)}"
        )
    if arguments.get("num_classes") != len(class_names):
        raise UserError(
            f"{path} is inconsistent: its model has {arguments.get('num_classes')} classes, "
            f"its list of class names {len(class_names)}"
        )
    if not is_of(config := hyper_parameters.get("config"), dict[str, Any] | None):
        raise UserError(f"{path}: its config is a {type(config).__name__}, not a run's")
    if not is_of(multi_label := hyper_parameters.get("multi_label", False), bool):
        raise UserError(f"{path}: multi_label={multi_label!r:.80} is neither true nor false")
    sampling = hyper_parameters.get("sampling", {})
    check_sampling(origin, sampling)
    check_tensors(origin, state)
    try:
        model = Arguments(**arguments).to_dict()
    except UserError as error:
        raise UserError(f"{origin}: {error}") from None
    return Weights(
        origin=origin,
        format="vivit_train",
        state=state,
        model=model,
        class_names=class_names,
        processor=hyper_parameters["processor"],
        unused=unused,
        sampling=sampling,
        heads=_heads(path, hyper_parameters.get("heads", {}), class_names),
        multi_label=multi_label,
        config=config,
    )


def _heads(path: Path, told: Any, class_names: list[str]) -> dict[str, int]:
    """Name and number of classes of each head; older versions wrote a list of the numbers."""
    sizes = list(told.values()) if is_of(told, dict[str, int]) else told
    if not is_of(sizes, list[int]) or min(sizes, default=1) < 1 or math.prod(sizes) > MOST_ACTIONS:
        raise UserError(f"{path}: heads={told!r:.80} are not the class counts of heads")
    heads = told
    if not isinstance(told, dict):
        # A class of several heads has its head's name before its own: "noun: tap".
        starts = accumulate(sizes, initial=0)
        firsts = ["".join(class_names[start : start + 1]) for start in starts]
        heads = {first.partition(":")[0]: size for first, size in zip(firsts, sizes)}
    if heads and (sum(heads.values()) != len(class_names) or len(heads) != len(sizes)):
        raise UserError(f"{path} is inconsistent: heads={told} for {len(class_names)} classes")
    return heads


def _part(parent: dict[str, Any], key: str, kind: Any) -> Any:
    value = parent.get(key)
    return value if is_of(value, kind) else None
