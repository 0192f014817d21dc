import pytest
from lightning.pytorch.callbacks import LearningRateMonitor, Timer

from vivit_train.callbacks.extra import extra_callbacks
from vivit_train.errors import UserError

LIGHTNINGS = "lightning.pytorch.callbacks"
EXTRA = {
    "lr": {"_target_": f"{LIGHTNINGS}.LearningRateMonitor", "logging_interval": "step"},
    "off": None,
    "time": {"_target_": f"{LIGHTNINGS}.Timer"},
}


def test_they_are_built_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    rates, timer = extra_callbacks(EXTRA, resumes=False)
    assert isinstance(rates, LearningRateMonitor)
    assert rates.logging_interval == "step"
    assert isinstance(timer, Timer)
    assert capsys.readouterr().out == ""


def test_a_resumed_run_says_which_has_no_state(capsys: pytest.CaptureFixture[str]) -> None:
    extra_callbacks(EXTRA, resumes=True)
    assert capsys.readouterr().out == (
        "callbacks.extra.lr (LearningRateMonitor) keeps no state in checkpoints: it begins anew\n"
    )


def test_what_is_no_callback() -> None:
    extra = {"x": {"_target_": "lightning.pytorch.loggers.CSVLogger"}}
    with pytest.raises(UserError, match=r"callbacks\.extra\.x\._target_=.* not the class of"):
        extra_callbacks(extra, resumes=False)
