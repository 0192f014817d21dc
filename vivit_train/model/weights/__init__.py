"""Weights from files: every foreign format, and loading them into a model with an account."""

import re
from pathlib import Path

from vivit_train.errors import UserError
from vivit_train.model.weights.account import Row, print_account
from vivit_train.model.weights.checkpoint import read_checkpoint
from vivit_train.model.weights.files import Weights
from vivit_train.model.weights.huggingface import download, read_file, read_folder
from vivit_train.model.weights.loading import load_weights

__all__ = ["Row", "Weights", "load_weights", "print_account", "read_weights"]

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


def read_weights(source: str | Path) -> Weights:
    """Reads a model's weights and description; runs no code from any file.

    Args:
        source: A folder of Hugging Face's ``save_pretrained``; one ``.safetensors`` or ``.bin``
            file of it; a ``.ckpt`` of ours; or a hub id ``owner/name``. What exists as a path is
            never taken for a hub id.

    Returns:
        The weights under ViViT's names and what else the source tells.

    Raises:
        UserError: If there is no such source, or it is broken or of another model.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return read_folder(path)
    if path.exists():
        if path.suffix not in SUFFIXES:
            raise UserError(f"{path} is not a file of weights: expected {', '.join(SUFFIXES)}")
        return read_checkpoint(path) if path.suffix == ".ckpt" else read_file(path)
    if path.suffix not in SUFFIXES and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(source)):
        return read_folder(download(str(source)), f"Hugging Face hub {source}")
    raise UserError(
        f"{source} does not exist: give a checkpoint, a folder with config.json and weights, or "
        "the name of a Hugging Face checkpoint, owner/name"
    )
