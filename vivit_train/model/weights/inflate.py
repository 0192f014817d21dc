"""From an image ViT to a video model: Scenic's rules. Paper: ViViT §3.4."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from vivit_train.errors import UserError
from vivit_train.model.pos_embed import Grid, interpolate_positions

CHOICES: dict[str, tuple[str | None, ...]] = {
    "inflation": ("central", "average", "average_arp", None),
    "positions": ("tile", "resize", "resize_tile", None),
    "spatial_attention": ("copy", "random"),
    "temporal_attention": ("copy", "zero", "random"),
}


@dataclass(frozen=True)
class FromImage:
    """How an image ViT's weights become those of a video model.

    Attributes:
        inflation: Of the embedding, from one frame to a tubelet's: ``central``, all in the frame
            t // 2 and zeros elsewhere; ``average``, 1/t in each; ``average_arp``, weighted as
            approximate rank pooling weights frames, so that later ones count more. ``None``: keep
            the model's own embedding.
        positions: ``tile`` repeats the image's positions for every frame and needs the same grid
            of patches; ``resize`` interpolates them, for encoders of single frames (Model 2);
            ``resize_tile`` does both. ``None``: keep the model's own.
        spatial_attention: Model 3's attention over space: ``copy`` the image's, or ``random``,
            the model's own.
        temporal_attention: Model 3's attention over time: ``copy`` the image's, as Scenic's
            code does; ``zero``, as the paper prefers: the branch adds nothing at first. Only the
            output projection is zero. If queries, keys and values were zero too, as in
            Scenic's code, no gradient would ever reach any of them. ``random``: the model's own.

    Raises:
        UserError: For any other value.
    """

    inflation: str | None = "central"
    positions: str | None = "resize_tile"
    spatial_attention: str = "copy"
    temporal_attention: str = "zero"

    def __post_init__(self) -> None:
        for field in fields(self):
            value, choices = getattr(self, field.name), CHOICES[field.name]
            if value not in choices:
                listed = ", ".join("null" if choice is None else choice for choice in choices)
                raise UserError(f"model.from_image.{field.name}={value!r} is not one of {listed}")


def inflate_tubelets(kernel: Tensor, depth: int, inflation: str) -> Tensor:
    """Spreads a projection of patches over the frames of a tubelet.

    Args:
        kernel: ``[D, C, 1, h, w]``.
        depth: Frames of a tubelet, 1 or more.
        inflation: ``central``, ``average`` or ``average_arp``, see `FromImage`.

    Returns:
        ``[D, C, depth, h, w]``.
    """
    if inflation == "central":
        weights = [float(frame == depth // 2) for frame in range(depth)]
    elif inflation == "average":
        weights = [1 / depth] * depth
    else:
        harmonic = [sum(1 / k for k in range(1, n + 1)) for n in range(depth + 1)]
        weights = [
            (2 * (depth - i + 1) - (depth + 1) * (harmonic[depth] - harmonic[i - 1])) / depth
            for i in range(1, depth + 1)
        ]
    return kernel * torch.tensor(weights, dtype=kernel.dtype).view(-1, 1, 1)


def inflate_positions(
    table: Tensor, source: Grid, target: Grid, num_prefix: int, positions: str
) -> Tensor:
    """An image's positions for every frame of a clip.

    Args:
        table: ``[1, num_prefix + h*w, D]``.
        source: The image's grid (1, h, w).
        target: The model's grid (t, h', w').
        num_prefix: Leading rows with no place on the grid; kept as they are.
        positions: ``tile``, ``resize`` or ``resize_tile``, see `FromImage`.

    Returns:
        ``[1, num_prefix + t*h'*w', D]``.

    Raises:
        UserError: If ``tile`` would have to resize, or ``resize`` to tile.
    """
    t, *patches = target
    if positions == "tile" and list(source[1:]) != patches:
        raise UserError(
            f"model.from_image.positions=tile needs the image's grid of patches, {source[1]}x"
            f"{source[2]}, in every frame, and the model's is {patches[0]}x{patches[1]}: use "
            "resize_tile"
        )
    if positions == "resize" and t != 1:
        raise UserError(
            f"model.from_image.positions=resize gives positions to one frame, and the model's "
            f"table has {t}: use resize_tile"
        )
    table = interpolate_positions(table, source, (1, patches[0], patches[1]), num_prefix)
    prefix, frame = table[:, :num_prefix], table[:, num_prefix:]
    return torch.cat([prefix, frame.repeat(1, t, 1)], dim=1)
