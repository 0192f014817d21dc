from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vivit_train.callbacks.same_steps import SameSteps
from vivit_train.errors import UserError
from vivit_train.io.layout import MetricsPosition
from vivit_train.runs.begun import Begun


def trainer(processes: int, videos: int, accumulate: int = 1, batches: int = 6) -> Any:
    """A trainer as far as `SameSteps` asks it, 5 batches into its second epoch."""
    done = SimpleNamespace(
        total=SimpleNamespace(processed=batches + 5), current=SimpleNamespace(ready=5)
    )
    return SimpleNamespace(
        world_size=processes,
        accumulate_grad_batches=accumulate,
        limit_train_batches=1.0,
        val_check_interval=3,
        val_check_batch=3,
        check_val_every_n_epoch=1,
        max_steps=-1,
        num_training_batches=batches,
        max_epochs=3,
        datamodule=SimpleNamespace(videos_per_batch=lambda: videos),
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=done)),
        state=SimpleNamespace(fn="fit"),
    )


@pytest.fixture
def saved(tmp_path: Path) -> str:
    """Of four processes with two videos each."""
    nothing = {"ready": 0, "started": 0, "processed": 0, "completed": 0}
    checkpoint: dict[str, Any] = {
        "global_step": 11,
        "loops": {
            "fit_loop": {
                "epoch_progress": {"total": nothing, "current": nothing},
                "epoch_loop.batch_progress": {"total": nothing, "current": nothing},
                "epoch_loop.val_loop.batch_progress": {"total": nothing, "current": nothing},
                "epoch_loop.automatic_optimization.optim_progress": {
                    "optimizer": {"step": {"total": {"ready": 11, "completed": 11}}}
                },
                "epoch_loop.state_dict": {"_batches_that_stepped": 0},
            }
        },
    }
    SameSteps(None).on_save_checkpoint(trainer(4, 2), None, checkpoint)
    assert checkpoint["position"] == {
        "epoch": 1,
        "videos_done": 40,
        "validation_due": False,
        "videos_per_batch": 8,
        "videos_per_step": 8,
        "videos_per_epoch": 48,
        "in_batches": {"accumulate_grad_batches": 1, "val_check_interval": 3},
    }
    torch.save(checkpoint, tmp_path / "last.ckpt")
    return str(tmp_path / "last.ckpt")


def begun(path: str) -> Begun:
    """What `read_begun` gives, as far as `SameSteps` asks."""
    content = torch.load(path, weights_only=True)
    step, position = content["global_step"], content["position"]
    config = content.get("hyper_parameters", {}).get("config", {})
    metrics: MetricsPosition = {"rows": 0, "next": None}
    return Begun(Path(path), step, position, metrics, None, [], False, config)


def resume(saved: str, now: Any) -> dict[str, Any]:
    callback = SameSteps(begun(saved))
    callback.setup(now, None, "fit")
    checkpoint = torch.load(saved, weights_only=True)
    callback.on_load_checkpoint(now, None, checkpoint)
    now.val_check_batch = now.val_check_interval
    callback.on_train_start(now, None)
    return checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]


@pytest.mark.parametrize(("processes", "accumulate"), [(2, 2), (1, 4)])
def test_fewer_processes_accumulate(saved: str, processes: int, accumulate: int) -> None:
    now = trainer(processes, 2, batches=6 * accumulate)
    with pytest.warns(UserWarning, match=f"batches=1 becomes {accumulate}, so that .* 8 videos"):
        progress = resume(saved, now)
    assert now.accumulate_grad_batches == accumulate
    assert now.val_check_interval == 3 * accumulate
    done = 11 * accumulate
    expected = {"ready": done, "started": done, "processed": done, "completed": done - 1}
    assert progress["total"] == expected


