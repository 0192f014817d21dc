"""What LoRA trained, without the weights beside which it was trained: a small folder for `load`."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from vivit_train.classifier import Classifier
from vivit_train.errors import UserError
from vivit_train.export.description import description_of, metadata_of, write_json
from vivit_train.io.files import user_path
from vivit_train.model.lora import digest, merged
from vivit_train.model.weights import read_weights
from vivit_train.model.weights.checkpoint import DESCRIPTION


def write(classifier: Classifier, folder: Path) -> None:
    """Writes ``model.safetensors`` and ``vivit_train.json``, which names the other weights.

    The file holds LoRA's matrices, the head, and what else those weights do not have to the bit,
    such as positions of another grid.

    Raises:
        UserError: If the classifier was not trained with LoRA, or the weights that it started
            from are not there, or others by now.
    """
    source = _start_of(classifier)
    if not classifier.lora or source is None:
        raise UserError(
            "--format lora is for a run that was trained with optim.lora_rank, and this checkpoint "
            "was not: use --format safetensors"
        )
    base = read_weights(source).state
    ours = classifier.model.state_dict()
    layers = {f"{name.rpartition('.')[0]}.weight" for name in classifier.lora}
    kept = {
        name: base[name].to(tensor.dtype)
        for name, tensor in ours.items()
        if name in base and base[name].shape == tensor.shape
        if name in layers or torch.equal(base[name].to(tensor.dtype), tensor)
    }
    held = {name: tensor for name, tensor in ours.items() if name not in kept} | classifier.lora
    again = merged(kept | held, source)
    if not all(torch.equal(again[name], tensor) for name, tensor in ours.items()):
        raise UserError(
            f"--format lora: the weights {source}, which the run started from, are others by now: "
            "with what LoRA trained they do not make this model. Use --format safetensors"
        )
    held = {name: tensor.contiguous() for name, tensor in held.items()}
    save_file(held, folder / "model.safetensors", metadata_of(classifier))
    told = description_of(classifier) | {"base": {"source": source, "sha256": digest(kept)}}
    write_json(folder / DESCRIPTION, told)


def _start_of(classifier: Classifier) -> str | None:
    """The weights that a run has started from, as they are found from any folder."""
    config = classifier.config or {}
    source = (config.get("model") or {}).get("pretrained")
    if not isinstance(source, str):
        return None
    for folder in (Path(), Path(str(config.get("started_in") or "."))):
        path = folder / user_path(source)
        if path.exists():
            return str(path.resolve())
    return source  # a hub id
