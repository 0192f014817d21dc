"""A CUDA stream for copies and transforms, which overlap with what the model does meanwhile."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class SideStream:
    """Work on a GPU beside that of the current stream; on other devices it changes nothing.

    The host issues a batch's copy and transforms while the GPU still works on the step before.
    On one stream they would wait for that step, and the next one for them.
    """

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None

    @contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        """Within, work goes to the side stream of this device."""
        if device.type != "cuda":
            yield
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)
        with torch.cuda.stream(self._stream):
            yield

    def hand_over(self, tensors: Iterable[Tensor | None]) -> None:
        """Makes the current stream wait for what was issued, and keeps its results in memory.

        Args:
            tensors: Made on the side stream, and used on the current one from here on.
        """
        if self._stream is None:
            return
        current = torch.cuda.current_stream(self._stream.device)
        current.wait_stream(self._stream)
        for tensor in tensors:
            if tensor is not None:
                # Else its memory would go to the next batch when the last reference ends, which
                # is before the GPU has read it.
                tensor.record_stream(current)
