import re
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.callbacks.conftest import training
from vivit_train.callbacks import throughput
from vivit_train.callbacks.throughput import Throughput, waiting


class Module:
    """A module as far as `Throughput` uses it: keeps what is logged, a dict for each time."""

    def __init__(self, trainer: SimpleNamespace) -> None:
        self.trainer = trainer
        self.logged: list[dict] = []
        self.reductions: dict[str, str] = {}

    def log(self, name: str, value: float, sync_dist: bool, reduce_fx: str) -> None:
        assert sync_dist
        if not self.logged or name in self.logged[-1]:
            self.logged.append({})
        self.logged[-1][name] = self.trainer.callback_metrics[name] = value
        self.reductions[name] = reduce_fx


MS = {"train/decode_ms": 50, "train/clip_ms": 100}


class TestThroughput:
    def run(
        self,
        clock: SimpleNamespace,
        every: int,
        batches: int,
        wait: float = 0.5,
        seconds: Callable[[int], float] = lambda index: 2 + index,
        **kwargs: Any,
    ) -> Module:
        trainer = training(clock, **kwargs)
        module = Module(trainer)
        meter = Throughput(every)
        meter.on_train_start(trainer, module)
        meter.on_train_epoch_start(trainer, module)
        batch = SimpleNamespace(labels=torch.zeros(6), decode_seconds=0.3, clip_seconds=0.6)
        for index in range(batches):
            trainer.train_dataloader.wait_seconds += wait
            clock.now += seconds(index)
            meter.on_train_batch_end(trainer, module, None, batch, index)
        return module

    def test_figures_are_those_since_the_last_log(self, clock: SimpleNamespace) -> None:
        first, second = self.run(clock, every=2, batches=5).logged
        assert first == pytest.approx(
            {"train/clips_per_second": 12 / 5, "train/data_wait": 1 / 5, **MS}
        )
        assert second == pytest.approx(
            {"train/clips_per_second": 12 / 9, "train/data_wait": 1 / 9, **MS}
        )

    def test_all_processes_count(self, clock: SimpleNamespace) -> None:
        """Who waits longest keeps the others waiting."""
        assert self.run(clock, every=1, batches=1).reductions == {
            "train/clips_per_second": "sum", "train/data_wait": "max", "train/decode_ms": "mean",
            "train/clip_ms": "mean",
        }  # fmt: skip

    def test_validation_does_not_count(self, clock: SimpleNamespace) -> None:
        trainer = training(clock)
        module = Module(trainer)
        meter = Throughput(1)
        meter.on_train_epoch_start(trainer, module)
        clock.now += 1000
        trainer.train_dataloader.wait_seconds += 9
        meter.on_train_epoch_start(trainer, module)
        clock.now += 2
        batch = SimpleNamespace(labels=[0] * 4, decode_seconds=0.0, clip_seconds=0.0)
        meter.on_train_batch_end(trainer, module, None, batch, 0)
        assert module.logged == [
            {
                "train/clips_per_second": 2, "train/data_wait": 0, "train/decode_ms": 0,
                "train/clip_ms": 0,
            }
        ]  # fmt: skip

    def test_nor_does_one_inside_an_epoch(self, clock: SimpleNamespace) -> None:
        """With the checkpoint that is saved after it, and the batches that were fetched by then."""
        trainer = training(clock, state=SimpleNamespace(fn="fit"), sanity_checking=False)
        module = Module(trainer)
        meter = Throughput(4)
        meter.on_train_epoch_start(trainer, module)
        batch = SimpleNamespace(labels=[0] * 4, decode_seconds=0.0, clip_seconds=0.0)
        for index in range(8):
            meter.on_train_batch_start(trainer, module, batch, index)
            clock.now += 2
            trainer.train_dataloader.wait_seconds += 1
            meter.on_train_batch_end(trainer, module, None, batch, index)
            if index in (1, 3, 5):  # inside a span, and just after one
                meter.on_validation_start(trainer, module)
                clock.now += 1000
                meter.on_validation_end(trainer, module)
                clock.now += 50
                trainer.train_dataloader.wait_seconds += 9
        figures = [(log["train/clips_per_second"], log["train/data_wait"]) for log in module.logged]
        assert figures == [(2, 0.5)] * 2

    def test_no_logging(self, clock: SimpleNamespace) -> None:
        """trainer.log_every_n_steps=0 is Lightning's word for never."""
        assert self.run(clock, every=0, batches=3).logged == []

    @pytest.mark.parametrize(
        ("every", "batches", "wait", "warns"),
        [
            (1, 39, 0.5, False),  # too early to tell
            (1, 40, 0.5, True),
            (50, 99, 0.5, False),
            (50, 100, 0.5, True),
            (50, 400, 0.19, False),
        ],
    )
    def test_much_waiting_is_said_once(
        self, clock: SimpleNamespace, every: int, batches: int, wait: float, warns: bool
    ) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for_long = 3 * batches if warns else batches
            self.run(clock, every, for_long, wait, seconds=lambda _: 1.0)
        assert len(caught) == warns
        if warns:
            assert "training waits for data 50% of the time" in str(caught[0].message)

    def test_waiting_at_the_start_is_no_reason_to_warn(self, clock: SimpleNamespace) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.run(clock, 10, 400, wait=0.1, seconds=lambda index: 0.1 if index < 20 else 1.0)


class TestWaiting:
    @pytest.mark.parametrize(
        ("decode_ms", "clips_per_second", "num_workers", "cores", "cure"),
        [
            (90, 20.0, 2, 8, "There are cores for more workers: set data.num_workers=8"),
            (90, 20.0, 0, 1, "There are cores for more workers: set data.num_workers=1"),
            (90, 75.0, 8, 8, "All cores decode: .*`vivit prepare`.* augment.repeats=2"),
            # A slow disk: other videos would not help.
            (20, 75.0, 8, 8, "waiting for the storage, .* local disk, .*data.num_workers=16"),
            (90, 40.0, 8, 8, "The workers are busy for 50% of their time only"),
        ],
    )
    def test_the_cure_is_for_the_case(
        self,
        monkeypatch: pytest.MonkeyPatch,
        decode_ms: float,
        clips_per_second: float,
        num_workers: int,
        cores: int,
        cure: str,
    ) -> None:
        monkeypatch.setattr(throughput, "cores_per_process", lambda: cores)
        text = waiting(0.43, decode_ms, 100.0, clips_per_second, num_workers)
        assert text.startswith(
            "training waits for data 43% of the time. A worker makes a clip in 100 ms, "
            f"of which it decodes for {decode_ms} ms, with data.num_workers={num_workers} and "
            f"{cores} CPU core"
        )
        assert re.search(cure, text)
