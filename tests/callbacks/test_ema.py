"""Averaged weights: what they are, where they are seen, and that they survive everything."""

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from vivit_train.callbacks.ema import Ema
from vivit_train.errors import UserError


class Line(lightning.LightningModule):
    """A linear model that takes down its weights at each step and each validation."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
        self.fails = fails
        self.trained: list[Tensor] = []
        self.validated: list[Tensor] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.layers(batch[0].to(self.layers[0].weight.dtype)).square().mean()

    def on_train_batch_end(self, *_: Any) -> None:
        self.trained.append(self.layers[0].weight.detach().clone())

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.validated.append(self.layers[0].weight.detach().clone())
        if self.fails:
            raise RuntimeError("in validation")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        weights = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.SGD(weights, lr=0.3, momentum=0.9)


def loader() -> DataLoader:
    torch.manual_seed(1)
    return DataLoader(TensorDataset(torch.randn(8, 3)), batch_size=2)


class Skip(lightning.Callback):
    """Leaves out the step of one batch, as one with non-finite gradients."""

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if trainer.global_step == 2:
            optimizer.zero_grad(set_to_none=True)


def fit(
    module: Line, ema: Ema, *callbacks: lightning.Callback, epochs: int = 2, **arguments: Any
) -> lightning.Trainer:
    ckpt_path = arguments.pop("ckpt_path", None)
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, max_epochs=epochs,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[ema, *callbacks],
        num_sanity_val_steps=1, **arguments,
    )  # fmt: skip
    trainer.fit(module, loader(), loader(), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def by_hand(weights: list[Tensor], start: Tensor, decay: float) -> list[Tensor]:
    """The averages after each step, in float64."""
    average, averages = start.double(), []
    for t, weight in enumerate(weights):
        d = min(decay, (1 + t) / (10 + t))
        average = d * average + (1 - d) * weight.double()
        averages.append(average)
    return averages


pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


@pytest.mark.parametrize("decay", [0.0, 0.15, 0.999])
def test_validation_sees_the_averages_and_training_does_not(decay: float) -> None:
    module, plain = Line(), Line()
    start = module.layers[0].weight.detach().clone()
    fit(module, Ema(decay))
    fit(plain, Ema(None))
    torch.testing.assert_close(module.trained, plain.trained, rtol=0, atol=0)
    averages = by_hand(plain.trained, start, decay)
    sanity, *validated = module.validated[::4]
    assert torch.equal(sanity, start)
    expected = [averages[3].float(), averages[7].float()]
    torch.testing.assert_close(validated, expected, rtol=1e-6, atol=1e-7)
    # And after the end it is the averages that stay.
    assert torch.equal(module.layers[0].weight, validated[-1])


def test_gradient_accumulation_averages_once_per_step() -> None:
    module = Line()
    start = module.layers[0].weight.detach().clone()
    fit(module, Ema(0.15), accumulate_grad_batches=2)
    averages = by_hand(module.trained[1::2], start, 0.15)
    torch.testing.assert_close(module.validated[-1], averages[-1].float())


def test_a_skipped_step_is_not_averaged() -> None:
    module, ema = Line(), Ema(0.15)
    start = module.layers[0].weight.detach().clone()
    fit(module, ema, Skip())
    assert torch.equal(module.trained[1], module.trained[2])
    assert ema.num_updates == 7
    averages = by_hand(module.trained[:2] + module.trained[3:], start, 0.15)
    torch.testing.assert_close(module.validated[-1], averages[-1].float())


def test_frozen_weights_are_left_alone(tmp_path: Path) -> None:
    module, ema = Line(), Ema(0.15)
    module.layers[0].requires_grad_(False)
    trainer = fit(module, ema)
    assert sorted(ema.averages) == ["layers.1.bias", "layers.1.weight"]
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    assert len(torch.load(tmp_path / "x.ckpt", weights_only=True)["state_dict"]) == 4


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_a_resumed_run_has_the_same_averages(precision: Any, tmp_path: Path) -> None:
    whole, ema = Line(), Ema(0.15)
    trainer = fit(whole, ema, epochs=3, precision=precision)
    trainer.save_checkpoint(tmp_path / "whole.ckpt")
    assert {average.dtype for average in ema.averages.values()} == {torch.float32}

    fit(Line(), Ema(0.15), epochs=1, precision=precision).save_checkpoint(tmp_path / "part.ckpt")
    resumed = Line()
    again = fit(resumed, Ema(0.15), epochs=3, precision=precision, ckpt_path=tmp_path / "part.ckpt")
    again.save_checkpoint(tmp_path / "resumed.ckpt")
    torch.testing.assert_close(resumed.trained, whole.trained[4:], rtol=0, atol=0)
    torch.testing.assert_close(resumed.validated[-8:], whole.validated[-8:], rtol=0, atol=0)
    ours, theirs = (
        torch.load(tmp_path / f"{name}.ckpt", weights_only=True) for name in ("whole", "resumed")
    )
    for part in ("state_dict", "training_weights"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0)
    assert torch.equal(ours["training_weights"]["layers.0.weight"], whole.trained[-1])
    assert torch.equal(ours["state_dict"]["layers.0.weight"], ema.averages["layers.0.weight"])
    assert not torch.equal(ours["state_dict"]["layers.0.weight"], whole.trained[-1].float())


def test_a_failing_validation_loses_nothing(tmp_path: Path) -> None:
    """What is saved is right while the averages are shown, and the weights come back."""

    class Save(lightning.Callback):
        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            trainer.save_checkpoint(tmp_path / "fallen.ckpt")

    module, ema = Line(fails=True), Ema(0.5)
    with pytest.raises(RuntimeError, match="in validation"):
        fit_without_sanity_check(module, ema, tmp_path / "shown.ckpt", Save())
    assert torch.equal(module.layers[0].weight, module.trained[-1])
    for name in ("shown", "fallen"):
        saved = torch.load(tmp_path / f"{name}.ckpt", weights_only=True)
        assert torch.equal(saved["training_weights"]["layers.0.weight"], module.trained[-1])
        assert torch.equal(saved["state_dict"]["layers.0.weight"], module.validated[0])


def fit_without_sanity_check(
    module: Line, ema: Ema, shown: Path, callback: lightning.Callback
) -> None:
    class SaveShown(lightning.Callback):
        def on_validation_batch_start(self, trainer: Any, *_: Any) -> None:
            trainer.save_checkpoint(shown)

    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, max_epochs=1,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        callbacks=[SaveShown(), callback, ema],
    )  # fmt: skip
    trainer.fit(module, loader(), loader())


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (None, 0.9, r"callbacks\.ema_decay=0\.9: .*no averaged weights. .*ema_decay=null"),
        (0.9, None, r"callbacks\.ema_decay=null: .*averages its weights. Keep the run's own value"),
    ],
)
def test_resuming_with_or_without(
    before: float | None, after: float | None, message: str, tmp_path: Path
) -> None:
    fit(Line(), Ema(before), epochs=1).save_checkpoint(tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=message):
        fit(Line(), Ema(after), ckpt_path=tmp_path / "x.ckpt")


def test_testing_a_checkpoint_takes_the_averages(tmp_path: Path) -> None:
    class Tested(Line):
        def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
            self.validated.append(self.layers[0].weight.detach().clone())

    module = Tested()
    trainer = fit(module, Ema(0.15), epochs=1)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    for decay in (None, 0.15):  # a run's own trainer, and one for evaluation only
        fresh = Tested()
        trainer = lightning.Trainer(
            accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, callbacks=[Ema(decay)],
        )  # fmt: skip
        trainer.test(
            fresh, loader(), ckpt_path=tmp_path / "x.ckpt", weights_only=True, verbose=False
        )
        assert torch.equal(fresh.validated[-1], module.validated[-1])


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5])
def test_decay_out_of_range(decay: float) -> None:
    with pytest.raises(UserError, match=rf"callbacks.ema_decay is .* got {decay}"):
        Ema(decay)


def test_a_strategy_that_shares_the_weights_out() -> None:
    strategy = lightning.pytorch.strategies.ModelParallelStrategy()
    trainer = type("Trainer", (), {"strategy": strategy})()
    Ema(None).setup(trainer, Line(), "fit")
    with pytest.raises(UserError, match=r"auto, ddp or fsdp, not with ModelParallelStr"):
        Ema(0.9).setup(trainer, Line(), "fit")
