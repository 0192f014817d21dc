"""The clips of a batch, which differ in size, in one block of memory."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

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

    Like a list it is made of its elements, which are copied side by side: Lightning takes a batch
    apart and puts it together again where the precision is not 32 bits.

    Args:
        clips: Of one dtype.
    """

    def __init__(self, clips: Iterable[Tensor] = ()) -> None:
        super().__init__(clips)
        self.block: Tensor | None = None
        self.places: list[Place] = []
        if self:
            block, starts = pack(self)
            self._lie_in(block, [Place(start, tuple(c.shape)) for start, c in zip(starts, self)])

    @classmethod
    def of(cls, block: Tensor | None, places: Sequence[Place]) -> "Clips":
        """Views of a block; none is copied.

        Args:
            block: ``[n]``, or ``None`` for no clips.
            places: Of the clips; they may overlap.
        """
        clips = cls()
        if block is not None:
            clips._lie_in(block, places)
        return clips

    def _lie_in(self, block: Tensor, places: Sequence[Place]) -> None:
        self.block, self.places = block, list(places)
        self[:] = [block[start : start + math.prod(shape)].view(shape) for start, shape in places]

    def moved(self, move: Callable[[Tensor], Tensor]) -> "Clips":
        """The clips in another block, which ``move`` makes of this one."""
        return Clips.of(self.block if self.block is None else move(self.block), self.places)

    def __reduce__(self) -> tuple[Any, tuple[Tensor | None, list[Place]]]:
        return Clips.of, (self.block, self.places)
