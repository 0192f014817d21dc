"""Our own Lightning checkpoints (``.ckpt``)."""

import inspect
from pathlib import Path
from typing import Any

from torch import Tensor

from vivit_train.errors import UserError
from vivit_train.model.vivit import ViViT
from vivit_train.model.weights.files import Weights, read_tensors

# The attribute of the LightningModule that is the ViViT.
PREFIX = "model."


def read_checkpoint(path: Path) -> Weights:
    """Reads the model out of a checkpoint that training wrote.

    Args:
        path: A ``.ckpt`` with the model's tensors in ``state_dict`` under ``model.`` and in
            ``hyper_parameters`` plain values: ``model`` (ViViT's arguments), ``class_names`` and
            ``processor``.

    Returns:
        The weights; ``model`` holds every argument of ViViT, defaults included.

    Raises:
        UserError: If the file is broken, or written by another program or version.
    """
    content = read_tensors(path)
    stored = content if isinstance(content, dict) else {}
    state_dict = _part(stored, "state_dict", dict)
    hyper_parameters = _part(stored, "hyper_parameters", dict) or {}
    arguments = _part(hyper_parameters, "model", dict)
    class_names = _part(hyper_parameters, "class_names", list)
    processor = _part(hyper_parameters, "processor", dict)
    parts = {
        "state_dict": state_dict,
        "hyper_parameters['model']": arguments,
        "hyper_parameters['class_names']": class_names,
        "hyper_parameters['processor']": processor,
    }
    missing = [name for name, part in parts.items() if part is None]
    if missing or not any(name.startswith(PREFIX) for name in state_dict):
        raise UserError(
            f"{path} is not a checkpoint of vivit-train: it has no "
            f"{', '.join(missing) or f'tensors under {PREFIX!r}'}"
        )

    parameters = inspect.signature(ViViT).parameters
    if unknown := sorted(arguments.keys() - parameters.keys()):
        raise UserError(
            f"{path} was written by another version of vivit-train: this one has no "
            f"{', '.join(f'model.{name}' for name in unknown)}"
        )
    if arguments.get("num_classes") != len(class_names):
        raise UserError(
            f"{path} is inconsistent: its model has {arguments.get('num_classes')} classes, "
            f"its list of class names {len(class_names)}"
        )
    defaults = {k: p.default for k, p in parameters.items() if p.default is not p.empty}
    state: dict[str, Tensor] = {}
    unused: dict[str, str] = {}
    for name, tensor in state_dict.items():
        if name.startswith(PREFIX):
            state[name.removeprefix(PREFIX)] = tensor
        else:
            unused[name] = "not part of the model"
    return Weights(
        origin=f"vivit-train checkpoint {path}",
        format="vivit_train",
        state=state,
        model=defaults | arguments,
        class_names=class_names,
        processor=processor,
        unused=unused,
    )


def _part(parent: dict[str, Any], key: str, kind: type) -> Any:
    value = parent.get(key)
    return value if isinstance(value, kind) else None
