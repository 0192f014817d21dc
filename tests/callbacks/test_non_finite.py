from pathlib import Path

import pytest
import torch

from vivit_train.callbacks.non_finite import MAX_CONSECUTIVE, NonFinite
from vivit_train.config import compose_config
from vivit_train.errors import UserError
from vivit_train.module import VivitModule


def trained(small: tuple[str, ...], run: Path, *words: str) -> Path:
    from train import train

    return train(compose_config([*small, "data.num_workers=0", *words, f"run_dir={run}"]))


@pytest.fixture
def nan_at(monkeypatch: pytest.MonkeyPatch):
    """Makes the loss, or only the gradient, of some steps NaN."""

    def poison(*steps: int, loss_is_finite: bool = False) -> None:
        stock = VivitModule.training_step

        def step(self, batch, batch_idx):
            loss = stock(self, batch, batch_idx)
            if self.trainer.global_step not in steps:
                return loss
            if not loss_is_finite:
                return loss * torch.nan
            loss.register_hook(lambda gradient: gradient * torch.nan)
            return loss

        monkeypatch.setattr(VivitModule, "training_step", step)

    return poison


def test_a_run_stops_naming_step_and_videos(small, tmp_path: Path, nan_at) -> None:
    nan_at(3)
    with pytest.raises(UserError) as caught:
        trained(small, tmp_path / "run", "callbacks.every_n_train_steps=1")
    told = str(caught.value)
    assert told.startswith("the loss at step 3 is not finite, on process 0 with the videos ")
    assert told.count(".mp4") == 4
    assert "callbacks.non_finite=skip" in told
    content = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["global_step"] == 3  # the step before
    assert all(value.isfinite().all() for value in content["state_dict"].values())


def test_a_gradient_alone(small, tmp_path: Path, nan_at) -> None:
    nan_at(2, loss_is_finite=True)
    with pytest.raises(UserError, match="the gradient at step 2 is not finite, though every loss"):
        trained(small, tmp_path / "run")


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_step_is_left_out(small, tmp_path: Path, nan_at, name: str) -> None:
    nan_at(3, 4)
    words = ("callbacks.non_finite=skip", f"optim={name}", "callbacks.every_n_train_steps=1")
    with pytest.warns(UserWarning, match=r"step 4 .*: this step is skipped \(2 so far\)"):
        run = trained(small, tmp_path / "run", *words, "trainer.max_epochs=1")
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    (optimizer,) = content["optimizer_states"]
    tensors = [*content["state_dict"].values()]
    tensors += [v for entry in optimizer["state"].values() for v in entry.values()]
    assert all(torch.as_tensor(value).isfinite().all() for value in tensors)
    if name == "adamw":
        assert {int(entry["step"]) for entry in optimizer["state"].values()} == {8 - 2}
    assert content["callbacks"]["NonFinite"] == {"skipped": 2, "consecutive": 0}


def test_a_run_of_nothing_but_bad_steps_stops(small, tmp_path: Path, nan_at) -> None:
    nan_at(*range(1, 99))
    words = ("callbacks.non_finite=skip", "trainer.max_epochs=5", "trainer.limit_val_batches=0")
    with (
        pytest.warns(UserWarning, match="is skipped"),
        pytest.raises(UserError, match=f"{MAX_CONSECUTIVE} steps in a row were skipped"),
    ):
        trained(small, tmp_path / "run", *words)


def test_another_word_is_refused() -> None:
    with pytest.raises(UserError, match="callbacks.non_finite='ignore' is not one of stop, skip"):
        NonFinite("ignore")


def test_clipping_uses_the_norm_that_was_looked_at(
    small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One norm in each step, and the weights of `clip_grad_norm_`, torch's own."""
    stock, norms = torch.nn.utils.get_total_norm, []
    monkeypatch.setattr(
        torch.nn.utils, "get_total_norm", lambda *a, **kw: norms.append(1) or stock(*a, **kw)
    )
    words = ("trainer.gradient_clip_val=0.05", "trainer.max_epochs=1", "optim=sgd")
    ours = trained(small, tmp_path / "ours", *words)
    assert len(norms) == 8

    def clip(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val, foreach=True)

    monkeypatch.setattr(VivitModule, "configure_gradient_clipping", clip)
    theirs = trained(small, tmp_path / "theirs", *words)
    first, second = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in (ours, theirs)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