def chained(first: str, path: Path, now: Any) -> str:
    """A checkpoint of the run that ``now`` has resumed."""
    callback = SameSteps(begun(first))
    callback.setup(now, None, "fit")
    before = torch.load(first, weights_only=True)
    checkpoint = {"loops": before["loops"], "global_step": before["global_step"]}
    checkpoint["hyper_parameters"] = {
        "config": {"trainer": {"accumulate_grad_batches": 1, "val_check_interval": 3}}
    }
    callback.on_save_checkpoint(now, None, checkpoint)
    torch.save(checkpoint, path)
    return str(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "last", [lambda now: now, lambda now: trainer(2, 2, 2, 12)], ids=["auto", "last"]
)
def test_a_run_that_is_resumed_twice(saved: str, tmp_path: Path, last: Any) -> None:
    """The second time by the command that it was started with, or by its own config.yaml."""
    second = chained(saved, tmp_path / "second.ckpt", trainer(2, 2, batches=12))
    now = last(trainer(2, 2, batches=12))
    now.val_check_interval = 3 * now.accumulate_grad_batches
    SameSteps(begun(second)).setup(now, None, "fit")
    assert (now.accumulate_grad_batches, now.val_check_interval) == (2, 6)
    back = trainer(4, 2, accumulate=2)  # what config.yaml says by then
    back.val_check_interval = 6
    SameSteps(begun(second)).setup(back, None, "fit")
    assert (back.accumulate_grad_batches, back.val_check_interval) == (1, 3)


def test_a_run_that_is_longer_already(saved: str) -> None:
    now = trainer(4, 2)
    now.max_epochs, now.max_steps = 1, 11
    resume(saved, now)
    now.max_steps = 10
    with pytest.raises(UserError, match=r"trainer\.max_steps=10: the run has done 11 already"):
        resume(saved, now)


def test_another_step_is_refused(saved: str) -> None:
    message = r"accumulate_grad_batches=3 is 24 videos, and this run takes 8: .* or give 1"
    with pytest.raises(UserError, match=message):
        resume(saved, trainer(4, 2, accumulate=3))


def test_another_interval_between_validations_is_used(saved: str) -> None:
    now = trainer(4, 2)
    now.val_check_interval = 2
    resume(saved, now)
    assert now.val_check_interval == 2


def test_the_same_processes_change_nothing(saved: str) -> None:
    now = trainer(4, 2)
    assert resume(saved, now)["total"]["processed"] == 11
    assert now.accumulate_grad_batches == 1


def test_what_does_not_divide_is_refused_with_the_arithmetic(saved: str) -> None:
    message = (
        r"8 videos per optimiser step, which is not a multiple of 3 processes x 2 videos each = 6"
    )
    with pytest.raises(UserError, match=message):
        resume(saved, trainer(3, 2))


@pytest.mark.parametrize(
    ("interval", "accumulate", "batches", "every", "expected"),
    [
        (1.0, 4, 10, 1, 10),  # after the epoch, whose last step is shorter
        (0.5, 4, 10, 1, 4),
        (0.1, 4, 10, 1, 4),
        (0.5, 4, 3, 1, 3),
        (8, 4, 16, 1, 8),
        (10, 4, 10, 1, 10),
        (8, 4, 16, None, 8),
        (6, 4, 16, 1, None),
        (8, 4, 10, None, None),  # in the second epoch it would be inside a step
    ],
)
def test_validation_comes_after_whole_steps(
    interval: float, accumulate: int, batches: int, every: int | None, expected: int | None
) -> None:
    now = trainer(1, 4, accumulate, batches)
    now.val_check_interval, now.check_val_every_n_epoch = interval, every
    now.val_check_batch = interval if isinstance(interval, int) else int(batches * interval) or 1
    if expected is None:
        message = rf"trainer.val_check_interval={interval} batches end inside an optimiser step"
        with pytest.raises(UserError, match=message):
            SameSteps(None).on_train_start(now, None)
    else:
        SameSteps(None).on_train_start(now, None)
        assert now.val_check_batch == expected


def test_another_epoch_is_refused(saved: str) -> None:
    with pytest.raises(UserError, match=r"has 48 videos, but 7 batches x 8 videos = 56 now"):
        resume(saved, trainer(4, 2, batches=7))
