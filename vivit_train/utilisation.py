"""How much of the device a run uses: operations beside what it can do, and memory."""

import sys
import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from vivit_train.data.dataset import Batch
from vivit_train.describe.counts import build, count_macs
from vivit_train.describe.memory import PRECISIONS, SHORT_PRECISIONS

# Side of the square matrices by which a device's rate is measured: large enough to run at full
# rate, a tenth of a second of work.
MATRIX_SIDE = {"cpu": 1024, "cuda": 8192}


class Utilisation(Callback):
    """Logs ``train/mfu`` and ``train/memory_gib`` whenever `Meter` has logged its clips per second.

    Model FLOPs utilisation (arXiv 2204.02311) is the operations that the model needs, without
    those done twice to save memory, as a fraction of what the device does at its best: a large
    matrix product in the run's precision, measured when training starts. Memory is the peak of
    the process that has most: on a GPU what torch allocated there, on a CPU all of the process.

    Args:
        every_n_batches: Batches between logs, as of `Meter`; 0: never.
    """

    def __init__(self, every_n_batches: int) -> None:
        self.every_n_batches = every_n_batches
        self.matrix_rate = float("nan")
        self.flops_per_clip = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures the device."""
        if self.every_n_batches:
            precision = SHORT_PRECISIONS.get(str(trainer.precision), str(trainer.precision))
            dtype, autocast = PRECISIONS.get(precision, (torch.float32, None))
            self.matrix_rate = matrix_rate(pl_module.device, autocast or dtype)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Logs when it is time."""
        if not self.every_n_batches or (batch_idx + 1) % self.every_n_batches:
            return
        if not self.flops_per_clip:
            assert batch.clips is not None
            _, _, frames, height, width = batch.clips.shape
            macs = count_macs(build(pl_module.model.config), (frames, height, width))[""]  # type: ignore[arg-type, union-attr]
            # Two per multiply-accumulate; backward takes twice what forward does.
            self.flops_per_clip = 3 * 2.0 * macs
        clips_per_second = float(trainer.callback_metrics["train/clips_per_second"])
        rate = clips_per_second / trainer.world_size * self.flops_per_clip
        pl_module.log("train/mfu", rate / self.matrix_rate, sync_dist=True)
        memory = peak_memory(pl_module.device) / 2**30
        pl_module.log("train/memory_gib", memory, sync_dist=True, reduce_fx="max")


def matrix_rate(device: torch.device, dtype: torch.dtype, repeats: int = 3) -> float:
    """Operations per second of a large square matrix product: the best of some."""
    side = MATRIX_SIDE.get(device.type, 1024)
    matrix = torch.ones(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(1 + repeats):  # the first warms up
        start = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # read back: a device works on after a call returns
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def peak_memory(device: torch.device) -> float:
    """Bytes: the most that torch has had on a GPU, or this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # Windows has none

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
