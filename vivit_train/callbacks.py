"""What happens around the training step: seeds, checkpoints, broken videos."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from vivit_train.data.dataset import Batch
from vivit_train.data.sampler import derive_seed
from vivit_train.errors import UserError


class StepSeed(Callback):
    """Seeds each training step by (seed, step, rank).

    Dropout and drop path then draw the same in a resumed run as in one that never stopped, with
    no random state in the checkpoint, and differently on each rank.

    Args:
        seed: The run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Seeds torch's global generators, of the CPU and of every GPU."""
        step = trainer.fit_loop.epoch_loop.total_batch_idx
        torch.manual_seed(derive_seed(self.seed, "step", step, trainer.global_rank))


class Checkpoints(Checkpoint):
    """Keeps ``last.ckpt``, from which the run goes on, and ``best.ckpt``, the best validation.

    One callback writes both: Lightning's ``ModelCheckpoint`` saves either every so many steps or
    after epochs, and serialises twice when the last is also the best.

    Args:
        folder: Where to write.
        monitor: The validation score that says which is best; higher is better.
        every_n_train_steps: Optimiser steps between saves inside an epoch; 0: only after each
            validation and epoch.
    """

    def __init__(
        self, folder: str | Path, monitor: str = "val/top1", every_n_train_steps: int = 0
    ) -> None:
        self.folder = Path(folder)
        self.monitor = monitor
        self.every_n_train_steps = every_n_train_steps
        self.best_score = float("-inf")
        self._last_saved_step = -1

    @property
    def best(self) -> Path:
        """Path of the best checkpoint."""
        return self.folder / "best.ckpt"

    @property
    def last(self) -> Path:
        """Path of the last checkpoint."""
        return self.folder / "last.ckpt"

    def state_dict(self) -> dict[str, Any]:
        """The best score so far, so that a resumed run does not overwrite a better one."""
        return {"best_score": self.best_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        self.best_score = state_dict["best_score"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes all ranks write to rank 0's folder."""
        self.folder = Path(trainer.strategy.broadcast(str(self.folder)))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts the step at which training starts as saved.

        With gradient accumulation it lasts for several batches more, after each of which a
        checkpoint would lack the gradients so far.
        """
        self._last_saved_step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Saves every so many optimiser steps."""
        step = trainer.global_step
        if self.every_n_train_steps and step % self.every_n_train_steps == 0:
            self._save_last(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves, and keeps the file as the best if it is.

        Raises:
            UserError: If validation gives no score of the name to monitor.
        """
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.monitor not in trainer.callback_metrics:
            scores = [name for name in trainer.callback_metrics if name.startswith("val/")]
            raise UserError(
                f"callbacks.monitor={self.monitor} is not among the validation's scores: "
                f"{', '.join(scores)}"
            )
        score = float(trainer.callback_metrics[self.monitor])
        if not score > self.best_score:  # nor NaN
            self._save_last(trainer)
            return
        self.best_score = score  # before saving: the checkpoint carries it
        # The best before the last: a run killed in between goes on from the previous last, which
        # knows nothing of this score, and arrives here again.
        trainer.save_checkpoint(self.best)
        self._last_saved_step = trainer.global_step
        if trainer.is_global_zero:
            # Another name for the same bytes: neither file is ever overwritten, only replaced.
            link_or_copy(self.best, self.last)
        trainer.strategy.barrier("best checkpoint")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves after an epoch that had no validation."""
        self._save_last(trainer)

    def _save_last(self, trainer: Trainer) -> None:
        if trainer.global_step != self._last_saved_step:
            self._last_saved_step = trainer.global_step
            trainer.save_checkpoint(self.last)


def link_or_copy(source: Path, target: Path) -> None:
    """Gives a file a second name atomically; copies where the file system has no hard links."""
    temporary = target.with_name(f"{target.name}.tmp-{os.getpid()}")
    try:
        os.link(source, temporary)
    except OSError:
        temporary.write_bytes(source.read_bytes())
    os.replace(temporary, target)


class BrokenVideos(Callback):
    """Names each video that cannot be decoded once, and stops a run that has too many.

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
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Counts and names what the batch's workers could not decode.

        Raises:
            UserError: If more than ``max_bad_fraction`` of the epoch is broken.
        """
        for error in batch.broken:
            if error.path not in self.named:
                self.named.add(error.path)
                rank_zero_warn(f"replaced by another video, cannot decode {error}")
        self.count += len(batch.broken)
        samples = int(trainer.num_training_batches) * len(batch.labels)
        if self.count > self.max_bad_fraction * samples:
            raise UserError(
                f"{self.count} of this epoch's {samples} samples could not be decoded, more than "
                f"data.max_bad_fraction={self.max_bad_fraction}, e.g. {sorted(self.named)[0]}. "
                "Mend or remove the files, or raise data.max_bad_fraction"
            )
