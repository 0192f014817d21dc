"""Every way in which a run can end, at every point: continued, it becomes what it would have been.

The runs are small, 2 epochs of 6 batches on videos of noise; two batches are an optimiser step.
"""

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import Timer
from omegaconf import DictConfig

from tests.faults import identical, rows, state
from train import train
from vivit_train import build, load
from vivit_train.callbacks.early_stopping import EarlyStopping
from vivit_train.config import compose_config, override_config
from vivit_train.data import dataset, rates
from vivit_train.errors import UserError
from vivit_train.model.lora import add_lora
from vivit_train.model.vivit import ViViT

TINY = (
    "data.num_workers=0",
    "data.decode_timeout=null",
    "model.num_layers=1",
    "model.hidden_size=8",
    "model.mlp_size=8",
    "augment.mixup=0.8",
    "trainer.accumulate_grad_batches=2",
    "trainer.limit_train_batches=6",
    "trainer.limit_val_batches=2",
    "trainer.limit_test_batches=1",
    "trainer.enable_progress_bar=false",
    # A constant rate: with another number of steps the schedule, and so the weights, are others.
    "optim.warmup_epochs=0",
    "optim.min_lr_fraction=1.0",
)
WHEN = {
    "after epochs": (),
    "after steps": ("trainer.val_check_interval=2",),
    "after the last epoch": ("trainer.check_val_every_n_epoch=2",),
    "never": ("trainer.limit_val_batches=0",),
}


def validated(*when: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("words", [WHEN[name] for name in when], ids=when)


class Noise:
    """In the place of `VideoReader`: a video of 8 frames that needs no decoding."""

    num_frames = 8

    def __init__(self, path: str, *_: Any, **__: Any) -> None:
        rng = np.random.default_rng(list(path.encode()))
        self.frames = rng.integers(0, 255, (self.num_frames, 16, 16, 3), dtype=np.uint8)

    def __enter__(self) -> "Noise":
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def read(self, indices: np.ndarray, shrink: Any = None) -> np.ndarray:
        return self.frames[indices]


Happening = Callable[[Trainer], None]


class Journal(Callback):
    """What the parts of one run did, and what happens in the next part.

    Attributes:
        videos: Rows of the videos of each training batch, numbered over the whole run.
        at: (kind of batch, its number in the part) -> what happens before that batch.
    """

    def __init__(self) -> None:
        self.videos: dict[int, list[int]] = {}
        self.at: Mapping[tuple[str, int], Happening] = {}
        self.counts: dict[str, int] = {}

    def count(self, trainer: Trainer, kind: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.at.get((kind, self.counts[kind]), lambda trainer: None)(trainer)

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, _: int) -> None:
        number, videos = trainer.fit_loop.total_batch_idx, batch.indices.tolist()
        assert self.videos.setdefault(number, videos) == videos  # the same when done again
        self.count(trainer, "train")

    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.count(trainer, "val")

    def on_test_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.count(trainer, "test")


class Run:
    """A run in parts, each of which resumes from the last checkpoint of those before."""

    def __init__(self, config: DictConfig, folder: Path) -> None:
        self.config = override_config(config, [f"run_dir={folder}"])
        self.folder = folder
        self.words: tuple[str, ...] = ()
        self.journal = Journal()

    @property
    def last(self) -> Path:
        return self.folder / "checkpoints" / "last.ckpt"

    def part(self, *words: str, at: Mapping[tuple[str, int], Happening] | None = None) -> "Run":
        """Trains until the run ends in one way or another."""
        self.journal.at, self.journal.counts = at or {}, {}
        resume = (f"ckpt_path={self.last}",) if self.last.exists() else ()
        original = build.build_trainer

        def build_trainer(*arguments: Any) -> Any:
            trainer, checkpoints = original(*arguments)
            trainer.callbacks[:0] = [self.journal]
            return trainer, checkpoints

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(build, "build_trainer", build_trainer)
            with suppress(Happened, SystemExit):
                train(override_config(self.config, [*self.words, *words, *resume]))
        return self

    def in_parts(self, at: Mapping[tuple[str, int], Happening]) -> "Run":
        """Parts to which the same happens, up to the test, and a last one."""
        parts = 0
        while "test" not in self.journal.counts and parts < 20:
            # A validation in which something happened is done at the second attempt.
            again = "val" in self.journal.counts
            self.part(at={k: v for k, v in at.items() if not again or k[0] != "val"})
            parts += 1
        assert 3 < parts < 20
        return self.part()

    def results(self) -> dict[str, Any]:
        return json.loads((self.folder / "results.json").read_text())

    def state(self, name: str = "last.ckpt") -> dict[str, Any]:
        return state(self.last.with_name(name))

    def same_as(self, other: "Run") -> None:
        """Asserts the same videos in the same batches, the same rows, scores and weights."""
        assert self.journal.videos == other.journal.videos
        assert rows(self.folder) == rows(other.folder)
        for path in other.last.parent.glob("[bl]*.ckpt"):  # best, if it is validated, and last
            assert identical(self.state(path.name), other.state(path.name))


@pytest.fixture(scope="module")
def config(small: tuple[str, ...]) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "VideoReader", Noise)
        patch.setattr(rates, "CAN_GUARD", False)  # heads of healthy videos, read in this process
        yield compose_config([*small, *TINY])


