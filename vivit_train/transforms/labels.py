"""Labels: which a flip swaps, how they count within heads, and as shares of the classes."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from vivit_train.class_names import match_class_names, shorten
from vivit_train.errors import UserError
from vivit_train.io.files import user_path
from vivit_train.io.foreign import is_of


class LabelRules(NamedTuple):
    """How augmentation changes the labels of a training set; `Augment.rules` finds out.

    Attributes:
        heads: Classes of each head; of one head all K.
        mirrors: For each head int64 ``[classes]``, what a flip makes of each class; ``None``: a
            flip changes none.
        mixes: Whether the clips of a batch are mixed with each other.
        multi_label: Whether labels are 0 or 1 of each class.
    """

    heads: Sequence[int]
    mirrors: Sequence[Tensor] | None
    mixes: bool
    multi_label: bool = False


def mirrored_classes(
    flip_labels: str | dict[str, str] | Sequence[Sequence[str]],
    class_names: Sequence[str],
    heads: Mapping[str, int],
) -> list[list[int]]:
    """The class that each class turns into when its clip is flipped, head by head.

    Args:
        flip_labels: Pairs of class names, a mapping, or the path of a YAML file with either. A
            pair holds in both directions. Names are matched as everywhere.
        class_names: All classes, in the order of their indices.
        heads: Name -> number of classes, side by side in ``class_names``; empty: one head.

    Returns:
        For each head and class within it that of the mirror image; its own for those in no pair.

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
    starts = accumulate(sizes, initial=0)
    return [[mirror.get(s + k, s + k) - s for k in range(n)] for s, n in zip(starts, sizes)]


class _Pairs(yaml.SafeLoader):
    """Reads a mapping as a list of pairs: none is lost where a name comes twice."""


_Pairs.add_constructor("tag:yaml.org,2002:map", lambda loader, node: loader.construct_pairs(node))


def _read_pairs(flip_labels: Any) -> list[tuple[str, str]]:
    content = flip_labels
    if isinstance(flip_labels, str):
        try:
            content = yaml.load(user_path(flip_labels).read_bytes(), _Pairs)
        except Exception as error:  # of the file system, or of one of YAML's many kinds
            raise UserError(
                f"augment.flip_labels={flip_labels} cannot be read as YAML: {error}"
            ) from error
    pairs = list(content.items()) if isinstance(content, dict) else content
    if not pairs or not is_of(pairs, list[list[str]]) or any(len(pair) != 2 for pair in pairs):
        raise UserError(
            f"augment.flip_labels must be pairs of class names, e.g. [[turn left, turn right]], "
            f"or a YAML file of such, not {flip_labels}"
        )
    return [(a, b) for a, b in pairs]


def mirror_labels(
    labels: Tensor, flips: Sequence[bool], mirrors: Sequence[Tensor], multi_label: bool = False
) -> Tensor:
    """The labels of clips of which some are flipped.

    Args:
        labels: int64 ``[B]``, of several heads ``[B, heads]``: classes within each head;
            multi-label ``[B, K]``: 0 or 1 of each class.
        flips: For each of the B clips whether it is flipped.
        mirrors: See `LabelRules`.
        multi_label: See there.

    Returns:
        Shaped as ``labels``.
    """
    flipped = torch.tensor(flips, device=labels.device)[:, None]
    if multi_label:  # a mirror of a mirror is the class itself
        return torch.where(flipped, labels[:, mirrors[0].to(labels.device)], labels)
    of_heads = labels.view(len(labels), -1)  # [B, heads]
    swapped = torch.stack(
        [m.to(labels.device)[of_head] for m, of_head in zip(mirrors, of_heads.unbind(dim=1))], dim=1
    )
    return torch.where(flipped, swapped, of_heads).view_as(labels)


def within_heads(heads: Mapping[str, int]) -> list[int]:
    """For each class, head after head, its place within its head."""
    return [place for size in heads.values() for place in range(size)]


def to_shares(
    labels: Tensor, heads: Sequence[int], dtype: torch.dtype, multi_label: bool = False
) -> Tensor:
    """One-hot shares ``[B, K]``, the heads' side by side; multi-label the labels themselves.

    Args:
        labels: As for `mirror_labels`.
        heads: Classes of each head.
        dtype: Of the shares.
        multi_label: See `LabelRules`.
    """
    if multi_label:
        return labels.to(dtype)
    of_heads = labels.view(len(labels), -1).unbind(dim=1)
    return torch.cat([F.one_hot(k, size) for k, size in zip(of_heads, heads)], dim=1).to(dtype)
