"""What a run does about videos that cannot be decoded."""

import warnings
from typing import Any, cast

import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer

from vivit_train.data.batch import ClipBatch
from vivit_train.data.datamodule import VideoDataModule
from vivit_train.errors import UserError
from vivit_train.io.layout import CheckpointContent


class BrokenVideos(Callback):
    """Names each video that cannot be decoded once, and stops a run that has too many.

    It also keeps the record of the videos that the run gives up, `VideoDataModule.given_up`, the
    same on all processes and in the checkpoints.

    Args:
        max_bad_fraction: Fraction of an epoch's samples of this process.
    """

    def __init__(self, max_bad_fraction: float) -> None:
        self.max_bad_fraction = max_bad_fraction
        self.named: set[str] = set()
        self.count = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts afresh each epoch."""
        self.count = 0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: ClipBatch, batch_idx: int
    ) -> None:
        """Counts and names what the batch's workers could not decode.

        Raises:
            UserError: If more than ``max_bad_fraction`` of the epoch is broken.
        """
        self._name(batch, "replaced by another video")
        for row, epoch, reason in batch.given_up:
            data = _data_of(trainer)
            data.given_up.setdefault(data.records["train"].name(row), (epoch, reason))
        self.count += len(batch.broken)
        samples = int(trainer.num_training_batches) * len(batch.labels)
        if self.count > self.max_bad_fraction * samples:
            raise UserError(
                f"{self.count} of this epoch's {samples} samples could not be decoded, more than "
                f"data.max_bad_fraction={self.max_bad_fraction}, e.g. {sorted(self.named)[0]}. "
                "Repair or remove the files, or raise data.max_bad_fraction"
            )

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: ClipBatch, *_: Any, **__: Any
    ) -> None:
        """Names them."""
        self._name(batch, "counted as wrong")

    on_test_batch_start = on_validation_batch_start

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the record the same everywhere before the next epoch, which goes by it."""
        self._agree(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds the record; all processes come here, whoever writes the file."""
        self._agree(trainer)
        given_up = {name: list(entry) for name, entry in _data_of(trainer).given_up.items()}
        cast(CheckpointContent, checkpoint)["given_up"] = given_up

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds what the run had given up by then; an older checkpoint does not say."""
        content = cast(CheckpointContent, checkpoint)
        for name, (epoch, reason) in content.get("given_up", {}).items():
            _data_of(trainer).given_up.setdefault(name, (epoch, reason))

    def _name(self, batch: ClipBatch, what: str) -> None:
        # On each process: the others do not see this batch.
        for error in batch.broken:
            if error.path not in self.named:
                self.named.add(error.path)
                warnings.warn(f"{what}, cannot decode {error}", stacklevel=1)

    def _agree(self, trainer: Trainer) -> None:
        """Collects what any process has given up; the first time counts."""
        if trainer.world_size == 1:
            return
        everybodys: list[Any] = [None] * trainer.world_size
        data = _data_of(trainer)
        dist.all_gather_object(everybodys, data.given_up)
        entries = sorted((e, name) for theirs in everybodys for name, e in theirs.items())
        data.given_up = {name: entry for entry, name in reversed(entries)}


def _data_of(trainer: Trainer) -> VideoDataModule:
    return trainer.datamodule  # type: ignore[attr-defined]
