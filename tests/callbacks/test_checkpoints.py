import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vivit_train.callbacks import checkpoints
from vivit_train.callbacks.checkpoints import Checkpoints
from vivit_train.callbacks.stop_signals import Stopped
from vivit_train.errors import UserError
from vivit_train.runs import checkpoint
from vivit_train.runs.checkpoint import link_or_copy, replace_checkpoint


class Saver:
    """A trainer as far as `Checkpoints` asks it; what it saves is the step that it is at."""

    def __init__(self) -> None:
        self.global_step = 0
        self.callback_metrics: dict[str, torch.Tensor] = {}
        self.callbacks: list[Any] = []
        self.sanity_checking = False
        self.state = SimpleNamespace(fn="fit")
        self.is_global_zero, self.global_rank, self.world_size = True, 0, 1
        self.strategy = SimpleNamespace(broadcast=lambda x: x, barrier=lambda name: None)
        self.saves: list[int] = []
        self.loggers: list[Any] = []
        self.validating = False
        self._validates_next = False
        loop = SimpleNamespace(_should_check_val_fx=lambda fetcher: self._validates_next)
        self.should_stop, self.accumulates = False, False
        self.current_epoch, self.max_epochs, self.max_steps = 0, -1, -1
        self.fit_loop = SimpleNamespace(
            epoch_loop=loop,
            _data_fetcher=object(),
            _should_accumulate=lambda: self.accumulates,
        )

    def save_checkpoint(self, path: Path) -> None:
        self.saves.append(self.global_step)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(f"step {self.global_step}")
        replace_checkpoint(temporary, path)  # as AtomicCheckpointIO does

    def train(self, callback: Checkpoints, steps: int) -> None:
        """Some steps, and then comes a validation."""
        for batch in range(steps):
            self.global_step += 1
            self._validates_next = batch == steps - 1
            callback.on_train_batch_end(self, None, None, None, batch)

    def validate(
        self, callback: Checkpoints, score: float, name: str = "val/top1", loss: float = 1.0
    ) -> None:
        self.callback_metrics = {"val/loss": torch.tensor(loss), name: torch.tensor(score)}
        callback.on_validation_end(self, None)


@pytest.fixture
def saver() -> Saver:
    return Saver()


