"""Checkpoints are written whole or not at all."""

import multiprocessing
import os
import pickle
import shutil
import signal
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from train import train
from vivit_train.errors import UserError
from vivit_train.runs.checkpoint import AtomicCheckpointIO, foreign_type, link_or_copy
from vivit_train.runs.resume import resumed


class Unwritable:
    def __reduce__(self) -> Any:
        raise RuntimeError("the disk is full")


STATE = {"a": [1, 2.5, None, True, "x", b"y"], "b": (torch.ones(2), {3}), 3: OrderedDict(c=3)}


class TestStateOfCallbacks:
    """What is refused is what could not be read again, by torch's own word."""

    @pytest.mark.parametrize(
        ("state", "kind"),
        [
            (STATE, None),
            ({"shape": torch.Size([2]), "dtype": torch.bfloat16}, None),
            ({"rng": Fraction(1, 2)}, "fractions.Fraction"),
            ([STATE, {"deep": (Path("x"),)}], r"pathlib\.\w+"),
            ({Fraction(1, 2): 1}, "fractions.Fraction"),
        ],
    )
    def test_only_what_can_be_read_again(
        self, state: Any, kind: str | None, tmp_path: Path
    ) -> None:
        path = tmp_path / "last.ckpt"
        content = {"callbacks": {"Mine": state}}
        if kind is None:
            AtomicCheckpointIO().save_checkpoint(content, path)
            assert torch.load(path, weights_only=True)["callbacks"].keys() == {"Mine"}
            return
        with pytest.raises(UserError, match=f"the callback Mine puts a {kind} into the checkpoint"):
            AtomicCheckpointIO().save_checkpoint(content, path)
        assert not path.exists()
        torch.save(content, path)
        with pytest.raises(pickle.UnpicklingError):
            torch.load(path, weights_only=True)

    def test_a_type_of_ones_own(self) -> None:
        assert foreign_type({"a": Unwritable()}) == f"{__name__}.Unwritable"


class TestAtomicWriting:
    def test_round_trip_makes_folders(self, tmp_path: Path) -> None:
        path = tmp_path / "run" / "checkpoints" / "last.ckpt"
        AtomicCheckpointIO().save_checkpoint({"step": 3, "x": torch.arange(4)}, path)
        content = AtomicCheckpointIO().load_checkpoint(path)
        assert content["step"] == 3
        assert content["x"].tolist() == [0, 1, 2, 3]
        assert os.listdir(path.parent) == ["last.ckpt"]

    def test_a_failing_write_leaves_the_old_file_and_nothing_else(self, tmp_path: Path) -> None:
        path = tmp_path / "last.ckpt"
        AtomicCheckpointIO().save_checkpoint({"step": 3}, path)
        with pytest.raises(RuntimeError, match="the disk is full"):
            AtomicCheckpointIO().save_checkpoint({"x": torch.zeros(9), "y": Unwritable()}, path)
        assert torch.load(path, weights_only=True) == {"step": 3}
        assert os.listdir(tmp_path) == ["last.ckpt"]

    def test_a_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "last.ckpt"
        AtomicCheckpointIO().save_checkpoint({"step": 3}, path)

        def fail(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            AtomicCheckpointIO().save_checkpoint({"step": 4}, path)
        assert torch.load(path, weights_only=True) == {"step": 3}
        assert os.listdir(tmp_path) == ["last.ckpt"]

    def test_the_old_file_is_replaced_not_overwritten(self, tmp_path: Path) -> None:
        """`best.ckpt` may be a second name of it."""
        path, other = tmp_path / "last.ckpt", tmp_path / "best.ckpt"
        AtomicCheckpointIO().save_checkpoint({"step": 3}, path)
        os.link(path, other)
        AtomicCheckpointIO().save_checkpoint({"step": 4}, path)
        assert torch.load(other, weights_only=True) == {"step": 3}
        assert torch.load(path, weights_only=True) == {"step": 4}

    @pytest.mark.parametrize("left", ["nothing", "one file", "a second name"])
    def test_there_is_a_last_one_at_every_moment(
        self, left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also after a kill between the renames, by a process of the same number."""
        last, previous, best = (tmp_path / f"{name}.ckpt" for name in ("last", "previous", "best"))
        for step in (2, 3):
            AtomicCheckpointIO().save_checkpoint({"step": step}, last)
        if left == "one file":
            previous.unlink()
            os.link(last, previous)
        if left == "a second name":
            os.link(last, previous.with_name(f"previous.ckpt.tmp-{os.getpid()}"))
            os.link(last, best)
            os.link(best, last.with_name(f"last.ckpt.tmp-{os.getpid()}"))
        replace = os.replace

        def watched(source: Path, target: Path) -> None:
            assert last.is_file()
            replace(source, target)
            assert last.is_file()

        monkeypatch.setattr(os, "replace", watched)
        AtomicCheckpointIO().save_checkpoint({"step": 4}, best)
        link_or_copy(best, last)
        steps = [torch.load(p, weights_only=True)["step"] for p in (last, previous, best)]
        assert steps == [4, 3, 4]
        assert sorted(os.listdir(tmp_path)) == ["best.ckpt", "last.ckpt", "previous.ckpt"]

    def test_without_hard_links(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: Any) -> None:
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(os, "link", refuse)
        last, best = tmp_path / "last.ckpt", tmp_path / "best.ckpt"
        for step in (3, 4):
            AtomicCheckpointIO().save_checkpoint({"step": step}, best)
            link_or_copy(best, last)
        previous = tmp_path / "previous.ckpt"
        steps = [torch.load(p, weights_only=True)["step"] for p in (last, previous, best)]
        assert steps == [4, 3, 4]
        assert sorted(os.listdir(tmp_path)) == ["best.ckpt", "last.ckpt", "previous.ckpt"]

    @pytest.mark.parametrize("moment", ["while writing", "before the rename"])
    def test_killed_while_saving(self, tmp_path: Path, moment: str) -> None:
        path = tmp_path / "last.ckpt"
        AtomicCheckpointIO().save_checkpoint({"step": 3}, path)

        def save_and_die() -> None:
            def die(*_: Any) -> None:
                os.kill(os.getpid(), signal.SIGKILL)

            def half(content: Any, file: Any) -> None:
                file.write(b"PK\x03\x04 half of it")
                file.flush()
                die()

            if moment == "while writing":
                torch.save = half
            else:
                os.replace = die
            AtomicCheckpointIO().save_checkpoint({"step": 4}, path)

        process = multiprocessing.get_context("fork").Process(target=save_and_die)
        process.start()
        process.join(30)
        assert process.exitcode == -signal.SIGKILL
        assert torch.load(path, weights_only=True) == {"step": 3}
        AtomicCheckpointIO().save_checkpoint({"step": 5}, path)
        assert torch.load(path, weights_only=True) == {"step": 5}


class TestTrainingState:
    def test_a_state_that_an_optimiser_does_not_take(
        self, finished_run: Path, tmp_path: Path
    ) -> None:
        run = shutil.copytree(finished_run, tmp_path / "run")
        last = run / "checkpoints" / "last.ckpt"
        content = torch.load(last, weights_only=True)
        content["optimizer_states"][0]["state"][0]["step"] = "x"
        torch.save(content, last)
        message = r"last\.ckpt: its training state cannot be restored \(ValueError"
        with pytest.raises(UserError, match=message):
            train(resumed([f"ckpt_path={last}", "trainer.max_epochs=3"]))
