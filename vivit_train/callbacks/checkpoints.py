"""Which checkpoints a run keeps: the last and the best."""

import math
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple, cast

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, Timer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from vivit_train.callbacks.stop_signals import Stopped, validates_next
from vivit_train.data.datamodule import VideoDataModule
from vivit_train.errors import UserError
from vivit_train.io.layout import BEST, LAST, CheckpointContent
from vivit_train.io.terminal import say
from vivit_train.metrics import scores_for
from vivit_train.runs.checkpoint import link_or_copy
from vivit_train.runs.loggers import MetricsCsv


class Kept(NamedTuple):
    """A validation whose checkpoint is kept; of two the better one is larger.

    Attributes:
        score: The monitored one, the higher the better.
        gain: Minus the validation's loss: of equal scores the lower loss is better.
        step: Optimiser steps by then: of equal losses the later is better.
    """

    score: float
    gain: float
    step: int


class Checkpoints(Checkpoint):
    """Keeps ``last.ckpt``, from which a run resumes, and ``best.ckpt``, the best validation.

    Beside them is ``previous.ckpt``, the last before the last, should the last be damaged. With
    ``top_k`` above 1 the best of that many validations are there too, each named after its step
    and score, such as ``step1200_top1_0.8750.ckpt``; ``best.ckpt`` is then a second name of the
    first. One callback writes all: Lightning's ``ModelCheckpoint`` saves either every so many
    steps or after epochs, and serialises twice when the last is also the best.

    Args:
        folder: Where to write.
        monitor: The validation score that says which is best, e.g. ``val/top1``; higher is better,
            but of ``val/loss`` lower. Of equal scores the one with the lower ``val/loss`` is
            best, and of equal losses the later one.
        every_n_train_steps: Optimiser steps between saves where no validation comes; 0: only after
            each validation and epoch.
        top_k: Validations whose checkpoints are kept; 1: that of the best alone.
        score_tolerance: Scores that are lower than the highest so far by this or less count as
            equal to it, and of these the latest is best, whatever its loss. On a few validation
            videos the highest of many scores is mostly luck. 0: the highest is best.
    """

    def __init__(
        self,
        folder: str | Path,
        monitor: str = "val/top1",
        every_n_train_steps: int = 0,
        top_k: int = 1,
        score_tolerance: float = 0.0,
    ) -> None:
        self.folder = Path(folder)
        self.monitor = monitor
        self.every_n_train_steps = every_n_train_steps
        self.top_k = top_k
        self.score_tolerance = score_tolerance
        self.highest = -math.inf  # score so far
        self.kept: list[Kept] = []  # best first
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
        """The best scores so far, so that a resumed run does not overwrite better ones."""
        kept = [list(kept) for kept in self.kept]
        return {"kept": kept, "monitor": self.monitor, "highest": self.highest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` gave; a best of another score or folder is none."""
        before = state_dict.get("monitor", self.monitor)
        if "kept" in state_dict:
            kept = [Kept(*values) for values in state_dict["kept"]]
        else:  # of an older version; where it knows no loss, the later is the best of equals
            loss = state_dict.get("best_loss", math.inf)
            best = Kept(float(state_dict["best_score"]), -float(loss), -1)
            kept = [best] if best.score > -math.inf else []
        if kept and before != self.monitor:
            rank_zero_warn(
                f"callbacks.monitor={self.monitor}, but best.ckpt is the best in {before}: the "
                "next validation replaces it"
            )
        elif kept and not self.best.is_file():
            rank_zero_warn(
                f"{self.best}, the best checkpoint so far, is not there: the next validation "
                "writes a new one"
            )
        else:
            self.kept = kept
            scores = [validation.score for validation in kept]
            self.highest = float(state_dict.get("highest", max(scores, default=-math.inf)))

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
        accuracy = scores_for(len(data.class_names), 0, data.heads, data.multi_label)
        # Of the class: the instance's own would sum over processes.
        scores = [f"val/{name}" for name in type(accuracy).compute(accuracy)]  # type: ignore[arg-type]
        if self.monitor not in scores:
            raise UserError(
                f"callbacks.monitor={self.monitor} is not among the validation's scores: "
                f"{', '.join(scores)}"
            )
        timers = [c for c in trainer.callbacks if isinstance(c, Timer)]  # type: ignore[attr-defined]
        # It resumes where the checkpoint says.
        if any((timer.time_remaining() or 0) <= 0 for timer in timers):
            rank_zero_warn(
                "there is no time left to train: trainer.max_time counts all parts of a run, "
                "and they have used it up. Give more, or set trainer.max_time=null"
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

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
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
        """Saves, and keeps the file if it is among the best."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        new = self._judged(trainer)
        self.highest = max(self.highest, new.score)
        kept = sorted([*self.kept, new], key=self._rank, reverse=True)[: self.top_k]
        if new not in kept or new.score == -math.inf:
            self._save(trainer, self.last)
            return
        self.kept = kept  # before saving: the checkpoint carries it
        # last.ckpt is written last: a run that is killed in between resumes from the one
        # before it, which does not have this score yet, and arrives here again.
        path = self.best if self.top_k == 1 else self._path(new)
        self._save(trainer, path)
        if trainer.is_global_zero:
            # Other names for the same bytes: no file is ever overwritten, only replaced.
            if new == kept[0] and path != self.best:
                link_or_copy(path, self.best)
            link_or_copy(path, self.last)
            self._remove_others()
        trainer.strategy.barrier("best checkpoint")

    def _judged(self, trainer: Trainer) -> Kept:
        """The validation that has just ended; NaN is the worst score and the worst loss."""
        gain = -float(trainer.callback_metrics["val/loss"])
        gain = -math.inf if math.isnan(gain) else gain
        score = float(trainer.callback_metrics[self.monitor])
        score = gain if self.monitor == "val/loss" else score
        return Kept(-math.inf if math.isnan(score) else score, gain, trainer.global_step)

    def _rank(self, kept: Kept) -> tuple[float, ...]:
        """The higher the better."""
        if self.score_tolerance and kept.score >= self.highest - self.score_tolerance:
            return (1, kept.step)
        return (0, *kept)

    @property
    def _score(self) -> str:
        return self.monitor.rpartition("/")[2]

    def _path(self, kept: Kept) -> Path:
        """Where a checkpoint that is not only the best lies."""
        return self.folder / f"step{kept.step}_{self._score}_{abs(kept.score):.4f}.ckpt"

    def _remove_others(self) -> None:
        """Removes what is no longer among the best, also what a killed run left."""
        names = {self._path(kept).name for kept in self.kept[: self.top_k]}
        ours = re.compile(rf"step\d+_{re.escape(self._score)}_\d+\.\d{{4}}\.ckpt")
        for path in self.folder.glob("step*.ckpt"):
            if ours.fullmatch(path.name) and (self.top_k == 1 or path.name not in names):
                path.unlink()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves after an epoch that had no validation, a short one only where the run ends.

        Of a small set an epoch may be one step, which takes less time than a checkpoint.
        """
        ends = trainer.should_stop or (
            0 < (trainer.max_epochs or -1) <= trainer.current_epoch + 1
            or 0 < trainer.max_steps <= trainer.global_step
        )
        if ends or trainer.global_step - self._last_saved_step >= self.every_n_train_steps:
            self._save_last(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Saves where a signal stopped the run, and says how to resume.

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
                position = logger.file.position(self._unlogged_row(trainer))
                cast(CheckpointContent, checkpoint)["metrics_csv"] = position

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
