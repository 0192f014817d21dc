"""What every format's reader returns, and reading files that are not trusted."""

import math
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from vivit_train.errors import UserError
from vivit_train.io.foreign import check_regular, damage, is_of


@dataclass(frozen=True)
class Base:
    """The weights that LoRA's matrices belong to, which stayed as they were.

    Attributes:
        source: As for `read_weights`.
        sha256: Of those of its tensors that are used, see `vivit_train.model.lora.digest`.
    """

    source: str
    sha256: str


@dataclass(frozen=True)
class Weights:
    """A file's weights under ViViT's own parameter names, and all else that the file says.

    Attributes:
        origin: What was read, for people: the format and the path.
        format: ``vivit_train``, ``huggingface``, ``scenic`` or ``timm``.
        state: Tensors by ViViT's parameter names. A tensor that no rule knows keeps the file's
            name, so that loading reports it.
        model: The constructor arguments of ViViT that the file contains; ``ViViT(**weights.model)``
            fits ``state``. Arguments that a file does not contain are absent, never guessed.
        class_names: Names of the head's rows, in order; ``None`` where the file names none.
        processor: How frames become the model's input, as the file stores it (Hugging Face's
            ``preprocessor_config.json``, our processor's settings); ``None`` if it does not.
        unused: Tensors that are not needed: their name in the file and the reason.
        is_image: Whether it is an image ViT: a model of one frame, from which any of the four
            video models can start.
        pixel_range: What black and white were for each channel in training, e.g. (-1, 1), where
            the format says so without a processor.
        sampling: How clips were taken from videos, as far as the file says: ``clip_frames``, one
            of ``frame_stride``, ``frame_rate`` and ``clip_seconds``, or ``sampling`` is ``whole``;
            ``eval_views`` (temporal, spatial); ``video_rate``, the videos' frames per second.
        heads: Name and number of classes of each head, in the order of the logits, where a video
            has several classes; empty for one head.
        multi_label: Whether a video has any number of the classes, each with a probability of its
            own, the sigmoid of its logit.
        config: The configuration of the run that trained it; ``None`` where the file has none.
        lora: LoRA's matrices by name, which are in ``state`` already; empty for other weights.
        base: The weights without which these are not whole, see `Base`; ``None``: they are.
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
    sampling: dict[str, Any] = field(default_factory=dict)
    heads: dict[str, int] = field(default_factory=dict)
    multi_label: bool = False
    config: dict[str, Any] | None = None
    lora: dict[str, Tensor] = field(default_factory=dict, repr=False)
    base: Base | None = None


def read_tensors(path: Path, verify: bool = True) -> Any:
    """Reads a ``.safetensors`` file or one of ``torch.save`` without running code from it.

    Args:
        path: The file; every suffix but ``.safetensors`` means ``torch.save``.
        verify: Whether to compare the checksums that ``torch.save`` writes, by reading the file
            once as a whole. Tensors are mapped into memory: only those that are used are read.

    Returns:
        What the file holds, on the CPU: tensors by name for ``.safetensors``.

    Raises:
        UserError: If the file is broken, of another kind or holds objects that could run code.
    """
    check_regular(path)
    is_archive = path.suffix != ".safetensors" and zipfile.is_zipfile(path)
    if is_archive and verify and (reason := damage(path)):
        raise UserError(f"{path} is damaged ({reason}): copy or download it again")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    # A damaged pickle fails in any instruction, so with nearly any exception: text is a KeyError.
    except Exception as error:
        raise UserError(f"{path} {_fault(path, error)}") from error


def fuse(
    origin: str, parts: dict[str, dict[int, Tensor]], counts: dict[str, int]
) -> dict[str, Tensor]:
    """Joins the parts of each tensor, such as query, key and value, along their first dimension.

    Args:
        origin: The file, for messages.
        parts: By the tensor's name, its parts by their place.
        counts: How many parts each tensor has.

    Raises:
        UserError: If a part is missing, or has another shape than the first.
    """
    for name, found in parts.items():
        if len(found) != counts[name]:
            raise UserError(
                f"{origin} is incomplete: of the query, key and value that make {name} it holds "
                f"{len(found)}"
            )
        shapes = {part.shape for part in found.values()}
        if len(shapes) > 1 or (len(found) > 1 and found[0].ndim == 0):
            raise UserError(
                f"{origin}: the query, key and value that make {name} have different shapes"
            )
    return {
        name: found[0] if len(found) == 1 else torch.cat([found[i] for i in sorted(found)])
        for name, found in parts.items()
    }


def square_image_size(positions: Tensor, model: dict[str, Any]) -> int | list[int] | None:
    """The side or (height, width) of a square grid of patches with these positions, in pixels.

    Args:
        positions: ``[1, rows, D]``.
        model: ``tubelet_size``, and ``pooling``, which decides if a row is the class token's.

    Returns:
        ``None`` where the rows make no square.
    """
    rows = max(0, positions.shape[1] - (model["pooling"] == "cls"))
    side = math.isqrt(rows)
    if side * side != rows:
        return None
    _, height, width = (side * size for size in model["tubelet_size"])
    return height if height == width else [height, width]


def check_tensors(origin: str, state: Mapping[str, Any], embed_rank: int = 5) -> None:
    """Refuses what is no plain tensor, and tensors of another rank than their name asks for.

    Args:
        origin: The file, for messages.
        state: Tensors by ViViT's parameter names. Other names may have any rank.
        embed_rank: 5, or 4 where ``embed.weight`` is still an image's.

    Raises:
        UserError: Naming the first.
    """
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or not _is_plain(tensor):
            raise UserError(f"{origin}: {name} is a {type(tensor).__name__}, not a plain tensor")
        rank = embed_rank if name == "embed.weight" else _rank(name)
        if rank is not None and tensor.ndim != rank:
            raise UserError(
                f"{origin}: {name} has the shape {list(tensor.shape)}, and must have {rank} "
                "dimensions"
            )


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor's values are all in memory: not sparse, not on the meta device, ..."""
    is_dense = tensor.layout == torch.strided and tensor.device.type == "cpu"
    # A view of a few bytes may be expanded to any shape.
    is_plain = is_dense and not tensor.is_complex() and not tensor.is_quantized
    return is_plain and tensor.nbytes <= len(tensor.untyped_storage())


