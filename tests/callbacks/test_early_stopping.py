from types import SimpleNamespace

import pytest
import torch

from vivit_train.callbacks.early_stopping import EarlyStopping


def validate(callback: EarlyStopping, step: int, score: float, **trainer: bool) -> bool:
    """Whether the run is to end after a validation at this step."""
    stub = SimpleNamespace(
        global_step=step,
        callback_metrics={callback.monitor: torch.tensor(score)},
        state=SimpleNamespace(fn="fit"),
        strategy=SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision),
        should_stop=False,
        current_epoch=0,
        fast_dev_run=False,
        is_global_zero=True,
        **{"sanity_checking": False} | trainer,
    )
    callback.on_validation_end(stub, None)
    return stub.should_stop


def test_patience_is_in_steps_however_many_validations(capsys: pytest.CaptureFixture[str]) -> None:
    callback = EarlyStopping("val/top1", 100)
    scores = [(10, 0.2), (50, 0.1), (109, 0.2), (110, 0.3), (111, 0.1), (209, 0.3)]
    assert not any(validate(callback, step, score) for step, score in scores)
    assert capsys.readouterr().out == ""
    assert validate(callback, 215, 0.3)  # an equal score is not better
    assert capsys.readouterr().out == (
        "stopping early: val/top1 has not been better for 105 steps "
        "(callbacks.patience_steps=100) than 0.3000 at step 110\n"
    )


def test_of_the_loss_lower_is_better_and_nan_is_not() -> None:
    callback = EarlyStopping("val/loss", 10)
    losses = [(5, 2.0), (10, 1.0), (15, float("nan")), (19, 1.5)]
    assert not any(validate(callback, step, loss) for step, loss in losses)
    assert validate(callback, 20, float("nan"))


def test_the_sanity_check_does_not_count() -> None:
    callback = EarlyStopping("val/top1", 10)
    assert not validate(callback, 0, 0.9, sanity_checking=True)
    assert not validate(callback, 5, 0.1)
    assert callback.best_step == 5


def test_resumed_with_another_patience() -> None:
    before = EarlyStopping("val/top1", 10)
    validate(before, 5, 0.5)
    validate(before, 12, 0.4)
    resumed = EarlyStopping("val/top1", 20)
    resumed.load_state_dict(before.state_dict())
    assert (resumed.patience, resumed.wait_count) == (20, 7)
    assert not validate(resumed, 24, 0.4)
    assert validate(resumed, 25, 0.4)
