"""Sharded training: the numbers and the files are those of one process."""

import csv
import functools
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.faults import Fault, same_run, state, torchrun
from tests.test_faults import signalled
from train import train
from vivit_train import load
from vivit_train.config import compose_config
from vivit_train.errors import UserError
from vivit_train.launch.sharding import Sharded, resolve_strategy

MODELS = {
    "model_1": (),
    "model_2": ("model.attention=factorised_encoder", "model.temporal_layers=1"),
    "model_3": ("model.attention=factorised_self_attention", "model.pooling=mean"),
    "model_4": ("model.attention=factorised_dot_product", "model.pooling=mean"),
}
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def words(small: tuple[str, ...]) -> list[str]:
    """Five steps of four videos, whose draws do not depend on the number of processes.

    Every step is clipped; weights and gradients are large enough to be compared.
    """
    return [
        *small, "trainer.max_steps=5", "trainer.limit_test_batches=1", "data.num_workers=0",
        "trainer.val_check_interval=4", "trainer.limit_val_batches=2",
        "augment.mixup=0", "augment.cutmix=0", "model.drop_path=0", "model.dropout=0",
        "model.initializer_range=0.2", "optim=sgd", "optim.lr=2.0", "trainer.gradient_clip_val=0.3",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of Model 1 in one process."""
    return train_one(words, tmp_path_factory.mktemp("whole") / "run")


def train_one(words: list[str], run: Path) -> Path:
    """Trains in this process."""
    return train(compose_config([*words, f"run_dir={run}"]))


def train_two(
    words: list[str], run: Path, code: int = 0, fault: Fault | None = None, strategy: str = "fsdp"
) -> Path:
    """Trains in two processes, of which the second may have a fault."""
    two = [*words, f"run_dir={run}", "trainer.devices=2", "data.batch_size=2"]
    ranks = torchrun([*two, f"trainer.strategy={strategy}"], run.with_suffix(".log"), 2, fault)
    ended = [rank.end() for rank in ranks]
    assert ended == [code, code], ranks[0].said() + ranks[1].said()
    return run


def last(run: Path) -> dict[str, Any]:
    """The last checkpoint, but for the kernels that the optimiser used."""
    content = state(run / "checkpoints" / "last.ckpt")
    for group in content["optimizer_states"][0]["param_groups"]:
        del group["fused"], group["foreach"]
    return content


def assert_close(ours: Any, theirs: Any, tolerance: float = 1e-5) -> None:
    """Compares nested values, tensors by their largest difference."""
    if isinstance(theirs, Tensor):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)
    elif isinstance(theirs, dict | list):
        keys = theirs if isinstance(theirs, dict) else range(len(theirs))
        assert len(ours) == len(theirs)
        for key in keys:
            assert_close(ours[key], theirs[key], tolerance)
    else:
        assert ours == pytest.approx(theirs, abs=tolerance)


def logged(run: Path, name: str) -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row["train/loss"]]


def test_shards_train_as_one_process_and_one_process_goes_on(
    words: list[str], whole: Path, tmp_path: Path
) -> None:
    """Weights, averages, optimiser state, gradients, and the file that they are in."""
    run = train_two(words, tmp_path / "run")
    ours, theirs = last(run), last(whole)
    assert_close(ours, theirs)
    norms = logged(whole, "train/grad_norm")
    assert len(norms) == 5
    assert min(norms) > 0.3  # all were clipped
    assert logged(run, "train/grad_norm") == pytest.approx(norms, rel=1e-4)
    # Of the whole step's clips, not of those of one process.
    for name in ("train/loss", "train/top1"):
        assert logged(run, name) == pytest.approx(logged(whole, name), rel=1e-4)
    averages = theirs["state_dict"]
    moved = [(averages[n] - w).abs().max() for n, w in theirs["training_weights"].items()]
    assert min(moved) > 1e-4  # far more than the tolerance

    classifier = load(run / "checkpoints" / "last.ckpt")
    for name, weight in classifier.model.state_dict().items():
        assert torch.equal(weight, ours["state_dict"][f"model.{name}"])

    words = [*words, "trainer.max_steps=7"]
    sharded, unsharded = (
        last(train_one([*words, f"ckpt_path={start}/checkpoints/last.ckpt"], tmp_path / name))
        for name, start in (("sharded", run), ("unsharded", whole))
    )
    assert_close(sharded, unsharded)


# With AdamW, whose first steps are all of one length whatever the gradient's, at a rate for that.
MANY = (
    "optim=adamw", "optim.lr=0.001", "trainer.accumulate_grad_batches=2", "trainer.max_epochs=3",
    "model.activation_checkpointing=true", "optim.freeze=[embed.*,encoder.blocks.0.*]",
    "callbacks.non_finite=skip", "trainer.gradient_clip_algorithm=value",
)  # fmt: skip


@SLOW
@pytest.mark.parametrize(
    ("strategy", "model", "more"),
    [
        ("ddp", "model_1", ()),
        ("ddp", "model_2", ()),
        ("fsdp", "model_2", ()),
        ("fsdp", "model_3", ()),
        ("fsdp", "model_4", ()),
        ("fsdp", "model_2", MANY),
    ],
)
def test_two_processes_train_as_one(
    strategy: str, model: str, more: tuple[str, ...], words: list[str], tmp_path: Path
) -> None:
    words = [*words, *MODELS[model], *more]
    theirs = last(train_one(words, tmp_path / "whole"))
    ours = last(train_two(words, tmp_path / "run", strategy=strategy))
    assert_close(ours["state_dict"], theirs["state_dict"])
    assert_close(ours["training_weights"], theirs["training_weights"])


@SLOW
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_lora_in_two_processes(
    strategy: str, words: list[str], whole: Path, tmp_path: Path
) -> None:
    """The matrices begin alike in both, and the frozen weights stay."""
    words = [*words, f"model.pretrained={whole}", "optim.lora_rank=2", "optim.lr=0.5"]
    theirs = last(train_one(words, tmp_path / "whole"))
    ours = last(train_two(words, tmp_path / "run", strategy=strategy))
    assert_close(ours["state_dict"], theirs["state_dict"])
    assert_close(ours["training_weights"], theirs["training_weights"])
    trained = [name for name in ours["training_weights"] if "head" not in name]
    assert len(trained) == 2 * 4 * 2
    assert all(name.endswith(("lora_a", "lora_b")) for name in trained)


@SLOW
def test_two_processes_train_as_one_on_rare_classes(
    uneven: list[str], words: list[str], tmp_path: Path
) -> None:
    own = [word for word in words if "per_class" not in word and "data.root" not in word]
    rare = ["data.class_sampling=0.7", "optim.class_weights=balanced", "optim.label_smoothing=0.1"]
    words = [*uneven, *own, *rare]
    theirs = last(train_one(words, tmp_path / "whole"))
    ours = last(train_two(words, tmp_path / "run", strategy="ddp"))
    assert_close(ours["state_dict"], theirs["state_dict"])


@SLOW
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_processes_go_on_from_what_one_has_done(
    optimizer: str, words: list[str], tmp_path: Path
) -> None:
    words = [*words, f"optim={optimizer}", "optim.lr=0.001"]
    start = train_one(words, tmp_path / "start") / "checkpoints" / "last.ckpt"
    words = [*words, "trainer.max_steps=8", f"ckpt_path={start}"]
    theirs = last(train_one(words, tmp_path / "one"))
    # In the configuration of the run, with which the two go on.
    two = ["trainer.devices=2", "trainer.strategy=fsdp", "data.batch_size=2"]
    ours = last(train_two([*words, *two], tmp_path / "two"))
    assert_close(ours, theirs)


@SLOW
def test_a_stopped_run_goes_on_to_the_bit(words: list[str], tmp_path: Path) -> None:
    """One process is told, both stop, and both go on, with everything that draws at random."""
    words = [*words, "model.drop_path=0.2", "model.dropout=0.1", "trainer.max_steps=12"]
    whole = train_two(words, tmp_path / "whole")
    run = tmp_path / "run"
    stop = functools.partial(signalled, signal.SIGTERM, "training_step", 10)
    words = [*words, "ckpt_path=auto"]
    train_two(words, run, code=143, fault=stop)
    train_two(words, run)
    same_run(run, whole)


@SLOW
def test_mixed_precision_is_that_of_ddp(words: list[str], tmp_path: Path) -> None:
    words = [*words, "trainer.precision=bf16-mixed"]
    ours, theirs = (
        last(train_two(words, tmp_path / name, strategy=name)) for name in ("fsdp", "ddp")
    )
    assert_close(ours["state_dict"], theirs["state_dict"], 1e-4)
    assert_close(ours["training_weights"], theirs["training_weights"], 1e-4)


@SLOW
def test_weights_in_bf16(words: list[str], tmp_path: Path) -> None:
    """With AdamW, whose kernel is the same for shards."""
    words = [*words, "trainer.precision=bf16-true", "optim=adamw", "optim.lr=0.01"]
    theirs = last(train_one(words, tmp_path / "one"))
    ours = last(train_one([*words, "trainer.strategy=fsdp"], tmp_path / "run"))
    assert_close(ours, theirs)


@SLOW
def test_compiled_blocks(words: list[str], whole: Path, tmp_path: Path) -> None:
    ours = last(train_two([*words, "model.compile=true"], tmp_path / "run"))
    assert_close(ours["state_dict"], last(whole)["state_dict"])


@pytest.mark.parametrize("precision", ["32-true", "32", "bf16-mixed", "bf16", "bf16-true"])
def test_fsdp_is_the_second(precision: str) -> None:
    assert isinstance(resolve_strategy("fsdp", precision), Sharded)
    assert resolve_strategy("ddp", precision) == "ddp"


@pytest.mark.parametrize(
    ("name", "precision", "message"),
    [
        ("fsdp2", "32-true", "trainer.strategy=fsdp2 is not supported: trainer.strategy=fsdp"),
        ("fsdp_cpu_offload", "32-true", "trainer.strategy=fsdp_cpu_offload is not supported"),
        ("fsdp", "16-mixed", "does not support trainer.precision=16-mixed: use bf16-mixed"),
        ("fsdp", "64-true", "does not support trainer.precision=64-true"),
    ],
)
def test_what_it_does_not_do_is_refused(name: str, precision: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_strategy(name, precision)