def _rank(name: str) -> int | None:
    module, _, leaf = name.rpartition(".")
    kind = module.rpartition(".")[2]
    if leaf in ("pos_embed", "cls_token"):
        return 3
    if leaf == "bias" or (leaf == "weight" and "norm" in kind):
        return 1
    is_matrix = leaf == "weight" and kind in ("qkv", "proj", "fc1", "fc2", "head", "pre_logits")
    return 2 if is_matrix else None


def check_size(weights: Weights) -> None:
    """Refuses a file that describes a much larger model than it holds the values of.

    Raises:
        UserError: Naming both numbers.
    """
    held, needed = sum(t.numel() for t in weights.state.values()), _least_values(weights.model)
    if needed > 2 * held + 10**6:  # less is a file with parts missing, which loading names
        raise UserError(
            f"{weights.origin} describes a model of at least {needed:,} values, and holds {held:,}"
        )


def _least_values(model: dict[str, Any]) -> int:
    """A lower bound of the number of values in a model of these arguments."""
    width, classes = model.get("hidden_size", 1), model.get("num_classes", 1)
    depth, height, patch = model.get("tubelet_size", (1, 1, 1))
    values = width * model.get("num_channels", 1) * depth * height * patch
    values += classes * (model.get("representation_size") or width)
    for prefix in ("", "temporal_"):
        layers = model.get("num_layers" if not prefix else "temporal_layers") or 0
        values += layers * (4 * width**2 + 2 * width * (model.get(f"{prefix}mlp_size") or 0))
    if "image_size" in model and "num_frames" in model:
        size = model["image_size"]
        sides = (size, size) if isinstance(size, int) else size
        rows, columns = (side // max(1, s) for side, s in zip(sides, (height, patch)))
        frames = min(model["num_frames"], model.get("sampled_frames") or model["num_frames"])
        if model.get("attention") == "factorised_encoder":
            values += rows * columns * width
        else:
            values += rows * columns * (frames // max(1, depth)) * width
    return values


# The largest values that a file may give: beyond them even one clip does not fit into memory.
MOST_VIEWS = 2**10
SAMPLING_NUMBERS: tuple[tuple[str, type, int], ...] = (
    ("clip_frames", int, 2**12),
    ("frame_stride", int, 10_000),
    ("frame_rate", float, 1000),
    ("clip_seconds", float, 86_400),
    ("video_rate", float, 2**31),
)


def check_sampling(origin: str, sampling: Any) -> None:
    """Refuses a file's words on clips that no video could be read by.

    Args:
        origin: The file, for messages.
        sampling: See `Weights`.

    Raises:
        UserError: Naming the value and what was expected.
    """
    if not is_of(sampling, dict[str, Any]):
        raise UserError(f"{origin}: sampling={sampling!r:.80} is not a group of values")
    for name, kind, most in SAMPLING_NUMBERS:
        value = sampling.get(name)
        if value is not None and not (is_of(value, kind) and 0 < value <= most):
            what = "a whole number from 1 to" if kind is int else "a number above 0 and up to"
            raise UserError(f"{origin}: sampling.{name}={value!r:.80} is not {what} {most}")
    spacing = [name for name, _, _ in SAMPLING_NUMBERS[1:4] if sampling.get(name) is not None]
    how = sampling.get("sampling") or "window"
    if how not in ("window", "whole") or len(spacing) > (how == "window"):
        raise UserError(
            f"{origin}: sampling={how!r:.80} with {', '.join(spacing) or 'no spacing'}: expected "
            "'window' with one of frame_stride, frame_rate and clip_seconds, or 'whole' without"
        )
    views = sampling.get("eval_views", (1, 1))
    if (
        not is_of(views, list[int])
        or len(views) != 2
        or not 1 <= views[0] <= MOST_VIEWS
        or views[1] not in (1, 3)
    ):
        raise UserError(
            f"{origin}: sampling.eval_views={views!r:.80} is not [temporal, spatial], 1 to "
            f"{MOST_VIEWS} and 1 or 3"
        )


def pixel_range(
    origin: str, mean: Any, std: Any, white: Any = 1.0
) -> tuple[tuple[float, float], ...]:
    """What black and white become for each channel, by a file's mean and standard deviation.

    Args:
        origin: The file, for messages.
        mean: A number for each channel.
        std: The same.
        white: What white is before these are applied.

    Raises:
        UserError: If they are something else.
    """
    are_numbers = is_of([mean, std], list[list[float]]) and is_of(white, float)
    if not are_numbers or len(mean) != len(std) or 0 in std:
        raise UserError(
            f"{origin}: mean={mean!r:.80}, std={std!r:.80} and the value of white {white!r:.80} "
            "are not numbers by which pixels could be scaled"
        )
    return tuple((-m / s, (white - m) / s) for m, s in zip(mean, std))


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
