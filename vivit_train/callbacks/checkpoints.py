"""Which checkpoints a run keeps: the last and the best."""

import math
import sys
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from vivit_train.checkpoint import link_or_copy
from vivit_train.data.datamodule import VideoDataModule
from vivit_train.data.dataset import Batch
from vivit_train.errors import UserError
from vivit_train.metrics import MultiHeadAccuracy, VideoAccuracy
from vivit_train.resume import BEST, LAST
from vivit_train.run_dir import MetricsCsv
from vivit_train.signals import Stopped, validates_next
from vivit_train.terminal import say


class Checkpoints(Checkpoint):
    """Keeps ``last.ckpt``, from which the run goes on, and ``best.ckpt``, the best validation.

    Beside them is ``previous.ckpt``, the last before the last, should the last be damaged. One
    callback writes both: Lightning's ``ModelCheckpoint`` saves either every so many steps or
    after epochs, and serialises twice when the last is also the best.

    Args:
        folder: Where to write.
        monitor: The validation score that says which is best, e.g. ``val/top1``; higher is better,
            but of ``val/loss`` lower. Of equal scores the one with the lower ``val/loss`` is
            best, and of equal losses the later one.
        every_n_train_steps: Optimiser steps between saves inside an epoch; 0: only after each
            validation and epoch.
    """

    def __init__(
        self, folder: str | Path, monitor: str = "val/top1", every_n_train_steps: int = 0
    ) -> None:
        self.folder = Path(folder)
        self.monitor = monitor
        self.every_n_train_steps = every_n_train_steps
        # Of the best so far: its score, the higher the better, and its loss.
        self.best_score, self.best_loss = -math.inf, math.inf
        self._last_saved_step = -1
        self._stop_is_due = False

    @property
    def best(self) -> Path:
        """Path of the best checkpoint."""
        return self.folder / BEST

    @property
    def last(self) -> Path:
        """Path of the last checkpoint."""
        return self.folder / LAST

    def to_test(self) -> Path:
        """The checkpoint that the run is tested with: the best, or the last if none is validated.

        Raises:
            UserError: If there is neither, as no optimiser step was made.
        """
        path = self.best if self.best.is_file() else self.last
        if not path.is_file():
            raise UserError(
                f"the run ended before its first optimiser step, so {self.folder} holds no "
                "checkpoint to test: give trainer.max_time, trainer.max_steps and "
                "trainer.max_epochs that leave time for training. `vivit evaluate` tests a model "
                "without training it"
            )
        return path

    def state_dict(self) -> dict[str, Any]:
        """The best score so far, so that a resumed run does not overwrite a better one."""
        return {
            "best_score": self.best_score,
            "best_loss": self.best_loss,
            "monitor": self.monitor,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` gave; a best of another score or folder is none."""
        before = state_dict.get("monitor", self.monitor)
        if before == self.monitor and not self.best.is_file():
            if state_dict["best_score"] != float("-inf"):
                rank_zero_warn(
                    f"{self.best}, the best checkpoint so far, is not there: the next validation "
                    "writes a new one"
                )
        elif before == self.monitor:
            self.best_score = float(state_dict["best_score"])
            # Unknown in checkpoints of older versions: then the later is the best of equals.
            self.best_loss = float(state_dict.get("best_loss", math.inf))
        else:
            rank_zero_warn(
                f"callbacks.monitor={self.monitor}, but best.ckpt is the best in {before}: the "
                "next validation replaces it"
            )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes all ranks write to rank 0's folder.

        Raises:
            UserError: If this rank's machine does not see it.
        """
        self.folder = Path(trainer.strategy.broadcast(str(self.folder)))
        # Rank 0 has made the run's folder by now.
        if stage == "fit" and trainer.world_size > 1 and not self.folder.parent.is_dir():
            raise UserError(
                f"{self.folder.parent}, the run's folder, does not exist on this machine (rank "
                f"{trainer.global_rank}): all machines need one file system, with run_dir on it"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses to wait for a score that validation does not give, and limits without a batch.

        Raises:
            UserError: Naming the scores that it gives, or the limit.
        """
        data: VideoDataModule = trainer.datamodule  # type: ignore[attr-defined]
        accuracy = (
            MultiHeadAccuracy(data.heads, 0)
            if data.heads
            else VideoAccuracy(len(data.class_names), 0)
        )
        # Of the class: the instance's own would sum over processes.
        scores = [f"val/{name}" for name in type(accuracy).compute(accuracy)]
        if self.monitor not in scores:
            raise UserError(
                f"callbacks.monitor={self.monitor} is not among the validation's scores: "
                f"{', '.join(scores)}"
            )
        if trainer.should_stop:  # Lightning's timer goes on where the checkpoint says
            rank_zero_warn(
                "nothing is trained: trainer.max_time, which counts all parts of a run, is "
                "used up. Give more, or trainer.max_time=null"
            )
        # What is wrong with the test's limit is said before training, not after it.
        if trainer.limit_test_batches:
            data.setup("test")
            data.test_dataloader()
        else:
            rank_zero_warn(
                "trainer.limit_test_batches=0: no test follows, results.json will have no scores"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts the step at which training starts as saved.

        With gradient accumulation it lasts for several batches more, after each of which a
        checkpoint would lack the gradients so far.
        """
        self._last_saved_step = trainer.global_step
        self._stop_is_due = False

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Saves every so many optimiser steps.

        Not where validation comes next, which saves at its end. A run that is to end
        (``trainer.should_stop``) finishes its step first: no checkpoint holds gradients.
        """
        self._stop_is_due |= trainer.should_stop
        trainer.should_stop = self._stop_is_due and not trainer.fit_loop._should_accumulate()
        step, every = trainer.global_step, self.every_n_train_steps
        if every and step % every == 0 and not validates_next(trainer):
            self._save_last(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves, and keeps the file as the best if it is."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        loss = float(trainer.callback_metrics["val/loss"])
        loss = math.inf if math.isnan(loss) else loss
        score = float(trainer.callback_metrics[self.monitor])
        score = -loss if self.monitor == "val/loss" else score
        is_best = (score, -loss) >= (self.best_score, -self.best_loss)  # False for NaN
        if not is_best or score == -math.inf:
            self._save(trainer, self.last)
            return
        self.best_score, self.best_loss = score, loss  # before saving: the checkpoint carries it
        # The best before the last: a run killed in between goes on from the previous last, which
        # knows nothing of this score, and arrives here again.
        self._save(trainer, self.best)
        if trainer.is_global_zero:
            # Another name for the same bytes: neither file is ever overwritten, only replaced.
            link_or_copy(self.best, self.last)
        trainer.strategy.barrier("best checkpoint")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves after an epoch that had no validation."""
        self._save_last(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Saves where the run was told to stop, and says how to go on.

        All processes come here at the same step (see `StopSignals`), and after the other
        callbacks, which have put back what they changed for a validation.
        """
        if not isinstance(exception, Stopped):
            return
        if trainer.state.fn == "fit":
            if trainer.is_global_zero:
                say(f"saving {self.last}", file=sys.stderr)
            if trainer.validating:
                self._save(trainer, self.last)
            else:
                self._save_last(trainer)
        if trainer.is_global_zero:
            exception.report(self.last)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds how far metrics.csv is."""
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCsv):
                checkpoint["metrics_csv"] = {
                    "rows": len(logger.rows),
                    "next": self._unlogged_row(trainer),
                }

    def _unlogged_row(self, trainer: Trainer) -> dict[str, Any] | None:
        """The row of the step at hand, which Lightning logs after the hooks of its batch."""
        connector, loop = trainer._logger_connector, trainer.fit_loop.epoch_loop
        progress: Any = loop.batch_progress.total
        if progress.completed == progress.processed or not connector.should_update_logs:
            return None
        metrics = {name: float(value) for name, value in connector.metrics["log"].items()}
        return {"step": loop._batches_that_stepped, "epoch": trainer.current_epoch, **metrics}

    def _save_last(self, trainer: Trainer) -> None:
        if trainer.global_step != self._last_saved_step:
            self._save(trainer, self.last)

    def _save(self, trainer: Trainer, path: Path) -> None:
        self._last_saved_step = trainer.global_step
        trainer.save_checkpoint(path)