class TestCheckpoints:
    def test_the_best_is_kept_until_one_is_as_good(self, tmp_path: Path, saver: Saver) -> None:
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
        assert best == ["step 10", "step 10", "step 30", "step 40", "step 40", "step 60"]
        assert saver.saves == [10, 20, 30, 40, 50, 60]  # once a step, whoever asks
        names = ["best.ckpt", "last.ckpt", "previous.ckpt"]
        assert sorted(p.name for p in tmp_path.iterdir()) == names
        assert (tmp_path / "previous.ckpt").read_text() == "step 50"

    @pytest.mark.parametrize("top_k", [1, 2])
    def test_of_scores_within_the_tolerance_the_latest_is_best(
        self, tmp_path: Path, saver: Saver, top_k: int
    ) -> None:
        """Whatever their loss; one that is lower by more is not, nor what was near an old best."""
        callback = Checkpoints(tmp_path, top_k=top_k, score_tolerance=0.125)
        best = []
        for score, loss in ((0.5, 1), (0.375, 9), (0.25, 0), (0.75, 1), (0.5, 0), (0.6875, 9)):
            saver.train(callback, 10)
            saver.validate(callback, score, loss=loss)
            best.append(callback.best.read_text())
        assert best == ["step 10", "step 20", "step 20", "step 40", "step 40", "step 60"]
        resumed = Checkpoints(tmp_path, top_k=top_k, score_tolerance=0.125)
        resumed.load_state_dict(callback.state_dict())
        for score in (0.59375, 0.625):  # of the highest, 0.75, not of the latest
            saver.train(resumed, 10)
            saver.validate(resumed, score)
        assert callback.best.read_text() == "step 80"
        if top_k == 2:
            kept = ["step60_top1_0.6875.ckpt", "step80_top1_0.6250.ckpt"]
            assert sorted(path.name for path in tmp_path.glob("step*")) == kept

    def test_a_checkpoint_from_before_the_tolerance(self, tmp_path: Path, saver: Saver) -> None:
        callback = Checkpoints(tmp_path)
        saver.train(callback, 10)
        saver.validate(callback, 0.5)
        state = callback.state_dict()
        del state["highest"]
        resumed = Checkpoints(tmp_path, score_tolerance=0.25)
        resumed.load_state_dict(state)
        assert resumed.highest == 0.5
        for score, step in ((0.125, 10), (0.25, 30)):
            saver.train(resumed, 10)
            saver.validate(resumed, score)
            assert resumed.best.read_text() == f"step {step}"

    def test_every_n_steps(self, tmp_path: Path, saver: Saver) -> None:
        saver.train(Checkpoints(tmp_path, every_n_train_steps=3), 9)
        assert saver.saves == [3, 6]
        saver.saves.clear()
        saver.train(Checkpoints(tmp_path), 10)
        assert saver.saves == []

    def test_short_epochs_without_validation_are_not_saved_one_by_one(
        self, tmp_path: Path, saver: Saver
    ) -> None:
        def saves(every: int, **ends: Any) -> list[int]:
            callback = Checkpoints(tmp_path, every_n_train_steps=every)
            saver.global_step, saver.saves, saver.should_stop = 0, [], False
            saver.max_epochs, saver.max_steps = ends.get("epochs", -1), ends.get("steps", -1)
            callback.on_train_start(saver, None)
            for saver.current_epoch in range(6):
                saver.global_step += 2  # too few for `train`, which would save as well
                saver.should_stop = ends.get("stops") == saver.current_epoch
                callback.on_train_epoch_end(saver, None)
            return saver.saves

        assert saves(500) == []
        assert saves(5) == [6, 12]
        assert saves(0) == [2, 4, 6, 8, 10, 12]
        assert saves(500, epochs=6) == [12]
        assert saves(500, steps=12) == [12]
        assert saves(500, stops=3) == [8]

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

    def test_a_run_that_is_to_end_finishes_its_step(self, tmp_path: Path, saver: Saver) -> None:
        callback = Checkpoints(tmp_path)
        callback.on_train_start(saver, None)
        ends = []
        for accumulates, should_stop in (
            (True, False),
            (True, True),
            (True, False),
            (False, False),
        ):
            saver.accumulates, saver.should_stop = accumulates, should_stop
            callback.on_train_batch_end(saver, None, None, None, 0)
            ends.append(saver.should_stop)
        assert ends == [False, False, False, True]

    def test_a_step_before_a_validation_is_saved_after_it(
        self, tmp_path: Path, saver: Saver
    ) -> None:
        """A run that went on from before it would leave the validation out."""
        callback = Checkpoints(tmp_path, every_n_train_steps=5)
        saver.train(callback, 10)
        assert saver.saves == [5]
        saver.validate(callback, 0.1)
        saver.train(callback, 5)
        saver.validate(callback, 0.1)
        assert saver.saves == [5, 10, 15]

    def test_a_validation_that_is_done_again_saves(self, tmp_path: Path, saver: Saver) -> None:
        """Broken off, it left a checkpoint of the same step that says so."""
        callback = Checkpoints(tmp_path)
        saver.global_step = 4
        callback.on_train_start(saver, None)
        saver.validate(callback, float("nan"))
        assert saver.saves == [4]

    def test_a_run_that_is_stopped_saves(
        self, tmp_path: Path, saver: Saver, capsys: pytest.CaptureFixture[str]
    ) -> None:
        callback = Checkpoints(tmp_path)
        saver.train(callback, 3)
        callback.on_exception(saver, None, RuntimeError("a bug"))
        assert saver.saves == []
        callback.on_exception(saver, None, Stopped(signal.SIGTERM))
        assert saver.saves == [3]
        told = capsys.readouterr().err
        assert told == (
            f"saving {tmp_path}/last.ckpt\n"
            f"stopped by SIGTERM; resume with: python train.py ckpt_path={tmp_path}/last.ckpt\n"
        )
        saver.state.fn = "test"
        callback.on_exception(saver, None, Stopped(signal.SIGINT))
        assert saver.saves == [3]

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

    def test_a_best_that_is_not_there(self, tmp_path: Path, saver: Saver) -> None:
        """As where a run resumes into another folder."""
        callback = Checkpoints(tmp_path)
        saver.train(callback, 3)
        saver.validate(callback, 0.7)
        resumed = Checkpoints(tmp_path / "other")
        resumed.folder.mkdir()
        with pytest.warns(UserWarning, match=r"other/best\.ckpt, .* is not there: the next val"):
            resumed.load_state_dict(callback.state_dict())
        saver.train(resumed, 3)
        saver.validate(resumed, 0.6)
        assert resumed.best.read_text() == "step 6"

    def test_only_fitting_saves(self, tmp_path: Path, saver: Saver) -> None:
        callback = Checkpoints(tmp_path)
        saver.sanity_checking = True
        saver.validate(callback, 0.7)
        saver.sanity_checking, saver.state.fn = False, "validate"
        saver.validate(callback, 0.7)
        assert saver.saves == []
        assert callback.kept == []

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
        monkeypatch.setattr(checkpoints, "link_or_copy", lambda *_: 1 / 0)
        saver.train(callback, 2)
        with pytest.raises(ZeroDivisionError):
            saver.validate(callback, 0.6)
        assert callback.best.read_text() == "step 4"
        assert callback.last.read_text() == "step 2"

    @pytest.mark.parametrize("heads", [{}, {"noun": 3, "verb": 6}])
    def test_a_score_that_does_not_exist(self, heads: dict, tmp_path: Path, saver: Saver) -> None:
        """Refused before training: a whole epoch would come first."""
        names = ["a"] * 9
        saver.datamodule = SimpleNamespace(heads=heads, class_names=names, multi_label=False)
        saver.limit_test_batches, saver.should_stop = 0, False
        for name in ["val/top1", "val/loss", *(["val/verb_top5"] if heads else [])]:
            Checkpoints(tmp_path, monitor=name).on_fit_start(saver, None)
        message = r"callbacks\.monitor=val/accuracy is not among .*: val/top1, val/top5, val/mean"
        with pytest.raises(UserError, match=message):
            Checkpoints(tmp_path, monitor="val/accuracy").on_fit_start(saver, None)
        saver.datamodule.heads, saver.datamodule.multi_label = {}, True
        Checkpoints(tmp_path, monitor="val/map").on_fit_start(saver, None)
        message = r"monitor=val/top1 is not among .*: val/map, val/micro_map, val/micro_f1, val/mac"
        with pytest.raises(UserError, match=message):
            Checkpoints(tmp_path).on_fit_start(saver, None)

    def test_of_the_loss_the_lowest_is_the_best(self, tmp_path: Path, saver: Saver) -> None:
        callback = Checkpoints(tmp_path, monitor="val/loss")
        best = []
        for loss in (2.0, 2.5, 1.0, float("nan"), 1.0, 0.5):
            saver.train(callback, 1)
            saver.validate(callback, loss, "val/loss")
            best.append(callback.best.read_text())
            resumed = Checkpoints(tmp_path, monitor="val/loss")
            resumed.load_state_dict(callback.state_dict())
            callback = resumed
        assert best == ["step 1", "step 1", "step 3", "step 3", "step 5", "step 6"]

    def test_of_equal_scores_the_lower_loss_is_the_best(self, tmp_path: Path, saver: Saver) -> None:
        """And of equal losses the later, also over resumes."""
        callback, best = Checkpoints(tmp_path), []
        for score, loss in (
            (0.5, float("nan")), (0.5, 2.0), (0.5, 3.0), (0.5, 1.0), (0.5, 1.0), (0.6, 9.0),
            (0.5, 0.5), (0.6, float("nan")), (0.6, 9.0),
        ):  # fmt: skip
            saver.train(callback, 1)
            saver.validate(callback, score, loss=loss)
            best.append(int(callback.best.read_text().split()[1]))
            resumed = Checkpoints(tmp_path)
            resumed.load_state_dict(callback.state_dict())
            callback = resumed
        assert best == [1, 2, 2, 4, 5, 6, 6, 6, 9]

    def test_the_best_few(self, tmp_path: Path, saver: Saver) -> None:
        """Also over resumes; best.ckpt is another name of the first."""
        callback, there = Checkpoints(tmp_path, top_k=2), []
        for score, loss in ((0.3, 2.0), (0.2, 2.0), (0.1, 1.0), (0.5, 2.0), (0.3, 2.0), (0.3, 9.0)):
            saver.train(callback, 10)
            saver.validate(callback, score, loss=loss)
            names = sorted(path.name for path in tmp_path.glob("step*"))
            there.append([name.removesuffix(".ckpt") for name in names])
            best = max(names, key=lambda name: name.split("_")[-1])
            assert callback.best.samefile(tmp_path / best)
            assert all((tmp_path / n).read_text() == f"step {n[4:6]}" for n in names)
            assert callback.last.read_text() == f"step {saver.global_step}"
            resumed = Checkpoints(tmp_path, top_k=2)
            resumed.load_state_dict(callback.state_dict())
            callback = resumed
        assert there == [
            ["step10_top1_0.3000"],
            ["step10_top1_0.3000", "step20_top1_0.2000"],
            ["step10_top1_0.3000", "step20_top1_0.2000"],
            ["step10_top1_0.3000", "step40_top1_0.5000"],
            ["step40_top1_0.5000", "step50_top1_0.3000"],  # of equals the later
            ["step40_top1_0.5000", "step50_top1_0.3000"],
        ]
        assert saver.saves == [10, 20, 30, 40, 50, 60]

    def test_the_best_few_of_the_loss(self, tmp_path: Path, saver: Saver) -> None:
        callback = Checkpoints(tmp_path, "val/loss", top_k=2)
        for loss in (3.0, 2.0, 2.5):
            saver.train(callback, 1)
            saver.validate(callback, loss, "val/loss")
        names = sorted(path.name for path in tmp_path.glob("step*"))
        assert names == ["step2_loss_2.0000.ckpt", "step3_loss_2.5000.ckpt"]
        assert callback.best.samefile(tmp_path / names[0])

    def test_fewer_are_kept_and_nothing_else_is_removed(self, tmp_path: Path, saver: Saver) -> None:
        """What a killed run left goes, and what another top_k kept; not what others put there."""
        callback = Checkpoints(tmp_path, top_k=3)
        for score in (0.1, 0.2, 0.3):
            saver.train(callback, 1)
            saver.validate(callback, score)
        for name in ("step9_top1_0.9000.ckpt", "step9_loss_0.9000.ckpt", "step_mine.ckpt"):
            (tmp_path / name).touch()
        resumed = Checkpoints(tmp_path)
        resumed.load_state_dict(callback.state_dict())
        saver.train(resumed, 1)
        saver.validate(resumed, 0.2)  # not among the best: nothing is touched
        assert (tmp_path / "step9_top1_0.9000.ckpt").exists()
        saver.validate(resumed, 0.4)
        names = {"best.ckpt", "last.ckpt", "previous.ckpt"}
        names |= {"step9_loss_0.9000.ckpt", "step_mine.ckpt"}
        assert {path.name for path in tmp_path.iterdir()} == names

    @pytest.mark.parametrize("fails", ["best.ckpt", "last.ckpt"])
    def test_killed_while_one_of_the_best_is_kept(
        self, fails: str, tmp_path: Path, saver: Saver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Before the last is written nothing is removed; resumed, the run does the same again."""
        callback = Checkpoints(tmp_path, top_k=2)
        for score in (0.1, 0.2):
            saver.train(callback, 1)
            saver.validate(callback, score)
        before = callback.state_dict()

        def link(source: Path, target: Path) -> None:
            if target.name == fails:
                raise ZeroDivisionError
            link_or_copy(source, target)

        monkeypatch.setattr(checkpoints, "link_or_copy", link)
        saver.train(callback, 1)
        with pytest.raises(ZeroDivisionError):
            saver.validate(callback, 0.3)
        assert callback.last.read_text() == "step 2"
        assert len(list(tmp_path.glob("step*"))) == 3
        monkeypatch.undo()
        resumed = Checkpoints(tmp_path, top_k=2)
        resumed.load_state_dict(before)
        saver.validate(resumed, 0.3)
        names = sorted(path.name for path in tmp_path.glob("step*"))
        assert names == ["step2_top1_0.2000.ckpt", "step3_top1_0.3000.ckpt"]

    def test_another_score_to_monitor_starts_afresh(self, tmp_path: Path, saver: Saver) -> None:
        callback = Checkpoints(tmp_path)
        saver.train(callback, 1)
        saver.validate(callback, 0.7)
        resumed = Checkpoints(tmp_path, monitor="val/loss")
        with pytest.warns(UserWarning, match=r"monitor=val/loss, but best\.ckpt .* in val/top1"):
            resumed.load_state_dict(callback.state_dict())
        saver.train(resumed, 1)
        saver.validate(resumed, 1.5, "val/loss")
        assert resumed.best.read_text() == "step 2"

    def test_a_checkpoint_that_does_not_say_what_it_is_best_in(self, tmp_path: Path) -> None:
        callback = Checkpoints(tmp_path)
        callback.best.touch()
        callback.load_state_dict({"best_score": 0.7})
        assert callback.kept == [(0.7, -float("inf"), -1)]
        callback.load_state_dict({"best_score": 0.7, "best_loss": 2.0, "monitor": "val/top1"})
        assert callback.kept == [(0.7, -2.0, -1)]
        nothing = Checkpoints(tmp_path / "other")
        nothing.load_state_dict({"best_score": -float("inf"), "best_loss": 1.0})
        assert nothing.kept == []

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

    def test_a_machine_that_does_not_see_the_folder(self, tmp_path: Path, saver: Saver) -> None:
        saver.world_size, saver.global_rank = 4, 2
        saver.strategy.broadcast = lambda folder: folder
        Checkpoints(tmp_path / "checkpoints").setup(saver, None, "fit")
        there = Checkpoints(tmp_path / "elsewhere" / "checkpoints")
        with pytest.raises(UserError, match=r"does not exist on this machine \(rank 2\): all mac"):
            there.setup(saver, None, "fit")
        there.setup(saver, None, "test")


@pytest.mark.parametrize("can_link", [True, False])
def test_link_or_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_link: bool) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError("no hard links here")

    if not can_link:
        monkeypatch.setattr(checkpoint.os, "link", refuse)
    source, target = tmp_path / "last.ckpt", tmp_path / "best.ckpt"
    source.write_bytes(b"new")
    target.write_bytes(b"old")
    link_or_copy(source, target)
    assert target.read_bytes() == b"new"
    assert source.samefile(target) is can_link
    assert len(list(tmp_path.iterdir())) == 2
