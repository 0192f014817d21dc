"""Going on with another number of processes: the same videos in each optimiser step."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from vivit_train.data.loader import batches_done
from vivit_train.errors import UserError

# Settings of the trainer that count batches, which another number of processes makes smaller or
# larger.
IN_BATCHES = ("accumulate_grad_batches", "limit_train_batches", "val_check_interval")


class SameSteps(Callback):
    """Keeps the videos of each optimiser step where a run goes on with other processes.

    The checkpoint says how many videos are in a batch of all processes, in a step and in an
    epoch. A resumed run gets the gradient accumulation by which a step takes as many as before,
    and its position, which Lightning counts in batches, is converted by way of videos. So every
    video of the epoch is seen once, and the learning rate's schedule stays as it was.

    Args:
        ckpt_path: The checkpoint that the run goes on from, if any.
    """

    def __init__(self, ckpt_path: str | None) -> None:
        self.ckpt_path = ckpt_path
        self._saved: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Sets the accumulation, and limits that are in batches.

        Raises:
            UserError: If no accumulation makes up the step, or the run is longer already.
        """
        if stage != "fit" or self.ckpt_path is None:
            return
        content = torch.load(self.ckpt_path, map_location="cpu", weights_only=True, mmap=True)
        self._saved = content["position"]
        assert self._saved is not None
        behind = {"max_epochs": self._saved["epoch"], "max_steps": content["global_step"]}
        for name, done in behind.items():
            if 0 < (getattr(trainer, name) or -1) < done:
                raise UserError(
                    f"trainer.{name}={getattr(trainer, name)}: the run has done {done} already"
                )
        batch, step = _videos_per_batch(trainer), self._saved["videos_per_step"]
        if step % batch:
            per_process = batch // trainer.world_size
            raise UserError(
                f"this run takes {step} videos per optimiser step, which "
                f"{trainer.world_size} processes x {per_process} videos each = {batch} do not "
                "divide. Go on with another trainer.devices or data.batch_size whose product "
                f"divides {step}, or start a new run from the weights with model.pretrained"
            )
        given = content.get("hyper_parameters", {}).get("config", {}).get("trainer", {})
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
        checkpoint["position"] = {
            "epoch": epoch,
            "videos_done": done * batch,
            "videos_per_batch": batch,
            "videos_per_step": batch * trainer.accumulate_grad_batches,
            "videos_per_epoch": batch * batches,
            "in_batches": _in_batches(trainer),
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Converts Lightning's counts of batches."""
        batch = _videos_per_batch(trainer) if trainer.state.fn == "fit" else 0
        if self._saved is None or not batch or batch == self._saved["videos_per_batch"]:
            return
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            open_batches = counts["ready"] - counts["completed"]
            ready = self._converted(counts["ready"], batch, "the checkpoint's position")
            for name in ("ready", "started", "processed"):
                counts[name] = ready
            counts["completed"] = ready - open_batches

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes sure that an epoch is the same videos.

        Raises:
            UserError: If it is not.
        """
        batch, batches = _videos_per_batch(trainer), int(trainer.num_training_batches)
        if self._saved is not None and self._saved["videos_per_epoch"] != batch * batches:
            raise UserError(
                f"an epoch of this run has {self._saved['videos_per_epoch']} videos, but "
                f"{batches} batches x {batch} videos = {batches * batch} now: the position in "
                "the epoch would mean others. Go on with the data, data.batch_size and "
                "trainer.limit_train_batches that the run had, or with another trainer.devices"
            )

    def _converted(self, batches: int, batch: int, what: str) -> int:
        assert self._saved is not None
        videos = batches * self._saved["videos_per_batch"]
        if videos % batch:
            raise UserError(
                f"{what} is {batches} batches of {self._saved['videos_per_batch']} videos = "
                f"{videos}, which batches of {batch} videos do not divide: go on with another "
                "trainer.devices or data.batch_size"
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
