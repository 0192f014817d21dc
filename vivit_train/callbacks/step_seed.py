"""Seeds each training step, so that resuming draws what was drawn before."""

import torch
from lightning import Callback, LightningModule, Trainer

from vivit_train.data.batch import ClipBatch
from vivit_train.seeds import derive_seed


class StepSeed(Callback):
    """Seeds each training step by (seed, step, rank).

    Dropout and drop path then draw the same in a resumed run as in one that never stopped, with
    no random state in the checkpoint, and differently on each rank.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: ClipBatch, batch_idx: int
    ) -> None:
        """Seeds torch's global generators, of the CPU and of every GPU."""
        step = trainer.fit_loop.epoch_loop.total_batch_idx
        torch.manual_seed(derive_seed(self.seed, "step", step, trainer.global_rank))
