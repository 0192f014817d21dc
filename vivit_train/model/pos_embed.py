"""Learned position embeddings on a (t, h, w) token grid, and interpolation to another."""

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int, int]


def interpolate_positions(table: Tensor, source: Grid, target: Grid, num_prefix: int = 0) -> Tensor:
    """Resamples a position table from one token grid to another.

    Linear along each of time, height and width, with the first and last position of every axis
    kept (``align_corners``). This is Scenic's rule: it reproduces ``scipy.ndimage.zoom(order=1)``,
    which Scenic uses for images and for time. Computed in float32 at least, whatever the table's
    type. Where the grids are equal, the result is the table itself, to the bit.

    Args:
        table: ``[1, num_prefix + t*h*w, D]``, tokens in (t, h, w) order, w fastest.
        source: The table's own grid (t, h, w).
        target: The grid wanted (t, h, w); need be neither square nor larger nor smaller.
        num_prefix: Leading rows with no place on the grid (the CLS token); kept as they are.

    Returns:
        ``[1, num_prefix + t'*h'*w', D]`` in the table's type.

    Raises:
        ValueError: If the table's rows are not ``num_prefix + t*h*w``.
    """
    t, h, w = source
    if table.shape[1] != num_prefix + t * h * w:
        raise ValueError(
            f"a position table with {table.shape[1]} rows does not fit "
            f"{num_prefix} prefix tokens + a {t}x{h}x{w} grid = {num_prefix + t * h * w}"
        )
    if tuple(source) == tuple(target):
        return table
    prefix, positions = table.split([num_prefix, t * h * w], dim=1)
    dtype = torch.promote_types(table.dtype, torch.float32)
    volume = positions.to(dtype).unflatten(1, source).permute(0, 4, 1, 2, 3)  # [1, D, t, h, w]
    volume = F.interpolate(volume, size=tuple(target), mode="trilinear", align_corners=True)
    positions = volume.flatten(2).transpose(1, 2).to(table.dtype)  # [1, t'*h'*w', D]
    return torch.cat([prefix, positions], dim=1)
