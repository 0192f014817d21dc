import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vivit_train.callbacks import start
from vivit_train.callbacks.start import Start, what_repeats
from vivit_train.io import terminal


def stub(**values: Any) -> SimpleNamespace:
    data = SimpleNamespace(
        records={"train": range(64), "test": range(32)},
        splits={"test": "val"},
        eval_views=(4, 3),
        num_workers=2,
    )
    defaults = {
        "is_global_zero": True, "world_size": 1, "precision": "32-true", "datamodule": data,
        "num_training_batches": 8, "accumulate_grad_batches": 2, "estimated_stepping_batches": 8,
        "global_step": 0, "max_epochs": 2, "max_steps": -1, "current_epoch": 0, "ckpt_path": None,
        "log_every_n_steps": 8,
    }  # fmt: skip
    return SimpleNamespace(**defaults | values)


def module() -> Any:
    linear = torch.nn.Linear(99, 10)
    linear.device = torch.device("cpu")
    return linear


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_what_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    callback = Start("vivit_ti", Path("runs/a"))
    callback.on_train_start(stub(), module())
    assert said(capsys) == [
        "training vivit_ti, 1,000 parameters, on cpu in 32-true",
        "64 clips are 4 steps per epoch, 8 in all; the run writes to runs/a",
        "repeated or resumed with the same seed, it gives the same bits",
    ]
    linear = module()
    linear.bias.requires_grad_(False)
    resumed = stub(global_step=4, current_epoch=1, world_size=2)
    callback.on_train_start(resumed, linear)
    first, *_, last = said(capsys)
    assert (
        first == "training vivit_ti, 1,000 parameters, 990 of them trained, on 2 x cpu in 32-true"
    )
    assert last == "resuming at step 4, epoch 2 of 2"
    callback.on_train_start(stub(is_global_zero=False), module())
    assert said(capsys) == []
    callback.teardown(None, None, stage="fit")


@pytest.mark.parametrize(
    ("device", "deterministic", "warn_only", "exact"),
    [
        ("cpu", False, False, True),
        ("cuda", False, False, False),
        ("cuda", True, True, False),
        ("cuda", True, False, True),
    ],
)
def test_whether_it_gives_the_same_bits_again(
    device: str, deterministic: bool, warn_only: bool, exact: bool
) -> None:
    torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
    try:
        told = what_repeats(torch.device(device))
    finally:
        torch.use_deterministic_algorithms(False)
    assert ("gives the same bits" in told) == exact
    assert ("set trainer.deterministic=true" in told) != exact


def test_a_run_that_is_shorter_than_the_steps_between_two_logs() -> None:
    with pytest.warns(UserWarning, match="8 steps, fewer than trainer.log_every_n_steps=9: metr"):
        Start("vivit_ti", Path("runs/a")).on_train_start(stub(log_every_n_steps=9), module())


def test_what_is_tested(capsys: pytest.CaptureFixture[str]) -> None:
    callback = Start("vivit_ti", Path("runs/a"))
    callback.on_test_start(stub(ckpt_path="runs/a/checkpoints/best.ckpt"), module())
    callback.on_test_start(stub(), module())
    assert said(capsys) == [
        "testing best.ckpt on 32 videos of val, 4 x 3 views of each",
        "testing on 32 videos of val, 4 x 3 views of each",
    ]


def test_what_is_waited_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where it takes long, and only until the first step is done."""
    monkeypatch.setattr(start, "said_if_long", lambda line: terminal.said_if_long(line, 0.05))
    callback = Start("vivit_ti", Path("runs/a"))
    callback.on_train_start(stub(), module())
    time.sleep(0.15)
    callback.on_train_batch_start(stub())
    time.sleep(0.15)
    callback.on_train_batch_end()
    callback.on_train_batch_start(stub())
    time.sleep(0.15)
    assert capsys.readouterr().err.splitlines() == [
        "waiting for the first batch: 2 processes start and decode",
        "the first step is under way; it takes longer than those after it",
    ]
    callback.on_train_start(stub(), module())
    callback.on_exception()
    time.sleep(0.1)
    assert capsys.readouterr().err == ""
