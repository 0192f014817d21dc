"""A training step never waits for the device: reading a value back would."""

import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from torch.utils._python_dispatch import TorchDispatchMode

from vivit_train import build
from vivit_train.config import compose_config, to_plain

# What reads a tensor's value: item(), float(), bool(), tolist(), an index that is a tensor.
READS = (torch.ops.aten._local_scalar_dense.default,)
# Reads of tensors that are on the host in any run: by file and function.
ON_THE_HOST = {
    ("callbacks/stop_signals.py", "_stop_if_told"),  # agreed on over gloo
    ("callbacks/non_finite.py", "_is_bad"),  # a copy of the step before, which has arrived
}


class Reads(TorchDispatchMode):
    """Counts reads of values, by the innermost lines of ours and of Lightning's."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READS:
            frames = [
                (frame.filename.rpartition(f"{package}/")[2], frame.name)
                for frame in traceback.extract_stack()
                for package in ("vivit_train", "lightning/pytorch")
                if f"/{package}/" in frame.filename and "/tests/" not in frame.filename
            ]
            if not ON_THE_HOST & set(frames):
                self.found[frames[-1]] += 1
        return func(*args, **(kwargs or {}))


class Watch(Callback):
    """Watches from the end of one step to that of another."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last, self.reads = first, last, Reads()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.first:
            self.reads.__enter__()
        elif trainer.global_step == self.last:
            self.reads.__exit__(None, None, None)


@pytest.fixture
def run(small: tuple[str, ...], tmp_path: Path):
    """Trains for 8 steps of which the first and the last are logged, with a callback more."""

    def trained(callback: Callback, *words: str) -> None:
        words = (
            "data.num_workers=0", "trainer.max_epochs=1", "trainer.log_every_n_steps=7",
            "trainer.limit_val_batches=0", "trainer.gradient_clip_val=1.0", *words,
        )  # fmt: skip
        config = to_plain(compose_config([*small, *words, f"run_dir={tmp_path}"]))
        data = build.build_data(config)
        data.setup()
        module = build.build_module(config, data)
        trainer, _ = build.build_trainer(config, tmp_path)
        trainer.callbacks.insert(0, callback)
        trainer.fit(module, datamodule=data)

    return trained


@pytest.mark.parametrize("optim", ["sgd", "adamw"])
def test_no_value_is_read_between_two_logs(run, optim: str) -> None:
    watch = Watch(2, 6)
    run(watch, f"optim={optim}", "callbacks.ema_decay=0.9", "optim.layer_decay=0.8")
    assert not watch.reads.found


def test_a_read_is_seen(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself: a loss that is looked at in every step."""
    stock = build.VivitModule.training_step

    def step(self: Any, batch: Any, batch_idx: int) -> Any:
        loss = stock(self, batch, batch_idx)
        loss.item()
        return loss

    monkeypatch.setattr(build.VivitModule, "training_step", step)
    watch = Watch(2, 6)
    run(watch)
    assert sum(watch.reads.found.values()) == 4


@pytest.mark.gpu
def test_a_gpu_is_not_waited_for(run) -> None:
    class Strict(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step in (2, 6):
                torch.cuda.set_sync_debug_mode("error" if trainer.global_step == 2 else "default")

    run(Strict(), "trainer.accelerator=gpu", "trainer.precision=bf16-mixed")
