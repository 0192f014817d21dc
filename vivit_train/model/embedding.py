"""Clips to tokens: tubelets, and uniform frame sampling. Shapes: see `vivit.py`."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vivit_train.errors import UserError
from vivit_train.model.pos_embed import Grid


class TubeletEmbedding(nn.Module):
    """Cuts a clip into tubelets and projects each to a token. Paper: ViViT §3.2.

    A convolution whose stride is its kernel, computed as one matrix product on a view of the
    clip. With ``sampled_frames`` it is the paper's uniform frame sampling instead.

    Args:
        num_channels: Channels C of a frame.
        hidden_size: Width D of a token.
        tubelet_size: Frames and pixels (t, h, w) that one token covers.
        sampled_frames: Frames to pick from the clip, or ``None`` for all.
    """

    def __init__(
        self,
        num_channels: int,
        hidden_size: int,
        tubelet_size: Sequence[int],
        sampled_frames: int | None = None,
    ) -> None:
        super().__init__()
        self.tubelet_size: Grid = (tubelet_size[0], tubelet_size[1], tubelet_size[2])
        self.sampled_frames = sampled_frames
        if sampled_frames is not None and (sampled_frames < 1 or tubelet_size[0] != 1):
            raise UserError(
                f"model.sampled_frames={sampled_frames} embeds single frames: it must be 1 or more "
                f"and model.tubelet_size must start with 1, got {list(tubelet_size)}"
            )
        # [D, C, t, h, w], the layout of a Conv3d.
        self.weight = nn.Parameter(torch.empty(hidden_size, num_channels, *tubelet_size))
        self.bias = nn.Parameter(torch.empty(hidden_size))

    def grid(self, num_frames: int, height: int, width: int) -> Grid:
        """Tokens along (t, h, w) for a clip of this size; raises UserError where none fit."""
        size = (num_frames, height, width)
        if any(s < p or s % p for s, p in zip(size, self.tubelet_size)):
            raise UserError(
                f"a clip of {num_frames} frames of {height}x{width} cannot be cut into tubelets of "
                f"{self.tubelet_size[0]} frames of {self.tubelet_size[1]}x{self.tubelet_size[2]}: "
                "use multiples (model.num_frames, model.image_size, model.tubelet_size)"
            )
        if self.sampled_frames is not None:
            num_frames = len(uniform_frames(num_frames, self.sampled_frames))
        pt, ph, pw = self.tubelet_size
        return num_frames // pt, height // ph, width // pw

    def forward(self, clips: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` -> ``[B, N, D]``, tokens in (t, h, w) order, w fastest."""
        num_channels = self.weight.shape[1]
        if clips.ndim != 5 or clips.shape[1] != num_channels:
            raise UserError(
                f"clips must be [B, {num_channels}, T, H, W], got {list(clips.shape)}; "
                "frames as decoded, [B, T, H, W, C], go through the processor first"
            )
        t, h, w = self.grid(*clips.shape[2:])
        if self.sampled_frames is not None:
            clips = clips[:, :, uniform_frames(clips.shape[2], self.sampled_frames)]
        pt, ph, pw = self.tubelet_size
        x = clips.reshape(clips.shape[0], num_channels, t, pt, h, ph, w, pw)
        x = x.permute(0, 2, 4, 6, 1, 3, 5, 7)  # [B, t, h, w, C, pt, ph, pw]
        x = x.reshape(clips.shape[0], t * h * w, -1)  # [B, N, C*pt*ph*pw]
        return F.linear(x, self.weight.flatten(1), self.bias)


def uniform_frames(num_frames: int, sampled_frames: int) -> list[int]:
    """Indices of the frames that uniform frame sampling embeds.

    Scenic's rule (``sample_frames_uniformly``), kept with its rounding error: the
    last step may fall just inside the clip, so a few pairs give one frame more than asked, e.g.
    3 for (8, 2).

    Args:
        num_frames: Frames in the clip.
        sampled_frames: Frames wanted; as many as the clip has, or more, gives every frame.

    Returns:
        Increasing frame indices.
    """
    if sampled_frames >= num_frames:
        return list(range(num_frames))
    step = num_frames / (sampled_frames + 1)
    positions = np.arange(step, num_frames, step, dtype=np.float32)
    return positions.round().clip(max=num_frames - 1).astype(int).tolist()
