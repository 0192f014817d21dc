"""Hands tensors to other processes, in files without a name.

torch's own way asks for the files over a socket in a folder under /tmp, which a process that is
killed leaves behind; fills shared memory page by page, which takes twice as long; and takes it from
/dev/shm, which is small in containers.
"""

import io
import os
import pickle
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler, recv_handle, send_handle
from typing import Any, BinaryIO

import torch
import torch.multiprocessing  # teaches ForkingPickler what a tensor is made of
from torch import Tensor

# Each tensor begins at a multiple of these bytes, as an allocator would place it.
_ALIGNMENT = 64


class _Pickler(ForkingPickler):
    """Leaves out the memory of tensors, which follows as files."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.storages: list[torch.UntypedStorage] = []

    def persistent_id(self, part: Any) -> int | None:
        if not isinstance(part, torch.UntypedStorage) or not part.nbytes():
            return None
        self.storages.append(part)
        return part.nbytes()


class _Unpickler(pickle.Unpickler):
    """Maps the files that follow into memory; no file stays open."""

    def __init__(self, content: bytes, connection: Connection) -> None:
        super().__init__(io.BytesIO(content))
        self.connection = connection

    def persistent_load(self, nbytes: int) -> torch.UntypedStorage:
        file = recv_handle(self.connection)
        try:
            # By its name: a map of the descriptor would keep that, one for every clip of a batch.
            map_file: Any = torch.UntypedStorage.from_file
            return map_file(f"/proc/self/fd/{file}", True, nbytes)
        finally:
            os.close(file)


def send(connection: Connection, message: Any) -> None:
    """Sends a message, its tensors in files."""
    body = io.BytesIO()
    pickler = _Pickler(body)
    pickler.dump(message)
    with ExitStack() as stack:
        files = [stack.enter_context(_file_of([_bytes(s)])) for s in pickler.storages]
        connection.send_bytes(body.getbuffer())
        for file in files:
            send_handle(connection, file.fileno(), None)


def receive(connection: Connection) -> Any:
    """The next message."""
    return _Unpickler(connection.recv_bytes(), connection).load()


def pack(tensors: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
    """Copies tensors of one dtype into one block of memory, side by side.

    On Linux the block is a file, of which other processes get a descriptor: one for all tensors,
    without another copy.

    Returns:
        The block, ``[n]``, and where in it each tensor begins.
    """
    step = max(1, _ALIGNMENT // tensors[0].element_size())
    gaps = [-tensor.numel() % step for tensor in tensors]
    starts = [0]
    for tensor, gap in zip(tensors, gaps):
        starts.append(starts[-1] + tensor.numel() + gap)
    parts = [
        part
        for tensor, gap in zip(tensors, gaps)
        for part in (tensor.reshape(-1), tensor.new_zeros(gap))
    ]
    if sys.platform != "linux" or not starts[-1]:
        return torch.cat(parts), starts[:-1]
    with _file_of(part.view(torch.uint8) for part in parts) as file:
        from_descriptor: Any = torch.UntypedStorage._new_shared_fd_cpu  # type: ignore[attr-defined]
        nbytes = starts[-1] * tensors[0].element_size()
        storage = from_descriptor(file.fileno(), nbytes)
    return torch.empty(0, dtype=tensors[0].dtype).set_(storage), starts[:-1]


def _file_of(parts: Iterable[Tensor]) -> BinaryIO:
    """A file in memory of some bytes: uint8 ``[n]`` each."""
    file = os.fdopen(os.memfd_create("tensor"), "wb")
    for part in parts:
        file.write(part.numpy().data)
    file.flush()
    return file


def _bytes(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(storage)
