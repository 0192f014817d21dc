import math
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.callbacks.conftest import training
from vivit_train.callbacks.progress import LateScores, Progress
from vivit_train.callbacks.throughput import Throughput


class TestProgress:
    def left(self, clock: SimpleNamespace, done: int, seconds: float, **kwargs: Any) -> str:
        trainer = training(clock, **kwargs)
        progress = Progress()
        total = trainer.fit_loop.epoch_loop.batch_progress.total
        total.processed = kwargs.get("before", 0)
        progress._start, progress._first_batch = clock.now, total.processed
        total.processed += done
        clock.now += seconds
        return progress.get_metrics(trainer, None)["left"]

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
        assert Progress().get_metrics(trainer, None)["left"] == "?"

    def test_figures(self, clock: SimpleNamespace) -> None:
        scores = {
            "train/loss": 2.0794, "train/top1": 0.125, "train/clips_per_second": 12.34,
            "train/data_wait": 0.071, "train/decode_ms": 88.4, "val/top1": 0.9,
        }  # fmt: skip
        tensors = {name: torch.tensor(score) for name, score in scores.items()}
        trainer = training(clock, callback_metrics=tensors)
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
            callbacks=[Throughput(1), progress],
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


class TestLateScores:
    def test_on_a_cpu_they_are_those_of_now(self) -> None:
        scores = LateScores()
        assert scores.read({"a": torch.tensor(1.5)}) == {"a": 1.5}
        assert scores.read({"a": torch.tensor(2.5)}) == {"a": 2.5}

    def test_on_a_gpu_those_that_have_arrived(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With tensors and events that only say that they are a GPU's."""
        arrived = []

        class Event:
            def record(self) -> None:
                arrived.append(False)

            def query(self) -> bool:
                return arrived[-1]

        class OnGpu(torch.Tensor):
            is_cuda = True

        def score(value: float) -> torch.Tensor:
            return torch.tensor(value).as_subclass(OnGpu)

        monkeypatch.setattr(torch.cuda, "Event", Event)
        scores = LateScores()
        assert scores.read({"a": score(1)}) == {}
        assert scores.read({"a": score(2)}) == {}  # still on its way
        arrived[-1] = True
        assert scores.read({"a": score(3)}) == {"a": 1}
        arrived[-1] = True
        assert scores.read({"a": score(4)}) == {"a": 3}
