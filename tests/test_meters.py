import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vivit_train import meters
from vivit_train.data.loader import LazyLoader
from vivit_train.meters import (
    Meter,
    Progress,
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The callbacks' clock, turned by hand."""
    clock = SimpleNamespace(now=1000.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(meters, "time", clock)
    return clock


def training(clock: SimpleNamespace, **kwargs: Any) -> SimpleNamespace:
    """A trainer as far as `Meter` and `Progress` ask it."""
    loader = LazyLoader([0])
    batch_progress = SimpleNamespace(total=SimpleNamespace(processed=0))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=batch_progress))
    defaults = {
        "train_dataloader": loader, "world_size": 1, "fit_loop": loop, "callback_metrics": {},
        "num_training_batches": 100, "max_epochs": 2, "max_steps": -1,
        "accumulate_grad_batches": 1, "is_global_zero": True, "current_epoch": 0,
    }  # fmt: skip
    return SimpleNamespace(**defaults | kwargs)


class TestMeter:
    def run(self, clock: SimpleNamespace, every: int, batches: int, **kwargs: Any) -> list[dict]:
        trainer, logged = training(clock, **kwargs), []
        module = SimpleNamespace(log_dict=logged.append)
        meter = Meter(every)
        meter.on_train_start(trainer, module)
        meter.on_train_epoch_start(trainer, module)
        batch = SimpleNamespace(labels=torch.zeros(6))
        for index in range(batches):
            trainer.train_dataloader.wait_seconds += 0.5
            clock.now += 2 + index
            meter.on_train_batch_end(trainer, module, None, batch, index)
        return logged

    def test_rates_are_those_since_the_last_log(self, clock: SimpleNamespace) -> None:
        first, second = self.run(clock, every=2, batches=5)
        assert first == {"train/clips_per_second": 12 / 5, "train/data_wait": 1 / 5}
        assert second == {"train/clips_per_second": 12 / 9, "train/data_wait": 1 / 9}

    def test_all_processes_count(self, clock: SimpleNamespace) -> None:
        (logged,) = self.run(clock, every=1, batches=1, world_size=4)
        assert logged == {"train/clips_per_second": 4 * 6 / 2, "train/data_wait": 0.25}

    def test_validation_does_not_count(self, clock: SimpleNamespace) -> None:
        trainer, logged = training(clock), []
        module = SimpleNamespace(log_dict=logged.append)
        meter = Meter(1)
        meter.on_train_epoch_start(trainer, module)
        clock.now += 1000
        trainer.train_dataloader.wait_seconds += 9
        meter.on_train_epoch_start(trainer, module)
        clock.now += 2
        meter.on_train_batch_end(trainer, module, None, SimpleNamespace(labels=[0] * 4), 0)
        assert logged == [{"train/clips_per_second": 2, "train/data_wait": 0}]

    def test_no_logging(self, clock: SimpleNamespace) -> None:
        """trainer.log_every_n_steps=0 is Lightning's word for never."""
        assert self.run(clock, every=0, batches=3) == []


class TestProgress:
    def left(self, clock: SimpleNamespace, done: int, seconds: float, **kwargs: Any) -> str:
        trainer = training(clock, **kwargs)
        progress = Progress()
        total = trainer.fit_loop.epoch_loop.batch_progress.total
        total.processed = kwargs.get("before", 0)
        progress._start, progress._first_batch = clock.now, total.processed
        total.processed += done
        clock.now += seconds
        return progress._figures(trainer)["left"]

    @pytest.mark.parametrize(
        ("done", "seconds", "kwargs", "expected"),
        [
            (0, 5, {}, "?"),
            (1, 1, {}, "0:03:19"),  # 199 batches of a second
            (100, 50, {}, "0:00:50"),
            (200, 50, {}, "0:00:00"),
            (1, 60, {"max_epochs": 30}, "49:59:00"),
            (10, 10, {"max_steps": 50}, "0:00:40"),
            (10, 10, {"max_steps": 50, "accumulate_grad_batches": 2}, "0:01:30"),
            (10, 10, {"max_steps": 5000}, "0:03:10"),  # the epochs end first
            (10, 10, {"max_steps": 50, "max_epochs": -1}, "0:00:40"),
            (10, 10, {"before": 150}, "0:00:40"),  # resumed: only this process's time counts
        ],
    )
    def test_time_left(
        self, clock: SimpleNamespace, done: int, seconds: float, kwargs: dict, expected: str
    ) -> None:
        assert self.left(clock, done, seconds, **kwargs) == expected

    def test_figures(self, clock: SimpleNamespace) -> None:
        scores = {
            "train/loss": 2.0794, "train/top1": 0.125, "train/clips_per_second": 12.34,
            "train/data_wait": 0.071, "val/top1": 0.9,
        }  # fmt: skip
        trainer = training(clock, callback_metrics=scores)
        progress = Progress()
        progress._start, progress._first_batch = clock.now, 0
        assert progress.get_metrics(trainer, None) == {
            "loss": "2.079", "top1": "0.12", "clips/s": "12.3", "wait": "7%", "left": "?",
        }  # fmt: skip

    def test_lines_where_there_is_no_terminal(
        self, small: tuple[str, ...], capsys: pytest.CaptureFixture
    ) -> None:
        """Seen in a real run, which also shows that the figures exist under these names."""
        from lightning import Trainer

        from vivit_train import training
        from vivit_train.config import compose_config, to_plain

        config = to_plain(compose_config(small))
        data = training.build_data(config)
        data.setup()
        module = training.build_module(config, data)
        training.hush_lightning()
        progress = Progress(line_seconds=0)
        assert not progress.is_terminal
        trainer = Trainer(
            max_epochs=1,
            accelerator="cpu",
            precision="32-true",
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            log_every_n_steps=1,
            num_sanity_val_steps=0,
            limit_train_batches=4,
            callbacks=[Meter(1), progress],
        )
        trainer.fit(module, datamodule=data)
        *lines, last = capsys.readouterr().out.strip().splitlines()
        assert len(lines) == 4
        numbers = r"loss \d+\.\d{3} top1 \d\.\d\d clips/s \d+\.\d wait \d+% left \d+:\d\d:\d\d"
        for i, line in enumerate(lines, start=1):
            assert line.startswith(f"epoch 0 [{i}/4] ")
            assert i == 1 or re.fullmatch(rf"epoch 0 \[{i}/4\] {numbers}", line), line
        assert lines[-1].endswith("left 0:00:00")
        numbers = r"val/loss \d+\.\d{4}  val/top1 \d\.\d{4}  val/top5 \d\.\d{4}"
        assert re.fullmatch(rf"epoch 0 done  {numbers}", last), last

    def test_lines_come_now_and_then(
        self, clock: SimpleNamespace, capsys: pytest.CaptureFixture
    ) -> None:
        trainer = training(clock)
        progress = Progress(line_seconds=10)
        progress._start, progress._first_batch = clock.now, 0
        progress._train_progress_bar = SimpleNamespace(
            n=0, total=100, disable=True, refresh=lambda: None
        )
        for index in range(30):
            clock.now += 1
            progress.on_train_batch_end(trainer, None, None, None, index)
        lines = capsys.readouterr().out.splitlines()
        assert [line.split("]")[0] for line in lines] == [
            "epoch 0 [1/100", "epoch 0 [12/100", "epoch 0 [23/100",
        ]  # fmt: skip
