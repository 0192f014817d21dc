"""The clips of a batch, which differ in size, in one block of memory."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from vivit_train.video.handover import pack


class Place(NamedTuple):
    """Where a clip lies: its first element in the block, and its shape."""

    start: int
    shape: tuple[int, ...]


class Clips(list[Tensor]):
    """A list of tensors, each a view of its place in one block.

    One copy moves them all to a device, and one file descriptor takes them to another process:
    with one for each clip, a batch of some hundreds meets the system's limit on open files.

    Args:
        block: ``[n]``, or ``None`` for no clips.
        places: Of the clips; they may overlap.
    """

    def __init__(self, block: Tensor | None = None, places: Sequence[Place] = ()) -> None:
        self.block = block
        self.places = list(places)
        super().__init__(
            block[start : start + math.prod(shape)].view(shape)
            for start, shape in places
            if block is not None
        )

    @classmethod
    def side_by_side(cls, clips: Sequence[Tensor]) -> "Clips":
        """Copies clips of one dtype into a block."""
        if not clips:
            return cls()
        block, starts = pack(clips)
        return cls(block, [Place(start, tuple(c.shape)) for start, c in zip(starts, clips)])

    def moved(self, move: Callable[[Tensor], Tensor]) -> "Clips":
        """The clips in another block, which ``move`` makes of this one."""
        return Clips(self.block if self.block is None else move(self.block), self.places)

    def repeated(self, times: int) -> "Clips":
        """Every clip several times, side by side in the list; none is copied."""
        return Clips(self.block, [place for place in self.places for _ in range(times)])

    def __reduce__(self) -> tuple[type["Clips"], tuple[Tensor | None, list[Place]]]:
        return Clips, (self.block, self.places)