@pytest.fixture(scope="module")
def whole(
    config: DictConfig, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[tuple[str, ...]], Run]:
    """A run that nothing happens to, by its settings."""
    done: dict[tuple[str, ...], Run] = {}

    def run(words: tuple[str, ...]) -> Run:
        if words not in done:
            done[words] = Run(config, tmp_path_factory.mktemp("whole") / "run")
            done[words].part(*words)
        return done[words]

    return run


@pytest.fixture
def run(config: DictConfig, tmp_path: Path) -> Run:
    return Run(config, tmp_path / "run")


class Happened(Exception):
    """What ends a run unexpectedly."""


def fail(trainer: Trainer) -> None:
    raise Happened


def stop(trainer: Trainer) -> None:
    trainer.should_stop = True


def terminate(trainer: Trainer) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_what_a_whole_run_is(whole: Callable[..., Run]) -> None:
    assert sorted(whole(()).journal.videos) == list(range(12))
    for words, number in zip(WHEN.values(), (2, 6, 1, 0)):
        table = rows(whole(words).folder)
        assert sum(bool(row["train/loss"]) for row in table) == 6
        assert sum(bool(row.get("val/loss")) for row in table) == number
        ours, theirs = whole(words).state(), whole(()).state()
        for state_of_run in (ours, theirs):  # how often a run validates stands there
            del state_of_run["position"]["in_batches"]
        assert identical(ours, theirs)


@validated("after epochs", "after steps", "never")
def test_max_steps(words: tuple[str, ...], whole: Callable[..., Run], run: Run) -> None:
    run.words = words
    for steps in (1, 2, 3, 5):
        run.part(f"trainer.max_steps={steps}")
        assert len(run.journal.videos) == 2 * steps
    run.part().same_as(whole(words))


