import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vivit_train import callbacks
from vivit_train.callbacks import (
    BrokenVideos,
    Checkpoints,
    Meter,
    Progress,
    StepSeed,
    link_or_copy,
)
from vivit_train.data.datamodule import LazyLoader
from vivit_train.data.dataset import Sample, collate
from vivit_train.errors import UserError
from vivit_train.video.decode import DecodeError


class TestStepSeed:
    def draws(self, step: int, rank: int = 0, seed: int = 0) -> list[float]:
        torch.rand(17)  # what was drawn before does not matter
        loop = SimpleNamespace(epoch_loop=SimpleNamespace(total_batch_idx=step))
        trainer = SimpleNamespace(fit_loop=loop, global_rank=rank)
        StepSeed(seed).on_train_batch_start(trainer, None, None, 0)
        return torch.rand(4).tolist()

    def test_the_same_step_and_rank_draw_the_same(self) -> None:
        assert self.draws(3, 1) == self.draws(3, 1)

    def test_all_else_differs(self) -> None:
        keys = [(0, 0), (1, 0), (0, 1), (1, 1), (10, 0), (0, 0, 1), (1, 0, 1)]
        assert len({tuple(self.draws(*key)) for key in keys}) == len(keys)


class Saver:
    """A trainer as far as `Checkpoints` asks it; what it saves is the step that it is at."""

    def __init__(self) -> None:
        self.global_step = 0
        self.callback_metrics: dict[str, torch.Tensor] = {}
        self.sanity_checking = False
        self.state = SimpleNamespace(fn="fit")
        self.is_global_zero = True
        self.strategy = SimpleNamespace(broadcast=lambda x: x, barrier=lambda name: None)
        self.saves: list[int] = []

    def save_checkpoint(self, path: Path) -> None:
        self.saves.append(self.global_step)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(f"step {self.global_step}")
        temporary.replace(path)  # as AtomicCheckpointIO does

    def train(self, callback: Checkpoints, steps: int, accumulate: int = 1) -> None:
        for batch in range(steps * accumulate):
            self.global_step += (batch + 1) % accumulate == 0
            callback.on_train_batch_end(self, None, None, None, batch)

    def validate(self, callback: Checkpoints, score: float, name: str = "val/top1") -> None:
        self.callback_metrics = {name: torch.tensor(score)}
        callback.on_validation_end(self, None)


@pytest.fixture
def saver() -> Saver:
    return Saver()


