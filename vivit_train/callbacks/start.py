"""What a run says before its first figures: what is trained, where, and what it waits for."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from vivit_train.callbacks.progress import epoch_in_words
from vivit_train.describe.counts import size
from vivit_train.io.terminal import said_if_long, say


class Start(Callback):
    """Says what is about to be trained or tested, and until the first step is done why it waits.

    Args:
        model: The model's name.
        run_dir: Where the run writes.
    """

    def __init__(self, model: str, run_dir: Path) -> None:
        self.model = model
        self.run_dir = run_dir
        self._steps_done = 0
        self._waiting = ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says what is trained, and at which step a resumed run continues."""
        for line in self._lines(trainer, pl_module) if trainer.is_global_zero else ():
            say(line)
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (steps := int(trainer.estimated_stepping_batches)) < every:
            rank_zero_warn(
                f"the run has {steps} steps, fewer than trainer.log_every_n_steps={every}: "
                "metrics.csv will have no row of training. Set it lower"
            )
        self._steps_done = 0
        workers = trainer.datamodule.num_workers  # type: ignore[attr-defined]
        who = f"{workers} processes start and decode" if workers else "it is decoded"
        self._wait(f"waiting for the first batch: {who}")

    def on_train_batch_start(self, *_: Any) -> None:
        """The first batch is there."""
        if self._steps_done == 0:
            self._wait("the first step is under way; it takes longer than those after it")

    def on_train_batch_end(self, *_: Any) -> None:
        """From here on `Progress` shows how it goes."""
        self._steps_done += 1
        self._waiting.close()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says what is tested: with many views it takes as long as epochs of training."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if trainer.is_global_zero:
            temporal, spatial = data.eval_views
            what = f"{Path(str(trainer.ckpt_path)).name} " if trainer.ckpt_path else ""
            videos, split = len(data.records["test"]), data.splits["test"]
            say(
                f"testing {what}on {videos} videos of {split}, {temporal} x {spatial} views of each"
            )

    def teardown(self, *_: Any, **__: Any) -> None:
        """Nothing is waited for any more."""
        self._waiting.close()

    on_exception = teardown

    def _wait(self, line: str) -> None:
        self._waiting.close()
        self._waiting.enter_context(said_if_long(line))

    def _lines(self, trainer: Trainer, module: LightningModule) -> list[str]:
        total, trained = size(module), size(module, trained=True)
        part = "" if trained == total else f", {trained:,} of them trained"
        count = f"{trainer.world_size} x " if trainer.world_size > 1 else ""
        device = module.device
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        clips, batches = len(data.records["train"]), int(trainer.num_training_batches)
        per_epoch = -(-batches // trainer.accumulate_grad_batches)
        steps = int(trainer.estimated_stepping_batches)
        lines = [
            f"training {self.model}, {total:,} parameters{part}, on {count}{where} in "
            f"{trainer.precision}",
            f"{clips} clips are {per_epoch} steps per epoch, {steps} in all; the run writes to "
            f"{self.run_dir}",
            what_repeats(device),
        ]
        if trainer.global_step:
            lines.append(f"resuming at step {trainer.global_step}, {epoch_in_words(trainer)}")
        return lines


def what_repeats(device: torch.device) -> str:
    """What a run on this device has again with the same seed, or when it is stopped and resumed."""
    is_exact = torch.get_deterministic_debug_mode() == 2  # "error", where 1 is "warn"
    if device.type == "cpu" or is_exact:
        return "repeated or resumed with the same seed, it gives the same bits"
    return (
        "repeated or resumed with the same seed, it has the same videos, draws and order, but not "
        "the same bits: for these set trainer.deterministic=true, which is slower"
    )
