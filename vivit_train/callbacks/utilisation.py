"""How much of the device a run uses: operations beside what it can do, and memory."""

import sys
import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from vivit_train.data.batch import ClipBatch
from vivit_train.describe.counts import build, count_training_flops
from vivit_train.describe.memory import types_of
from vivit_train.optim import freeze

# Side of the square matrices by which a device's rate is measured: large enough for the full rate.
MATRIX_SIDE = {"cpu": 1024, "cuda": 8192}
# Products are repeated for so long at least: the best of few can be slow on a machine that is busy.
MATRIX_SECONDS = 0.5


class Utilisation(Callback):
    """Logs ``train/mfu`` and ``train/memory_gib`` whenever `Throughput` has logged.

    Model FLOPs utilisation (arXiv 2204.02311) is the operations of a training step, as a fraction
    of what the device does at its best: a large product of random matrices in the run's precision,
    measured when training starts. Those done twice to save memory do not count, nor those that
    frozen parts and dropped tokens save. Memory is the peak of the process that has most: on a GPU
    what torch allocated there, on a CPU all of the process.

    Args:
        every_n_batches: Batches between logs, as of `Throughput`; 0: never.
    """

    def __init__(self, every_n_batches: int) -> None:
        self.every_n_batches = every_n_batches
        self.matrix_rate = float("nan")
        self.flops_per_clip = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures the device."""
        if self.every_n_batches:
            dtype, autocast = types_of(str(trainer.precision))
            self.matrix_rate = matrix_rate(pl_module.device, autocast or dtype)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: ClipBatch,
        batch_idx: int,
    ) -> None:
        """Logs when it is time."""
        if not self.every_n_batches or (batch_idx + 1) % self.every_n_batches:
            return
        if not self.flops_per_clip:
            _, _, frames, height, width = batch.clips.shape
            module: Any = pl_module
            model = build(module.model.config)
            for part in freeze(model, module.optim["freeze"], module.optim["lora_rank"]):
                part.eval()  # as in the run: a frozen encoder drops no tokens
            self.flops_per_clip = float(count_training_flops(model, (frames, height, width)))
        clips_per_second = float(trainer.callback_metrics["train/clips_per_second"])
        rate = clips_per_second / trainer.world_size * self.flops_per_clip
        pl_module.log("train/mfu", rate / self.matrix_rate, sync_dist=True)
        memory = peak_memory(pl_module.device) / 2**30
        pl_module.log("train/memory_gib", memory, sync_dist=True, reduce_fx="max")


def matrix_rate(device: torch.device, dtype: torch.dtype, repeats: int = 3) -> float:
    """Operations per second of a large square matrix product: the best of ``repeats`` or more.

    The numbers are random: with equal ones a GPU takes less power, and clocks higher.
    """
    side = MATRIX_SIDE.get(device.type, 1024)
    # A generator of its own: nothing is drawn from the run's.
    generator = torch.Generator(device).manual_seed(0)
    matrix = torch.randn(side, side, device=device, generator=generator).to(dtype)
    (matrix @ matrix)[0, 0].item()  # warms up
    spans: list[float] = []
    while len(spans) < repeats or sum(spans) < MATRIX_SECONDS:
        start = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # read back: a device works on after a call returns
        spans.append(time.perf_counter() - start)
    return 2 * side**3 / min(spans)


def peak_memory(device: torch.device) -> float:
    """Bytes: the most that torch has had on a GPU, or this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # Windows has none

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
