"""Whether a resumed run, and each of its processes, trains and validates on the same videos."""

import gzip
import json
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from vivit_train.class_names import shorten
from vivit_train.data.datamodule import VideoDataModule
from vivit_train.errors import UserError
from vivit_train.io.files import written_whole
from vivit_train.io.layout import VIDEOS_FILE, run_of

ROLES = ("train", "val")


class SameVideos(Callback):
    """Compares the splits of all processes, and keeps their digests in the checkpoints.

    All take their clips as the first does.

    Processes whose splits differ would train on other videos than meant, or wait for each other
    for ever where one has fewer batches.

    Args:
        run_dir: The run's folder.
        writes: Whether to write the names of the videos into it when training begins.
    """

    def __init__(self, run_dir: Path, writes: bool) -> None:
        self.run_dir = run_dir
        self.writes = writes
        self._splits: dict[str, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives every process the sampling of the first, and compares their splits with its own.

        Raises:
            UserError: Naming the processes and what differs.
        """
        data: VideoDataModule = trainer.datamodule  # type: ignore[attr-defined]
        data.sampling = trainer.strategy.broadcast(data.sampling)  # measured by the first alone
        self._splits = digests(data)
        if trainer.world_size > 1:
            _check_processes(data, self._splits, trainer.global_rank, trainer.world_size)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes videos.json.gz."""
        if self.writes and trainer.is_global_zero:
            data: VideoDataModule = trainer.datamodule  # type: ignore[attr-defined]
            content = {
                role: {
                    **self._splits[role],
                    "classes": rows_per_class(data, role),
                    "names": _names(data, role),
                }
                for role in ROLES
            }
            with written_whole(self.run_dir / VIDEOS_FILE) as file:
                file.write(gzip.compress(json.dumps(content).encode(), 1))

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds the digests of the training and the validation split."""
        checkpoint["splits"] = {role: self._splits[role] for role in ROLES}


def digests(data: VideoDataModule) -> dict[str, dict[str, Any]]:
    """The digest and the number of rows of each split that was read."""
    return {
        role: {"digest": records.digest(), "rows": len(records)}
        for role, records in data.records.items()
    }


def rows_per_class(data: VideoDataModule, role: str) -> dict[str, int]:
    """Class name -> rows of a split; with several heads, of each head's classes."""
    labels = data.records[role].labels.ravel()
    counts = np.bincount(labels, minlength=len(data.class_names)).tolist()
    return dict(zip(data.class_names, counts))


def known_validation(checkpoint: Path) -> frozenset[str]:
    """The validation videos of the run that a checkpoint belongs to, as far as its folder tells.

    What a data set holds out by itself depends on the videos that are there, and on the version of
    this package: a run is resumed and evaluated on those that it did not train on.
    """
    known = _saved(run_of(checkpoint)).get("val", {})
    return frozenset(known.get("names", ()))


def check_same_videos(
    saved: dict[str, Any] | None, data: VideoDataModule, run_dir: Path, allow_others: bool
) -> None:
    """Refuses to resume a run on other videos, or on the same ones in another order.

    Args:
        saved: What the checkpoint says of its splits; ``None`` in one of an older version.
        data: The DataModule to go on with.
        run_dir: The folder of the run that the checkpoint belongs to.
        allow_others: Whether to warn instead.

    Raises:
        UserError: Naming videos that are new or gone, as far as the run's folder tells.
    """
    now = digests(data)
    for role in ROLES:
        if saved is None or saved[role] == now[role]:
            continue
        names = _saved_names(run_dir, role, saved[role]["digest"])
        if names is None:
            told = f"{saved[role]['rows']} rows before, {now[role]['rows']} now"
        else:
            told = difference(names, _names(data, role))
        told = f"{data.name}: the {role} split is not the one that the run began with: {told}"
        if not allow_others:
            raise UserError(
                f"{told}. Bring the data back to what it was (where `vivit check` has run since, "
                "data.verdicts=null uses all videos again). Or go on with these videos by "
                "allow_other_videos=true: in the epoch under way some are then seen twice or not "
                "at all"
            )
        rank_zero_warn(f"{told}; goes on with it (allow_other_videos=true)")


def difference(before: Sequence[str], now: Sequence[str]) -> str:
    """How two lists of videos differ, in words."""
    old, new = set(before), set(now)
    added = [name for name in now if name not in old]
    gone = [name for name in before if name not in new]
    parts = [
        f"{len(names)} {what} ({shorten(names, 3)})"
        for what, names in (("new", added), ("gone", gone))
        if names
    ]
    return ", ".join(parts) or "the same videos in another order or with other classes"


def _check_processes(
    data: VideoDataModule, splits: dict[str, Any], rank: int, world_size: int
) -> None:
    everyone: list[Any] = [None] * world_size
    dist.all_gather_object(everyone, (splits, data.class_names))
    different = [other for other in range(world_size) if everyone[other] != everyone[0]]
    if not different:
        return
    # All processes get here. The names of the first are sent only where something differs.
    names = [{role: _names(data, role) for role in splits}]
    dist.broadcast_object_list(names, src=0)
    told = [
        f"{role}: {difference(theirs, _names(data, role))}"
        for role, theirs in names[0].items()
        if splits[role] != everyone[0][0][role]
    ] or ["other class names"]
    dist.all_gather_object(everyone, "; ".join(told))
    if rank != 0:
        sys.exit(1)  # the first one says it
    listed = "; ".join(f"process {other} ({everyone[other]})" for other in different[:3])
    raise UserError(
        f"{data.name}: {len(different)} of {world_size} processes have other videos than the first "
        f"one: {listed}. All machines must see the same files under data.root={data.root}"
    )


def _names(data: VideoDataModule, role: str) -> list[str]:
    records = data.records[role]
    return [records.name(row) for row in range(len(records))]


def _saved_names(run_dir: Path, role: str, digest: str) -> list[str] | None:
    """The names of the videos with this digest; ``None`` where the folder does not have them."""
    known = _saved(run_dir).get(role, {})
    return list(known["names"]) if known.get("digest") == digest else None


def _saved(run_dir: Path) -> dict[str, dict[str, Any]]:
    """What videos.json.gz says of each role; nothing where it is not there, or damaged."""
    try:
        content = json.loads(gzip.decompress((run_dir / VIDEOS_FILE).read_bytes()))
        return {role: content[role] for role in ROLES if isinstance(content[role]["names"], list)}
    except (OSError, EOFError, ValueError, LookupError, TypeError, zlib.error):
        return {}
