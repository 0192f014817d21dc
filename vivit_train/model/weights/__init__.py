"""Weights from files: every foreign format, and loading them into a model with a report."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from vivit_train.errors import UserError
from vivit_train.io.files import user_path
from vivit_train.io.foreign import check_regular
from vivit_train.model.lora import digest
from vivit_train.model.vivit import ViViT
from vivit_train.model.weights.account import Row, print_account
from vivit_train.model.weights.checkpoint import (
    DESCRIPTION,
    read_checkpoint,
    read_exported,
    resolve_checkpoint,
    with_lora_merged,
)
from vivit_train.model.weights.files import Weights, check_size
from vivit_train.model.weights.hub import download, hub_id
from vivit_train.model.weights.huggingface import describe_folder, read_file, read_folder
from vivit_train.model.weights.inflate import FromImage
from vivit_train.model.weights.loading import load_weights
from vivit_train.model.weights.scenic import is_msgpack_map, read_npz, read_scenic

__all__ = [
    "FromImage",
    "Row",
    "Weights",
    "load_weights",
    "print_account",
    "read_weights",
    "resolve_checkpoint",
]

HUGGINGFACE_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
SUFFIXES = (*HUGGINGFACE_SUFFIXES, ".ckpt", ".npz")


def read_weights(source: str | Path, with_tensors: bool = True) -> Weights:
    """Reads a model's weights and description; runs no code from any file.

    Args:
        source: A run's folder, which stands for its best checkpoint, or its last where it has no
            best; a folder that ``vivit export --format safetensors`` or ``lora``, or Hugging
            Face's ``save_pretrained`` wrote; a ``.safetensors``, ``.bin``, ``.pt`` or ``.pth``
            file of Hugging Face's or timm's; a ``.ckpt`` of ours; a Scenic checkpoint; an image
            ViT's ``.npz``; or a hub id, ``owner/name`` or ``hf://owner/name@revision``. What
            exists as a path is never taken for a hub id.
        with_tensors: Whether to read the tensors. Else ``state`` is empty, or mapped from the
            disk. Sources that consist of tensors alone (Scenic's checkpoints, single files with
            no ``config.json`` beside them) then say nothing.

    Returns:
        The weights under ViViT's names and what else the source contains.

    Raises:
        UserError: If there is no such source, or it is broken or of another model; or if LoRA's
            matrices belong to weights that are not there, or not the same any more.
    """
    try:
        weights = _read(source, with_tensors)
    except OSError as error:
        if error.filename is not None:  # which then names the file
            raise
        raise UserError(f"{source} cannot be read: {error.strerror or error}") from None
    if with_tensors:
        check_size(weights)
    return weights


def _read(source: str | Path, with_tensors: bool) -> Weights:
    path, origin = _locate(source)
    if not path.is_dir():
        return _read_file(path) if with_tensors else _describe_file(path)
    if (path / DESCRIPTION).is_file():
        weights = read_exported(path, with_tensors)
        return _with_base(weights, path) if with_tensors and weights.base else weights
    return read_folder(path, origin) if with_tensors else describe_folder(path, origin)


def _with_base(weights: Weights, folder: Path) -> Weights:
    """LoRA's matrices merged into the weights that they were trained beside."""
    assert weights.base is not None
    source = weights.base.source
    said = f"{folder} holds what LoRA trained beside the weights {source}"
    cure = f"Put them there, or name their place as base.source in {folder / DESCRIPTION}"
    try:
        path, _ = _locate(source)
        if (path / DESCRIPTION).is_file() and read_exported(path, False).base:
            raise UserError("they are of --format lora themselves")
        state = _read(source, True).state
    except (UserError, OSError) as error:
        raise UserError(f"{said}, which cannot be read: {error}. {cure}") from None
    if "head.weight" not in weights.state:
        raise UserError(f"{folder} is incomplete: its model.safetensors has no head.weight")
    check_size(replace(weights, state=state | weights.state))
    used = frozen(weights, state)
    if digest(used) != weights.base.sha256:
        raise UserError(f"{said}, and these are others by now: their checksum is another. {cure}")
    return with_lora_merged(replace(weights, state=used | weights.state))


def frozen(weights: Weights, base: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that a model has from the weights that LoRA was trained beside.

    Args:
        weights: Hold the model's other tensors.
        base: Tensors by ViViT's parameter names.

    Returns:
        Those that ``weights`` lack, in the type of its head. What ``base`` lacks is left out.
    """
    with torch.device("meta"):
        names = ViViT(**weights.model).state_dict().keys() - weights.state.keys()
    dtype = weights.state["head.weight"].dtype
    return {name: base[name].to(dtype) for name in names & base.keys()}


def _locate(source: str | Path) -> tuple[Path, str]:
    """The file or folder of a source, downloaded if need be, and what to call a folder."""
    path = user_path(source)
    try:
        path.stat()
    except FileNotFoundError:
        pass  # a hub id, or said below
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{str(source)[:300]!r} cannot be opened: {reason}") from None
    path = resolve_checkpoint(path)
    if path.exists():
        return path, f"Hugging Face folder {path}"
    wanted = hub_id(source)
    if wanted and (path.suffix not in SUFFIXES or str(source).startswith("hf:")):
        return download(wanted), f"Hugging Face hub {source}"
    raise UserError(
        f"{source} does not exist: give a checkpoint, a folder with config.json and weights, or "
        "the name of a Hugging Face checkpoint, owner/name or hf://owner/name@revision"
    )


def _read_file(path: Path) -> Weights:
    check_regular(path)
    if path.suffix == ".ckpt":
        return read_checkpoint(path)
    if path.suffix == ".npz":
        return read_npz(path)
    if path.suffix in SUFFIXES:
        return read_file(path)
    # Scenic's files have no suffix, or the step as one.
    if is_msgpack_map(path):
        return read_scenic(path)
    raise UserError(
        f"{path} is not a file of weights: expected {', '.join(SUFFIXES)} or a Scenic checkpoint"
    )


def _describe_file(path: Path) -> Weights:
    if path.suffix == ".ckpt":
        return read_checkpoint(path, verify=False)
    if path.suffix in HUGGINGFACE_SUFFIXES and (path.parent / "config.json").is_file():
        return describe_folder(path.parent, f"Hugging Face file {path}")
    check_regular(path)
    return Weights(origin=str(path), format="", state={}, model={})
