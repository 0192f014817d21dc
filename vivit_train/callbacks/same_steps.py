"""Where a run stands: kept in its checkpoints, and restored, also with other processes."""

from typing import Any, cast

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from vivit_train.callbacks.stop_signals import validates_next
from vivit_train.data.loader import batches_done
from vivit_train.errors import UserError
from vivit_train.io.layout import CheckpointContent, Position
from vivit_train.runs.begun import Begun

# Settings of the trainer that count batches, which another number of processes makes smaller or
# larger.
IN_BATCHES = ("accumulate_grad_batches", "limit_train_batches", "val_check_interval")


class SameSteps(Callback):
    """Keeps the position of a run in its checkpoints, and resumes there with the same steps.

    The position is (epochs done, videos done of the next epoch, whether a validation is due), and
    the checkpoint also says how many videos are in a batch of all processes, in a step and in an
    epoch. A resumed run gets the gradient accumulation by which a step takes as many videos as
    before. So every video of the epoch is seen once, and the learning rate's schedule stays as it
    was, however the run ended and with how many processes it resumes.

    Lightning's own counters are replaced by the position when a checkpoint is loaded. They count
    an epoch as done that ``max_steps``, ``max_time`` or early stopping cut short, and with
    ``max_steps`` they end an epoch without training if the checkpoint is from the end of one.

    Args:
        begun: The run that is resumed, if any.
    """

    def __init__(self, begun: Begun | None) -> None:
        self.begun = begun
        self._saved: Position | None = None
        self._validation_due = False
        self._steps_held_back = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Sets the accumulation, and limits that are in batches.

        Raises:
            UserError: If no accumulation makes up the step, or the run is longer already.
        """
        if stage != "fit" or self.begun is None:
            return
        self._saved = self.begun.position
        behind = {"max_epochs": self._saved["epoch"], "max_steps": self.begun.global_step}
        for name, done in behind.items():
            if 0 < (getattr(trainer, name) or -1) < done:
                raise UserError(
                    f"trainer.{name}={getattr(trainer, name)}: the run has done {done} already"
                )
        batch, step = _videos_per_batch(trainer), self._saved["videos_per_step"]
        if step % batch:
            per_process = batch // trainer.world_size
            raise UserError(
                f"this run takes {step} videos per optimiser step, which is not a multiple of "
                f"{trainer.world_size} processes x {per_process} videos each = {batch}. Resume "
                "with another trainer.devices or data.batch_size whose product "
                f"divides {step}, or start a new run from the weights with model.pretrained"
            )
        given = self.begun.config.get("trainer", {})
        for name, value in _in_batches(trainer).items():
            # Checkpoints of older versions do not say what was used.
            used = self._saved.get("in_batches", {}).get(name, value)
            if name == "accumulate_grad_batches":
                used = step // self._saved["videos_per_batch"]
            self._keep_videos(trainer, name, value, used, batch, value in (used, given.get(name)))

    def _keep_videos(
        self, trainer: Trainer, name: str, value: int, used: int, batch: int, is_kept: bool
    ) -> None:
        """Sets what counts batches so that it counts as many videos as before.

        Args:
            trainer: The trainer.
            name: Of the setting.
            value: As this call has it.
            used: What the checkpoint's run used, in its batches.
            batch: Videos of one batch now.
            is_kept: Whether the value is the one that the run had, not another one.

        Raises:
            UserError: If it is another one that changes the videos of a step or an epoch.
        """
        assert self._saved is not None
        videos = used * self._saved["videos_per_batch"]
        if not is_kept and name == "val_check_interval":
            return
        fitting = self._converted(used, batch, f"trainer.{name}")
        if not is_kept and value != fitting:
            raise UserError(
                f"trainer.{name}={value} is {value * batch} videos, and this run takes {videos}: "
                "an optimiser step and an epoch keep their videos when a run is resumed. Leave it "
                f"out, or give {fitting}"
            )
        if value != fitting:
            setattr(trainer, name, fitting)
            rank_zero_warn(
                f"trainer.{name}={value} becomes {fitting}, so that it is {videos} videos as "
                f"before: {batch} in each batch of {trainer.world_size} process(es)"
            )

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds the position, in videos of all processes."""
        batch, batches = _videos_per_batch(trainer), int(trainer.num_training_batches)
        epoch, done = divmod(batches_done(trainer), batches)
        cast(CheckpointContent, checkpoint)["position"] = {
            "epoch": epoch,
            "videos_done": done * batch,
            "validation_due": self._validation_due,
            "videos_per_batch": batch,
            "videos_per_step": batch * trainer.accumulate_grad_batches,
            "videos_per_epoch": batch * batches,
            "in_batches": _in_batches(trainer),
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Sets Lightning's counters from the position."""
        saved = self._saved
        if saved is None or trainer.state.fn != "fit":
            return
        loops, batch = checkpoint["loops"]["fit_loop"], _videos_per_batch(trainer)
        validation = loops["epoch_loop.val_loop.batch_progress"]["total"]
        # Checkpoints of older versions say by Lightning's counters that a validation was begun.
        due = saved.get("validation_due", validation["started"] > validation["processed"])
        epoch, steps = saved["epoch"], checkpoint["global_step"]
        before = saved["videos_per_batch"]
        done = self._converted(saved["videos_done"] // before, batch, "the checkpoint's position")
        batches = self._converted(saved["videos_per_epoch"] // before, batch, "an epoch")
        if due and done == 0:  # that of the epoch before
            epoch, done = epoch - 1, batches
        _set_counters(loops, steps, epoch, done, batches, due)
        self._validation_due = due
        # Else Lightning takes the run for finished, and leaves its last validation out.
        self._steps_held_back = int(due and steps == trainer.max_steps)
        optimizer = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
        optimizer["step"]["total"]["completed"] = steps - self._steps_held_back

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes sure that an epoch is the same videos, and that validations follow whole steps.

        Raises:
            UserError: If that is not so.
        """
        batch, batches = _videos_per_batch(trainer), int(trainer.num_training_batches)
        if self._saved is not None and self._saved["videos_per_epoch"] != batch * batches:
            raise UserError(
                f"an epoch of this run has {self._saved['videos_per_epoch']} videos, but "
                f"{batches} batches x {batch} videos = {batches * batch} now: the position in "
                "the epoch would mean other videos. Resume with the data, data.batch_size and "
                "trainer.limit_train_batches that the run had, or with another trainer.devices"
            )
        loop: Any = trainer.fit_loop.epoch_loop
        if loop.batch_progress.current.ready == 0:
            # With max_steps Lightning would end this epoch, which it takes for the last one.
            loop.restarting = False
        trainer.val_check_batch = _after_whole_steps(trainer, batches)
        if self._validation_due and not validates_next(trainer):
            raise UserError(
                "the checkpoint was saved during a validation, which these settings would skip: "
                "resume with the trainer.limit_val_batches, trainer.val_check_interval and "
                "trainer.check_val_every_n_epoch that the run had, and change them afterwards"
            )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that the validation is due until it is done."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        optimizer = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer
        optimizer.step.total.completed += self._steps_held_back
        self._steps_held_back = 0
        # One that comes only because the run ends is not done again.
        ends, trainer.should_stop = trainer.should_stop, False
        self._validation_due = validates_next(trainer)
        trainer.should_stop = ends

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that the validation is done."""
        self._validation_due &= trainer.sanity_checking

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sets what the test is logged with: an epoch that was cut short is not done."""
        loop: Any = trainer.fit_loop
        epoch = batches_done(trainer) // int(trainer.num_training_batches)
        loop.epoch_progress.current.completed = epoch
        loop.epoch_loop._batches_that_stepped = trainer.global_step + self._steps_held_back

    def _converted(self, batches: int, batch: int, what: str) -> int:
        assert self._saved is not None
        videos = batches * self._saved["videos_per_batch"]
        if videos % batch:
            raise UserError(
                f"{what} is {batches} batches of {self._saved['videos_per_batch']} videos = "
                f"{videos}, which is not a whole number of batches of {batch} videos: resume with "
                "another trainer.devices or data.batch_size"
            )
        return videos // batch


def _in_batches(trainer: Trainer) -> dict[str, int]:
    """The settings that are a number of batches; others are fractions of an epoch, or times."""
    values = {name: getattr(trainer, name) for name in IN_BATCHES}
    return {name: value for name, value in values.items() if isinstance(value, int)}


def _videos_per_batch(trainer: Trainer) -> int:
    """Videos of one training batch of all processes."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    return data.videos_per_batch() * trainer.world_size


def _set_counters(
    loops: dict[str, Any], steps: int, epoch: int, done: int, batches: int, due: bool
) -> None:
    """Writes a position into the counters of Lightning's loops, in the forms that it resumes from.

    Args:
        loops: The state of its fit loop, changed in place.
        steps: Optimiser steps done.
        epoch: Epochs done.
        done: Batches done of the next epoch; all of them where only its validation is left.
        batches: Batches of an epoch.
        due: Whether a validation is due now.
    """
    total, inside = epoch * batches + done, done > 0
    # It resumes after the hooks of the last batch, which is then not `completed` yet, or where a
    # validation has begun.
    unfinished = int(inside and not due)
    for counts, number in (("total", total), ("current", done)):
        loops["epoch_progress"][counts] = _counts(epoch + inside, epoch + inside, epoch, epoch)
        loops["epoch_loop.batch_progress"][counts] = _counts(
            number, number, number, number - unfinished
        )
        loops["epoch_loop.val_loop.batch_progress"][counts] = _counts(int(due), int(due), 0, 0)
    loops["epoch_loop.batch_progress"]["is_last_batch"] = done == batches
    loops["epoch_loop.val_loop.batch_progress"]["is_last_batch"] = False
    # The step of the logs; inside an epoch it adds the last step on resuming.
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] = steps - inside


def _counts(ready: int, started: int, processed: int, completed: int) -> dict[str, int]:
    return {"ready": ready, "started": started, "processed": processed, "completed": completed}


def _after_whole_steps(trainer: Trainer, batches: int) -> int | float | None:
    """Batches between validations, so that each comes after a whole optimiser step.

    In the middle of a step the gradients so far would be missing in the checkpoint that follows.

    Raises:
        UserError: If the number was given in batches and is no whole number of steps.
    """
    interval, accumulate = trainer.val_check_batch, trainer.accumulate_grad_batches
    over_epochs = trainer.check_val_every_n_epoch is None
    if not isinstance(interval, int) or (interval == batches and not over_epochs):
        return interval
    if isinstance(trainer.val_check_interval, float):
        return min(batches, max(interval // accumulate, 1) * accumulate)
    if interval % accumulate or (over_epochs and batches % accumulate):
        too = f", of which an epoch is one too: it has {batches} batches" if over_epochs else ""
        raise UserError(
            f"trainer.val_check_interval={trainer.val_check_interval} batches end inside an "
            f"optimiser step of trainer.accumulate_grad_batches={accumulate}: give a multiple{too}"
        )
    return interval
