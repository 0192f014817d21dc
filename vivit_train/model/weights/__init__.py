"""Weights from files: every foreign format, and loading them into a model with an account."""

import re
from pathlib import Path

from vivit_train.errors import UserError
from vivit_train.files import user_path
from vivit_train.foreign import check_regular
from vivit_train.model.weights.account import Row, print_account
from vivit_train.model.weights.checkpoint import (
    DESCRIPTION,
    read_checkpoint,
    read_exported,
    resolve_checkpoint,
)
from vivit_train.model.weights.files import Weights, check_size
from vivit_train.model.weights.huggingface import download, read_file, read_folder
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

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz")


def read_weights(source: str | Path) -> Weights:
    """Reads a model's weights and description; runs no code from any file.

    Args:
        source: A run's folder, which stands for its best checkpoint, or its last where it has no
            best; a folder that ``vivit export --format safetensors`` or Hugging Face's
            ``save_pretrained`` wrote; a ``.safetensors``, ``.bin``, ``.pt`` or ``.pth`` file of
            Hugging Face's or timm's; a ``.ckpt`` of ours; a Scenic checkpoint; an image ViT's
            ``.npz``; or a hub id ``owner/name``. What exists as a path is never taken for a hub
            id.

    Returns:
        The weights under ViViT's names and what else the source tells.

    Raises:
        UserError: If there is no such source, or it is broken or of another model.
    """
    try:
        weights = _read(source)
    except OSError as error:
        if error.filename is not None:  # which then names the file
            raise
        raise UserError(f"{source} cannot be read: {error.strerror or error}") from None
    check_size(weights)
    return weights


def _read(source: str | Path) -> Weights:
    path = user_path(source)
    try:
        path.stat()
    except FileNotFoundError:
        pass  # a hub id, or said below
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{str(source)[:300]!r} cannot be opened: {reason}") from None
    path = resolve_checkpoint(path)
    if path.is_dir():
        return read_exported(path) if (path / DESCRIPTION).is_file() else read_folder(path)
    if path.exists():
        return _read_file(path)
    if path.suffix not in SUFFIXES and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(source)):
        return read_folder(download(str(source)), f"Hugging Face hub {source}")
    raise UserError(
        f"{source} does not exist: give a checkpoint, a folder with config.json and weights, or "
        "the name of a Hugging Face checkpoint, owner/name"
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
