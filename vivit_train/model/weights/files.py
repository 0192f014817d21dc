"""What every format's reader returns, and reading files that are not trusted."""

import json
import math
import os
import pickle
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from vivit_train.errors import UserError


@dataclass(frozen=True)
class Weights:
    """A file's weights under ViViT's own parameter names, and all else that the file tells.

    Attributes:
        origin: What was read, for people: the format and the path.
        format: ``vivit_train``, ``huggingface``, ``scenic`` or ``timm``.
        state: Tensors by ViViT's parameter names. A tensor that no rule knows keeps the file's
            name, so that loading reports it.
        model: The constructor arguments of ViViT that the file tells; ``ViViT(**weights.model)``
            fits ``state``. What a file does not tell is absent, never guessed.
        class_names: Names of the head's rows, in order; ``None`` where the file names none.
        processor: How frames become the model's input, as the file stores it (Hugging Face's
            ``preprocessor_config.json``, our processor's settings); ``None`` if it does not.
        unused: Tensors that are not needed: their name in the file and the reason.
        is_image: Whether it is an image ViT: a model of one frame, from which any of the four
            video models can start.
        pixel_range: What black and white were for each channel in training, e.g. (-1, 1), where
            the format tells that without a processor.
    """

    origin: str
    format: str
    state: dict[str, Tensor] = field(repr=False)
    model: dict[str, Any]
    class_names: list[str] | None = None
    processor: dict[str, Any] | None = None
    unused: dict[str, str] = field(default_factory=dict)
    is_image: bool = False
    pixel_range: tuple[tuple[float, float], ...] | None = None


def read_tensors(path: Path) -> Any:
    """Reads a ``.safetensors`` file or one of ``torch.save`` without running code from it.

    Args:
        path: The file; every suffix but ``.safetensors`` means ``torch.save``.

    Returns:
        What the file holds, on the CPU: tensors by name for ``.safetensors``.

    Raises:
        UserError: If the file is broken, of another kind or holds objects that could run code.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    # A damaged pickle fails in any instruction, so with nearly any exception: text is a KeyError.
    except Exception as error:
        raise UserError(f"{path} {_fault(path, error)}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; raises UserError where the file holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object, got a {type(content).__name__}")
    return content


def fuse(
    origin: str, parts: dict[str, dict[int, Tensor]], counts: dict[str, int]
) -> dict[str, Tensor]:
    """Joins the parts of each tensor, such as query, key and value, along their first dimension.

    Args:
        origin: The file, for messages.
        parts: By the tensor's name, its parts by their place.
        counts: How many parts each tensor has.

    Raises:
        UserError: If a part is missing.
    """
    for name, found in parts.items():
        if len(found) != counts[name]:
            raise UserError(
                f"{origin} is incomplete: of the query, key and value that make {name} it holds "
                f"{len(found)}"
            )
    return {
        name: found[0] if len(found) == 1 else torch.cat([found[i] for i in sorted(found)])
        for name, found in parts.items()
    }


def square_image_size(positions: Tensor, model: dict[str, Any]) -> int | list[int] | None:
    """The side or (height, width) of a square grid of patches with these positions, in pixels.

    Args:
        positions: ``[1, rows, D]``.
        model: ``tubelet_size``, and ``pooling``, which tells of a class token among the rows.

    Returns:
        ``None`` where the rows make no square.
    """
    rows = positions.shape[1] - (model["pooling"] == "cls")
    side = math.isqrt(rows)
    if side * side != rows:
        return None
    _, height, width = (side * size for size in model["tubelet_size"])
    return height if height == width else [height, width]


def kinetics400_names() -> list[str]:
    """Kinetics-400's classes in the order of the published checkpoints, which name none."""
    # Here, not above: torchvision costs seconds.
    from torchvision.models.video import R3D_18_Weights

    return list(R3D_18_Weights.KINETICS400_V1.meta["categories"])


def _fault(path: Path, error: Exception) -> str:
    """What is wrong with a file that could not be read, and what to do."""
    if not path.is_file() or not os.access(path, os.R_OK):
        return "is not a file that can be opened: check that it exists and may be read"
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        return "is empty: copy or download it again"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the weights: fetch them with `git lfs pull`"
    if unsafe := re.search(r"(?:GLOBAL|class|function) ([\w.]*\w\.\w+)", str(error)):
        return (
            f"holds Python objects besides tensors ({unsafe[1]}), which could run code, so it was "
            "not opened; if you trust it, save its tensors alone, best as .safetensors"
        )
    kind = "safetensors" if path.suffix == ".safetensors" else "PyTorch"
    # The unpickler's own advice is to run the file's code.
    reason = "" if isinstance(error, pickle.UnpicklingError) else f" ({_first_line(error)})"
    return f"is not a {kind} file, or not a whole one{reason}: copy or download it again"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:120]