@validated("after epochs", "never")
def test_max_time(
    words: tuple[str, ...], whole: Callable[..., Run], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step at hand is finished, and the run validated where it ends."""
    run.words = words
    monkeypatch.setattr(Timer, "time_elapsed", lambda *_: float(len(run.journal.videos)))
    for batches in (1, 4, 5, 6, 7):
        run.part(f"trainer.max_time='00:00:00:{batches:02}'")
        assert len(run.journal.videos) == -(-batches // 2) * 2
    run.part()
    # But for the test: the best may be where the run was interrupted.
    ours, theirs = (
        [row for row in rows(folder) if not row["test/loss"]]
        for folder in (run.folder, whole(words).folder)
    )
    assert [row for row in ours if row in theirs] == theirs
    assert all(row["val/loss"] for row in ours if row not in theirs)
    assert run.journal.videos == whole(words).journal.videos
    assert identical(run.state(), whole(words).state())


def test_early_stopping(
    whole: Callable[..., Run], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """At validations inside epochs and after one; more patience goes on as if it had been given."""
    run.words = WHEN["after steps"]
    # Of equal scores the first is the best: the second step's is not better.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EarlyStopping, "monitor_op", property(lambda self: never_after_the_first))
        for patience in (1, 2, 3):
            run.part(f"callbacks.patience_steps={patience}")
            assert len(run.journal.videos) == 2 * (1 + patience)
            told = f"not been better for {patience} steps (callbacks.patience_steps={patience}) t"
            assert told in capsys.readouterr().out
    run.part().same_as(whole(run.words))


def never_after_the_first(now: torch.Tensor, best: torch.Tensor) -> bool:
    return not bool(torch.isfinite(best))


def test_early_stopping_in_parts(
    whole: Callable[..., Run], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in its test, a run that has stopped early trains no further."""
    monkeypatch.setattr(EarlyStopping, "monitor_op", property(lambda self: never_after_the_first))
    words = (*WHEN["after steps"], "callbacks.patience_steps=2")
    run.words = words
    at = {("train", 1): terminate, ("val", 1): terminate, ("test", 1): terminate}
    stopped = r"the run has stopped early already: val/top1 has not been better for 2"
    with pytest.warns(UserWarning, match=stopped):
        run.in_parts(at)
    assert len(run.journal.videos) == 2 * 3
    run.same_as(whole(words))


def test_early_stopping_needs_validations(run: Run) -> None:
    with pytest.raises(UserError, match="patience_steps=2 needs validations, and trainer.lim"):
        run.part("callbacks.patience_steps=2", *WHEN["never"])


def test_the_best_few_in_parts(whole: Callable[..., Run], run: Run) -> None:
    """The same files with the same contents, wherever the run was interrupted."""
    words = (*WHEN["after steps"], "callbacks.top_k=3")
    run.words = words
    at = {("train", 1): terminate, ("val", 1): terminate, ("test", 1): terminate}
    run.in_parts(at).same_as(whole(words))
    ours, theirs = (
        sorted(path.name for path in folder.glob("step*"))
        for folder in (run.last.parent, whole(words).last.parent)
    )
    assert ours == theirs
    assert len(ours) == 3
    assert all(identical(run.state(name), whole(words).state(name)) for name in ours)


def test_a_callback_ends_the_run(whole: Callable[..., Run], run: Run) -> None:
    """In the first batch of a step, in its second, and in the next step's first."""
    run.words = WHEN["never"]
    for batch in (1, 2, 3):
        run.part(at={("train", batch): stop})
    assert len(run.journal.videos) == 2 + 2 + 4
    run.part().same_as(whole(run.words))


@pytest.mark.parametrize(
    ("batch", "words"),
    [*[(1, words) for words in WHEN.values()], (2, WHEN["after steps"])],
    ids=[*WHEN, "in a step's last batch"],
)
def test_signals(batch: int, words: tuple[str, ...], whole: Callable[..., Run], run: Run) -> None:
    """In every step, in every validation, and in the test."""
    run.words = words
    at = {("train", batch): terminate, ("val", batch): terminate, ("test", 1): terminate}
    run.in_parts(at).same_as(whole(words))


@validated("after epochs", "after steps")
def test_exceptions(words: tuple[str, ...], whole: Callable[..., Run], run: Run) -> None:
    """In each second step, in validations, and in the test; what was saved is resumed."""
    run.words = (*words, "callbacks.every_n_train_steps=1")
    at = {("train", 3): fail, ("val", 2): fail, ("test", 1): fail}
    run.in_parts(at).same_as(whole(words))


@pytest.mark.parametrize(("steps", "words"), [(4, WHEN["after steps"]), (6, WHEN["after epochs"])])
def test_signals_in_a_run_with_max_steps(
    steps: int, words: tuple[str, ...], whole: Callable[..., Run], run: Run
) -> None:
    """Also in the validation after its last step."""
    run.words = (*words, f"trainer.max_steps={steps}")
    at = {("train", 1): terminate, ("val", 1): terminate, ("test", 1): terminate}
    run.in_parts(at).same_as(whole(run.words))


def test_rare_classes_in_parts(uneven: list[str], whole: Callable[..., Run], run: Run) -> None:
    """The order and the weights of the classes are those of the whole run."""
    words = ["data.class_sampling=0.7", "optim.class_weights=balanced"]
    config = compose_config([*uneven, *TINY, *words, "trainer.limit_train_batches=4"])
    one, run = Run(config, run.folder.with_name("one")), Run(config, run.folder)
    one.part()
    drawn = Counter(chain.from_iterable(one.journal.videos.values()))
    assert max(drawn.values()) > 2
    at = {("train", 1): terminate, ("val", 1): terminate, ("test", 1): terminate}
    run.in_parts(at).same_as(one)


def test_lora_in_parts(whole: Callable[..., Run], run: Run) -> None:
    """The same bits; the frozen weights stay, and whoever loads the model gets them merged."""
    pretrained = whole(()).last.with_name("best.ckpt")
    run.words = (
        f"model.pretrained={pretrained}", "optim.lora_rank=2", "model.activation_checkpointing=true"
    )  # fmt: skip
    one = whole(run.words)
    run.in_parts({("train", 3): terminate, ("val", 1): terminate, ("test", 1): terminate})
    run.same_as(one)

    start = torch.load(pretrained, weights_only=True)["state_dict"]
    content = torch.load(run.last, weights_only=True)
    ours = content["state_dict"]
    changed = {name for name, t in ours.items() if not torch.equal(t, start.get(name, t * 0))}
    added = ours.keys() - start.keys()
    assert changed == added | {"model.head.weight", "model.head.bias"}
    assert len(content["optimizer_states"][0]["state"]) == len(changed) == 4 * 2 + 2
    assert content["training_weights"].keys() == changed  # averages of what is trained alone

    model = ViViT(**content["hyper_parameters"]["model"]).eval()
    loaded = load(run.last).model
    assert loaded.state_dict().keys() == model.state_dict().keys()
    add_lora(model, 2)
    model.load_state_dict({name.removeprefix("model."): t for name, t in ours.items()})
    clips = torch.randn(2, 3, 4, 16, 16)
    torch.testing.assert_close(loaded(clips), model(clips), rtol=1e-5, atol=1e-5)


def test_an_epoch_that_is_no_whole_number_of_steps(whole: Callable[..., Run], run: Run) -> None:
    """The third step of an epoch is one batch."""
    words = ("trainer.limit_train_batches=5",)
    run.words = words
    at = {("train", 1): terminate, ("val", 1): terminate, ("test", 1): terminate}
    run.in_parts(at).same_as(whole(words))


def test_a_validation_that_is_due_is_not_left_out(whole: Callable[..., Run], run: Run) -> None:
    run.part(at={("val", 2): terminate})
    for word in (*WHEN["never"], *WHEN["after the last epoch"]):
        with pytest.raises(UserError, match="saved during a validation, which these settings"):
            run.part(word)
    run.part().same_as(whole(()))


def test_a_run_of_an_older_version(whole: Callable[..., Run], run: Run) -> None:
    """Its checkpoint does not say whether a validation is due, and counts an epoch as done."""
    run.words = WHEN["never"]
    run.part("trainer.max_steps=2")
    content = torch.load(run.last, weights_only=True)
    del content["position"]["validation_due"]
    assert content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] == 1
    torch.save(content, run.last)
    run.part().same_as(whole(run.words))


