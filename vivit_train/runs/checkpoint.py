"""Checkpoints of a run: written whole or not at all."""

import os
import shutil
import traceback
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor

from vivit_train.errors import NO_ROOM, DiskFull, UserError
from vivit_train.io.files import temporary_name, written_whole
from vivit_train.io.layout import LAST, PREVIOUS

# What `torch.load(..., weights_only=True)` reads, with which a run resumes.
PLAIN = (type(None), bool, int, float, str, bytes, torch.Size, torch.dtype, torch.device)
HOLDS = (dict, OrderedDict, list, tuple, set)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, syncs it and renames it.

    A process that is killed while saving leaves the file of before whole. Lightning's own writer
    goes through the system's temporary folder, and across file systems its rename is a copy.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Saves, streaming to disk; the last checkpoint of before becomes the previous one.

        Raises:
            DiskFull: If there is no room; what was there before is left as it was.
            UserError: If the state of a part of the user's own is not plain: no run could resume
                from it.
        """
        states = {f"the callback {n}": s for n, s in checkpoint.get("callbacks", {}).items()}
        states["the optimiser"] = checkpoint.get("optimizer_states")
        states["the schedule"] = checkpoint.get("lr_schedulers")
        for part, state in states.items():
            if kind := foreign_type(state):
                raise UserError(
                    f"{part} puts a {kind} into the checkpoint, and what is saved "
                    "must be plain to be read again: have its state_dict give numbers, text, "
                    "tensors, and lists and dicts of these"
                )
        try:
            with written_whole(Path(path), replace_checkpoint) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            # torch.save turns a failed write into a RuntimeError, with the OSError behind it.
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            if cause.errno in NO_ROOM:
                raise DiskFull(Path(path), _bytes_of(checkpoint), cause) from error
            raise OSError(cause.errno, cause.strerror, str(path)) from error


def replace_checkpoint(new: Path, path: Path) -> None:
    """Puts a file that is written and synced into its place, atomically.

    Where the place is the last checkpoint's, the file there becomes ``previous.ckpt``: by a
    second name for it, so that there is a last one at every moment, or where the file system has
    no hard links by renaming it, so that there is a previous one.
    """
    if path.name == LAST and path.is_file():
        previous = path.with_name(PREVIOUS)
        second = temporary_name(previous)
        try:
            os.link(path, second)
        except OSError:
            os.replace(path, previous)
        else:
            os.replace(second, previous)
            # Where both are names of one file already, the system leaves both.
            second.unlink(missing_ok=True)
    os.replace(new, path)


def link_or_copy(source: Path, target: Path) -> None:
    """Gives a checkpoint a second name; copies where the file system has no hard links."""
    temporary = temporary_name(target)
    try:
        os.link(source, temporary)
    except OSError:
        with source.open("rb") as whole, written_whole(target, replace_checkpoint) as copy:
            shutil.copyfileobj(whole, copy)
    else:
        replace_checkpoint(temporary, target)
        temporary.unlink(missing_ok=True)  # if the target was a name of the same file


def foreign_type(state: Any) -> str | None:
    """The type of something in a state that would be refused when the state is read again."""
    if isinstance(state, Tensor) or type(state) in PLAIN:
        return None
    if type(state) not in HOLDS:
        return f"{type(state).__module__}.{type(state).__qualname__}"
    parts = [*state, *state.values()] if isinstance(state, Mapping) else state
    return next(filter(None, map(foreign_type, parts)), None)


def _bytes_of(content: Any) -> int:
    """Bytes of all tensors in a checkpoint."""
    if isinstance(content, Tensor):
        return content.nbytes
    if isinstance(content, dict):
        content = content.values()
    elif not isinstance(content, list | tuple):
        return 0
    return sum(map(_bytes_of, content))


@contextmanager
def restoring(ckpt_path: str | None) -> Iterator[None]:
    """Within a fit, an error while a checkpoint's state is restored names the checkpoint.

    What lies in the state of an optimiser, a loop or a callback only they themselves know.

    Raises:
        UserError: Then.
    """
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        connector = "checkpoint_connector.py"  # Lightning's
        if not any(f.filename.endswith(connector) and "restore" in f.name for f in frames):
            raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise UserError(
            f"ckpt_path={ckpt_path}: its training state cannot be restored ({reason}): this "
            "version writes another form. For a new run from its weights use model.pretrained"
        ) from error
