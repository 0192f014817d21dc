"""Labels: which a flip swaps, how they count within heads, and as shares of the classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor

from vivit_train.class_names import match_class_names, shorten
from vivit_train.errors import UserError
from vivit_train.io.files import user_path


def check_heads(places: Sequence[int], heads: Mapping[str, int], data_name: str) -> None:
    """Each head's classes must be the same rows of the model, in any order.

    Args:
        places: For each class of the data set, head after head, its row in the model.
        heads: Name -> number of classes.
        data_name: The data set's, for the message.

    Raises:
        UserError: If a class is a row of another head.
    """
    start = 0
    for name, size in heads.items():
        end = start + size
        if sorted(places[start:end]) != list(range(start, end)):
            raise UserError(
                f"rows {start} to {end - 1} of the model are not the {size} classes of the "
                f"head {name} of {data_name}, whose heads are {', '.join(heads)} in this "
                "order: train a new head"
            )
        start = end


def mirrored_classes(
    flip_labels: str | dict[str, str] | Sequence[Sequence[str]],
    class_names: Sequence[str],
    heads: Mapping[str, int],
) -> list[int]:
    """The class that each class turns into when its clip is flipped.

    Args:
        flip_labels: Pairs of class names, a mapping, or the path of a YAML file with either. A
            pair holds in both directions. Names are matched as everywhere.
        class_names: All classes, in the order of their indices.
        heads: Name -> number of classes, side by side in ``class_names``; empty: one head.

    Returns:
        For each index that of its mirror image; its own for classes in no pair.

    Raises:
        UserError: If the file cannot be read, a name is no class, a class has two mirror images
            or one in another head.
    """
    pairs = _read_pairs(flip_labels)
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    index = {names[i]: j for i, j in match_class_names(names, class_names)}
    unknown = [name for name in names if name not in index]
    if unknown:
        raise UserError(
            f"augment.flip_labels names {shorten(unknown)}, which the data set does not have; its "
            f"classes are {shorten(class_names)}"
        )
    sizes = list(heads.values()) or [len(class_names)]
    head_of = np.repeat(np.arange(len(sizes)), sizes)
    mirror: dict[int, int] = {}
    for a, b in ((index[a], index[b]) for a, b in pairs):
        if head_of[a] != head_of[b]:
            raise UserError(
                f"augment.flip_labels pairs {class_names[a]!r} with {class_names[b]!r} of another "
                "head: a flip cannot make one of the other"
            )
        for one, other in ((a, b), (b, a)):
            if mirror.setdefault(one, other) != other:
                raise UserError(
                    f"augment.flip_labels pairs {class_names[one]!r} with both "
                    f"{class_names[mirror[one]]!r} and {class_names[other]!r}: name it once"
                )
    return [mirror.get(i, i) for i in range(len(class_names))]


def _read_pairs(flip_labels: Any) -> list[tuple[str, str]]:
    content = flip_labels
    if isinstance(flip_labels, str):
        try:
            content = OmegaConf.to_container(OmegaConf.load(user_path(flip_labels)))
        except Exception as error:  # of the file system, or of one of YAML's many kinds
            raise UserError(
                f"augment.flip_labels={flip_labels} cannot be read as YAML: {error}"
            ) from error
    pairs = list(content.items()) if isinstance(content, dict) else content
    is_pair = [len(pair) == 2 and all(isinstance(n, str) for n in pair) for pair in pairs]
    if not pairs or not all(is_pair):
        raise UserError(
            f"augment.flip_labels must be pairs of class names, e.g. [[turn left, turn right]], "
            f"or a YAML file of such, not {flip_labels}"
        )
    return [(a, b) for a, b in pairs]


def mirror_labels(labels: Tensor, flips: Sequence[bool], mirror: Tensor) -> Tensor:
    """The labels of clips of which some are flipped.

    Args:
        labels: int64 ``[B]`` or ``[B, heads]``, indices into all classes.
        flips: For each of the B clips whether it is flipped.
        mirror: int64 ``[K]``, what a flip makes of each class.

    Returns:
        Shaped as ``labels``.
    """
    flipped = torch.tensor(flips, device=labels.device)
    flipped = flipped.view(-1, *[1] * (labels.ndim - 1))  # [B] or [B, 1]
    return torch.where(flipped, mirror.to(labels.device)[labels], labels)


def within_heads(labels: Tensor, heads: Mapping[str, int]) -> Tensor:
    """``[B, heads]`` indices into all classes made to count from 0 within each head.

    Args:
        labels: int64 ``[B, heads]``; with one head ``[B]``, which stays.
        heads: Name -> number of classes; empty: one head.
    """
    if not heads:
        return labels
    starts = np.cumsum([0, *heads.values()])[:-1]
    return labels - torch.from_numpy(starts).to(labels.device)


def to_shares(labels: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """One-hot shares ``[B, K]`` of labels ``[B]``; of ``[B, heads]`` the heads' side by side."""
    one_hot = F.one_hot(labels, num_classes).to(dtype)
    return one_hot if labels.ndim == 1 else one_hot.sum(dim=1)  # [B, heads, K] -> [B, K]