def test_no_test(run: Run) -> None:
    """No scores, neither those of the last validation nor of an earlier test."""
    run.part("trainer.limit_test_batches=3")
    before = run.results()
    assert (before["num_videos"], before["num_videos_scored"]) == (16, 6)  # of two views each
    assert (run.folder / "classes.csv").exists()
    tested = (run.folder / "predictions.csv").read_text()
    assert len(tested.splitlines()) == 7
    assert len({line.split(",")[1] for line in tested.splitlines()}) == 7  # each of its own class
    for more in ((), ("trainer.limit_val_batches=0",)):
        with pytest.warns(UserWarning, match="limit_test_batches=0: no test follows"):
            run.part("trainer.limit_test_batches=0", "trainer.max_epochs=3", *more)
        results = run.results()
        assert (results["num_videos_scored"], results["split_fingerprint"]) == (0, None)
        assert results["checkpoint"] == "checkpoints/best.ckpt"
        assert not [name for name in results if "top" in name or "accuracy" in name]
        assert not [*run.folder.glob("classes.csv"), *run.folder.glob("predictions.csv")]
        assert not [row for row in rows(run.folder) if row.get("test/loss")]


def test_neither_validation_nor_test(run: Run) -> None:
    run.part("trainer.limit_test_batches=0", *WHEN["never"])
    assert run.results()["num_videos_scored"] == 0
    assert run.results()["checkpoint"] == "checkpoints/last.ckpt"


@pytest.mark.parametrize("role", ["val", "test"])
def test_a_limit_that_leaves_nothing_is_told_before_training(role: str, run: Run) -> None:
    with pytest.raises(UserError, match=rf"limit_{role}_batches=0.01: that is less than one of"):
        run.part(f"trainer.limit_{role}_batches=0.01")
    assert run.journal.counts == {}


def test_no_time_at_all(run: Run) -> None:
    with (
        pytest.warns(UserWarning, match=r"there is no time left to train: trainer"),
        pytest.raises(UserError, match="ended before its first optimiser step"),
    ):
        run.part("trainer.max_time='00:00:00:00'")