class TestCheckpoints:
    def test_the_best_is_kept_only_when_it_is_better(self, tmp_path: Path, saver: Saver) -> None:
        callback = Checkpoints(tmp_path)
        best = []
        for score in (0.3, 0.2, 0.5, 0.5, 0.4, 0.6):
            saver.train(callback, 10)
            before = callback.best.stat().st_ino if best else 0
            saver.validate(callback, score)
            callback.on_train_epoch_end(saver, None)
            best.append(callback.best.read_text())
            assert callback.last.read_text() == f"step {saver.global_step}"
            is_new = best[-1] == f"step {saver.global_step}"
            assert callback.best.samefile(callback.last) is is_new  # a link: no second writing
            assert (callback.best.stat().st_ino == before) is not is_new  # left alone
        assert best == ["step 10", "step 10", "step 30", "step 30", "step 30", "step 60"]
        assert saver.saves == [10, 20, 30, 40, 50, 60]  # once a step, whoever asks
        assert sorted(p.name for p in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]

    def test_every_n_steps(self, tmp_path: Path, saver: Saver) -> None:
        saver.train(Checkpoints(tmp_path, every_n_train_steps=3), 10)
        assert saver.saves == [3, 6, 9]
        saver.saves.clear()
        saver.train(Checkpoints(tmp_path), 10)
        assert saver.saves == []

    def test_nothing_is_saved_between_the_batches_of_a_step(
        self, tmp_path: Path, saver: Saver
    ) -> None:
        """Gradients that are still being accumulated are in no checkpoint."""
        callback = Checkpoints(tmp_path, every_n_train_steps=2)
        for start in (0, 4):  # 4: resumed from its own checkpoint of step 4
            saver.global_step = start
            saver.saves.clear()
            callback._last_saved_step = -1
            callback.on_train_start(saver, None)
            for batch in range(6):
                saver.global_step += batch % 3 == 2
                callback.on_train_batch_end(saver, None, None, None, batch)
                assert saver.saves == ([start + 2] if batch == 5 else [])

    def test_a_validation_inside_an_epoch_that_saved_already(
        self, tmp_path: Path, saver: Saver
    ) -> None:
        callback = Checkpoints(tmp_path, every_n_train_steps=5)
        saver.train(callback, 5)
        saver.validate(callback, 0.1)
        assert saver.saves == [5, 5]  # again: the best score belongs into the file
        saver.train(callback, 5)
        saver.validate(callback, 0.1)
        assert saver.saves == [5, 5, 10]

    def test_a_resumed_run_does_not_overwrite_a_better_one(
        self, tmp_path: Path, saver: Saver
    ) -> None:
        callback = Checkpoints(tmp_path)
        saver.train(callback, 3)
        saver.validate(callback, 0.7)
        resumed = Checkpoints(tmp_path)
        resumed.load_state_dict(callback.state_dict())
        saver.train(resumed, 3)
        saver.validate(resumed, 0.6)
        assert resumed.best.read_text() == "step 3"
        assert resumed.last.read_text() == "step 6"

    def test_only_fitting_saves(self, tmp_path: Path, saver: Saver) -> None:
        callback = Checkpoints(tmp_path)
        saver.sanity_checking = True
        saver.validate(callback, 0.7)
        saver.sanity_checking, saver.state.fn = False, "validate"
        saver.validate(callback, 0.7)
        assert saver.saves == []
        assert callback.best_score == float("-inf")

    def test_nan_is_not_the_best(self, tmp_path: Path, saver: Saver) -> None:
        callback = Checkpoints(tmp_path)
        saver.train(callback, 1)
        saver.validate(callback, float("nan"))
        assert not callback.best.exists()
        assert callback.last.exists()

    def test_other_processes_write_no_link(self, tmp_path: Path, saver: Saver) -> None:
        callback, saver.is_global_zero = Checkpoints(tmp_path), False
        saver.train(callback, 1)
        saver.validate(callback, 0.7)
        assert saver.saves == [1]  # saving is collective
        assert not callback.last.exists()

    def test_killed_between_the_best_and_the_last(
        self, tmp_path: Path, saver: Saver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The last must not know of a best score whose file was never written."""
        callback = Checkpoints(tmp_path)
        saver.train(callback, 2)
        saver.validate(callback, 0.3)
        monkeypatch.setattr(callbacks, "link_or_copy", lambda *_: 1 / 0)
        saver.train(callback, 2)
        with pytest.raises(ZeroDivisionError):
            saver.validate(callback, 0.6)
        assert callback.best.read_text() == "step 4"
        assert callback.last.read_text() == "step 2"

    def test_a_score_that_does_not_exist(self, tmp_path: Path, saver: Saver) -> None:
        callback = Checkpoints(tmp_path, monitor="val/accuracy")
        message = r"callbacks\.monitor=val/accuracy is not among .*: val/top1"
        with pytest.raises(UserError, match=message):
            saver.validate(callback, 0.5)

    def test_other_scores(self, tmp_path: Path, saver: Saver) -> None:
        callback = Checkpoints(tmp_path, monitor="val/mean_class_accuracy")
        saver.train(callback, 1)
        saver.validate(callback, 0.5, "val/mean_class_accuracy")
        assert callback.best.exists()

    def test_the_folder_is_that_of_rank_zero(self, tmp_path: Path, saver: Saver) -> None:
        saver.strategy.broadcast = lambda folder: f"{tmp_path}/rank zero's"
        callback = Checkpoints(tmp_path / "mine")
        callback.setup(saver, None, "fit")
        assert callback.last == tmp_path / "rank zero's" / "last.ckpt"


@pytest.mark.parametrize("can_link", [True, False])
def test_link_or_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_link: bool) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError("no hard links here")

    if not can_link:
        monkeypatch.setattr(callbacks.os, "link", refuse)
    source, target = tmp_path / "last.ckpt", tmp_path / "best.ckpt"
    source.write_bytes(b"new")
    target.write_bytes(b"old")
    link_or_copy(source, target)
    assert target.read_bytes() == b"new"
    assert source.samefile(target) is can_link
    assert len(list(tmp_path.iterdir())) == 2


class TestBrokenVideos:
    def start(self, callback: BrokenVideos, *paths: str, batch: int = 0) -> None:
        errors = [DecodeError(path, "moov atom not found") for path in paths]
        sample = Sample(torch.zeros(1), label=0, index=0, broken=errors)
        others = [Sample(torch.zeros(1), label=0, index=i) for i in range(1, 4)]
        trainer = SimpleNamespace(num_training_batches=10)  # of 4 clips
        callback.on_train_batch_start(trainer, None, collate([sample, *others]), batch)

    def test_each_is_named_once(self) -> None:
        callback = BrokenVideos(0.5)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            self.start(callback, "a.mp4", "b.mp4")
            self.start(callback, "a.mp4")
            callback.on_train_epoch_start(None, None)
            self.start(callback, "b.mp4", "c.mp4")
        text = "replaced by another video, cannot decode {}.mp4: moov atom not found"
        assert [str(w.message) for w in said] == [text.format(name) for name in "abc"]

    def test_a_run_with_too_many_stops(self) -> None:
        callback = BrokenVideos(0.1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for batch, name in enumerate("abcd"):
                self.start(callback, f"{name}.mp4", batch=batch)
            with pytest.raises(UserError) as caught:
                self.start(callback, "e.mp4", batch=4)
        assert str(caught.value) == (
            "5 of this epoch's 40 samples could not be decoded, more than "
            "data.max_bad_fraction=0.1, e.g. a.mp4. Mend or remove the files, or raise "
            "data.max_bad_fraction"
        )

    def test_the_fraction_is_of_an_epoch(self) -> None:
        callback = BrokenVideos(0.1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(3):
                callback.on_train_epoch_start(None, None)
                self.start(callback, "a.mp4", "b.mp4", "c.mp4", "d.mp4")
        assert callback.count == 4

    def test_none_is_allowed(self) -> None:
        callback = BrokenVideos(0)
        self.start(callback)
        with pytest.warns(UserWarning, match="a.mp4"), pytest.raises(UserError, match="1 of"):
            self.start(callback, "a.mp4")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The callbacks' clock, turned by hand."""
    clock = SimpleNamespace(now=1000.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(callbacks, "time", clock)
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
