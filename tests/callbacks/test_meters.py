import math
import re
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vivit_train.callbacks import meters
from vivit_train.callbacks.meters import Meter, Progress, waiting
from vivit_train.data.loader import LazyLoader


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


class Module:
    """A module as far as `Meter` uses it: keeps what is logged, a dict for each time."""

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


class TestMeter:
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
        meter = Meter(every)
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
        meter = Meter(1)
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
        meter = Meter(4)
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
            (20, 75.0, 8, 8, "waiting for the storage, .* local disk .*data.num_workers=16"),
            (90, 40.0, 8, 8, "The workers are at work for 50% of their time only"),
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
        monkeypatch.setattr(meters, "cores_per_process", lambda: cores)
        text = waiting(0.43, decode_ms, 100.0, clips_per_second, num_workers)
        assert text.startswith(
            "training waits for data 43% of the time. A worker has a clip in 100 ms, "
            f"{decode_ms} ms of them decoding, with data.num_workers={num_workers} and "
            f"{cores} CPU core"
        )
        assert re.search(cure, text)


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

    def test_no_time_is_left_before_training(self, clock: SimpleNamespace) -> None:
        """As in the sanity check, where Lightning has not counted the training batches."""
        trainer = training(clock)
        trainer.num_training_batches = math.inf
        assert Progress()._figures(trainer)["left"] == "?"

    def test_figures(self, clock: SimpleNamespace) -> None:
        scores = {
            "train/loss": 2.0794, "train/top1": 0.125, "train/clips_per_second": 12.34,
            "train/data_wait": 0.071, "train/decode_ms": 88.4, "val/top1": 0.9,
        }  # fmt: skip
        trainer = training(clock, callback_metrics=scores)
        progress = Progress()
        progress._start, progress._first_batch = clock.now, 0
        assert progress.get_metrics(trainer, None) == {
            "loss": "2.079", "top1": "0.12", "clips/s": "12.3", "wait": "7%",
            "decode": "88ms", "left": "?",
        }  # fmt: skip

    def test_lines_where_there_is_no_terminal(
        self, small: tuple[str, ...], capsys: pytest.CaptureFixture
    ) -> None:
        """Seen in a real run, which also shows that the figures exist under these names."""
        from lightning import Trainer

        from vivit_train import build
        from vivit_train.config import compose_config, to_plain
        from vivit_train.io.quiet import hush_lightning

        config = to_plain(compose_config(small))
        data = build.build_data(config)
        data.setup()
        module = build.build_module(config, data)
        hush_lightning()
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
        lines, validating = lines[:4], lines[4:]
        assert validating == [f"validating [{i}/4]" for i in range(1, 5)]
        numbers = (
            r"loss \d+\.\d{3} top1 \d\.\d\d clips/s \d+\.\d wait \d+% decode [1-9]\d*ms "
            r"left \d+:\d\d:\d\d"
        )
        for i, line in enumerate(lines, start=1):
            assert line.startswith(f"epoch 1 of 1 [{i}/4] ")
            assert i == 1 or re.fullmatch(rf"epoch 1 of 1 \[{i}/4\] {numbers}", line), line
        assert lines[-1].endswith("left 0:00:00")
        numbers = r"val/loss \d+\.\d{4}  val/top1 \d\.\d{4}  val/top5 \d\.\d{4}"
        assert re.fullmatch(rf"epoch 1 of 1 done  {numbers}", last), last

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
            "epoch 1 of 2 [1/100", "epoch 1 of 2 [12/100", "epoch 1 of 2 [23/100",
        ]  # fmt: skip
