"""A clock and a trainer for the callbacks that time a run."""

from types import SimpleNamespace
from typing import Any

import pytest

from vivit_train.callbacks import progress, throughput
from vivit_train.data.loader import LazyLoader


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The callbacks' clock, turned by hand."""
    clock = SimpleNamespace(now=1000.0, perf_counter=lambda: clock.now)
    for module in (progress, throughput):
        monkeypatch.setattr(module, "time", clock)
    return clock


def training(clock: SimpleNamespace, **kwargs: Any) -> SimpleNamespace:
    """A trainer as far as `Throughput` and `Progress` ask it."""
    loader = LazyLoader([0])
    batch_progress = SimpleNamespace(total=SimpleNamespace(processed=0))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=batch_progress))
    defaults = {
        "train_dataloader": loader, "world_size": 1, "fit_loop": loop, "callback_metrics": {},
        "num_training_batches": 100, "max_epochs": 2, "max_steps": -1,
        "accumulate_grad_batches": 1, "is_global_zero": True, "current_epoch": 0,
    }  # fmt: skip
    return SimpleNamespace(**defaults | kwargs)
