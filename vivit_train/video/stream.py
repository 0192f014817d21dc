"""What another process makes piece by piece, and may hang or die at."""

from collections.abc import Callable, Generator, Iterator
from itertools import count
from math import inf
from typing import TypeVar

from vivit_train.video.guard import CAN_GUARD, Failure, Guard

Piece = TypeVar("Piece")


def guarded_stream(
    function: Callable[[], Iterator[Piece]], timeout: float, ahead: int = 1
) -> Generator[Piece, None, None]:
    """Goes through what a function yields in a `Guard`. Closing the generator ends the process.

    The process makes pieces while the last one is used. Those that it has made before it hangs or
    dies are not lost.

    Args:
        function: Gives an iterator, once, in the other process.
        timeout: Seconds that a piece may take in silence, see `Guard`.
        ahead: Pieces that are made ahead at most; they are held in memory.

    Yields:
        The pieces; tensors are handed over without a copy.

    Raises:
        Failure: If the process hangs or dies.
        Exception: What the iterator raised.
    """
    if not CAN_GUARD:
        yield from function()
        return
    pieces: Iterator[Piece] | None = None  # in the other process alone

    def make(number: int) -> tuple[Piece] | tuple[()] | None:
        """A piece, nothing after the last one, ``None`` in a process that has not made the rest."""
        nonlocal pieces
        if pieces is None:
            if number:
                return None
            pieces = function()
        for piece in pieces:
            return (piece,)
        return ()

    guard = Guard(make, timeout, most_calls=inf, ahead=ahead)
    try:
        for number in range(ahead):
            guard.send(number)
        for number in count(ahead):
            made = guard.answer()
            if made is None:
                raise Failure("crashed", "the decoding process is gone", None)
            if not made:
                return
            guard.send(number)
            yield made[0]
    finally:
        guard.close()
