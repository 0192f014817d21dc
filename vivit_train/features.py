"""Features: what a model makes of videos before its head, and whose neighbours they are."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vivit_train.data.datamodule import VideoDataModule
from vivit_train.data.dataset import EvalDataset
from vivit_train.errors import UserError
from vivit_train.model.vivit import ViViT
from vivit_train.video.decode import DecodeError

# Videos whose similarities to all others are in memory at a time.
ROWS = 256


@dataclass(frozen=True)
class SplitFeatures:
    """The videos of a split as a model sees them, in the split's order.

    Attributes:
        names: N names, as in the tables of a run.
        labels: int64 ``[N]``, of several heads ``[N, heads]``: indices into all class names;
            multi-label ``[N, K]``: 0 or 1 of each.
        values: float32 ``[N, D]``: see `ViViT.representation`, the mean over a video's views.
        broken: Videos that could not be decoded; they are not among the N.
    """

    names: list[str]
    labels: Tensor
    values: Tensor
    broken: list[DecodeError]


@torch.no_grad()
def features_of_split(
    model: ViViT, data: VideoDataModule, role: str, advance: Callable[[str], None]
) -> SplitFeatures:
    """Looks at each video of a split once, with the views of the test.

    Besides the features, memory holds a batch of ``data.batch_size`` clips and those that the
    workers have ready.

    Args:
        model: In evaluation mode; it computes in its own precision, where it is.
        data: Its role is set up; its processor is used.
        role: ``train`` or ``test``.
        advance: Called after each video with ``seen`` or ``failed``.

    Raises:
        UserError: If no video can be decoded, or features are NaN or infinite.
    """
    records, (temporal, spatial) = data.records[role], data.eval_views
    dataset = EvalDataset(records, data.sampling, temporal, data.seed, data.processor)
    videos_per_batch = max(1, data.batch_size // (temporal * spatial))
    rows: list[int] = []
    values: list[Tensor] = []
    broken: list[DecodeError] = []
    for batch in data.loader(dataset, range(len(records)), videos_per_batch):
        decoded = batch.decoded
        clips = batch.to(model.head.weight.device).processed(data.processor, spatial).clips
        seen = model.representation(clips)  # [B * views, D]
        seen = seen.unflatten(0, (len(decoded), -1)).mean(dim=1).float().cpu()  # [B, D]
        values.append(seen[decoded])
        rows += batch.indices[decoded].tolist()
        broken += batch.broken
        for is_decoded in decoded.tolist():
            advance("seen" if is_decoded else "failed")
    names = [records.name(row) for row in rows]
    if not rows:
        raise UserError(
            f"none of the {len(records)} videos of the split {data.splits[role]!r} can be decoded, "
            f"the first: {broken[0]}. Check data.root and the files"
        )
    found = torch.cat(values)
    odd = [name for name, is_finite in zip(names, found.isfinite().all(dim=1)) if not is_finite]
    if odd:
        raise UserError(
            f"the features of {len(odd)} videos are NaN or infinite, the first {odd[0]}: the "
            "weights diverged in training, or numbers overflow. Take an earlier checkpoint"
        )
    return SplitFeatures(names, torch.as_tensor(records.labels[rows]).long(), found, broken)


def vote_of_neighbours(
    values: Tensor, labels: Tensor, number: int, others: Tensor | None = None
) -> Tensor:
    """The most frequent class among the nearest videos, by cosine similarity.

    Of classes with as many votes it is the first, as in scikit-learn.

    Args:
        values: float ``[N, D]``, of videos whose classes are known.
        labels: int64 ``[N]``.
        number: Neighbours that vote.
        others: float ``[M, D]``, of the videos to name; ``None``: the N themselves, each by the
            others.

    Returns:
        int64 ``[M]``, or ``[N]``.
    """
    known = F.normalize(values, dim=1)
    asked = known if others is None else F.normalize(others, dim=1)
    num_classes = int(labels.max()) + 1
    first_wins = torch.arange(num_classes, 0, -1)
    found = []
    for start in range(0, len(asked), ROWS):
        near = asked[start : start + ROWS] @ known.T  # [R, N]
        if others is None:
            near.diagonal(start).fill_(-torch.inf)  # of row r, the video start + r itself
        neighbours = labels[near.topk(number).indices]  # [R, number]
        votes = torch.zeros(len(near), num_classes, dtype=torch.int64)
        votes.scatter_add_(1, neighbours, torch.ones_like(neighbours))
        found.append((votes * (num_classes + 1) + first_wins).argmax(dim=1))
    return torch.cat(found)
