"""Averaging the weights over training: what is then validated, tested and shipped."""

from typing import Any, cast

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vivit_train.errors import UserError
from vivit_train.io.layout import CheckpointContent
from vivit_train.launch.sharding import Sharded, gathered, shard_of


class Ema(Callback):
    """Keeps an exponential moving average of the weights and evaluates that instead of them.

    After each optimiser step ``average = d * average + (1 - d) * weights`` in float32, whatever
    the weights' type, with ``d = min(decay, (1 + t) / (10 + t))`` after t averaged steps, so that
    the first weights are soon forgotten.

    A checkpoint's ``state_dict`` holds the averages, so that whatever reads it gets the weights
    that its score belongs to; the weights themselves stand beside, for resuming. Lightning's
    `EMAWeightAveraging` copies the whole module, in the weights' own type, resumes silently from
    the averages where the callback is missing, and saves the wrong weights if validation fails.

    Args:
        decay: In [0, 1), e.g. 0.9999; ``None``: no averages.

    Raises:
        UserError: If ``decay`` is out of range.
    """

    def __init__(self, decay: float | None) -> None:
        if decay is not None and not 0 <= decay < 1:
            raise UserError(
                "callbacks.ema_decay is the share of the average that a step keeps, from 0 to "
                f"below 1, e.g. 0.9999, or null for no average; got {decay}"
            )
        self.decay = decay
        self.num_updates = 0
        self.averages: dict[str, Tensor] = {}
        # The weights as trained, while the module holds the averages.
        self._set_aside: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        """How many steps the averages are of."""
        return {"num_updates": self.num_updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        self.num_updates = int(state_dict["num_updates"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses strategies whose weights it does not know how to reach.

        Raises:
            UserError: If the strategy is one of those.
        """
        known = isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy | Sharded)
        if self.decay is not None and not known:
            raise UserError(
                f"callbacks.ema_decay={self.decay} works with trainer.strategy=auto, ddp or fsdp, "
                f"not with {type(trainer.strategy).__name__}: use one of these, or null"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts from the current weights, or resumes from a checkpoint's averages."""
        if self.decay is None:
            return
        self._put_back(pl_module)
        weights = trained_weights(pl_module)
        self.averages = {
            name: self.averages.get(name, weight)
            .detach()
            .to(weight.device, torch.float32, copy=True)
            for name, weight in weights.items()
        }
        # The optimiser itself reports its steps: one that loss scaling skips does not count.
        optimizer = trainer.optimizers[0]
        self._hook = optimizer.register_step_post_hook(lambda *_: self.update(pl_module))

    def update(self, module: nn.Module) -> None:
        """Averages the weights in, unless the step had no gradients to take."""
        weights = trained_weights(module)
        if all(weight.grad is None for weight in weights.values()):
            return
        assert self.decay is not None
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        new = [weight.detach().float() for weight in weights.values()]
        get_ema_multi_avg_fn(decay)(list(self.averages.values()), new, None)
        self.num_updates += 1

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the module with the averages."""
        if self.averages:
            self._hook.remove()
            self._show_averages(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validates the averages."""
        if trainer.state.fn == "fit":
            self._show_averages(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the weights back for training."""
        if trainer.state.fn == "fit":
            self._put_back(pl_module)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Puts the weights back where validation failed."""
        self._put_back(pl_module)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Puts the averages in the weights' place and the weights beside, whichever are shown."""
        if self.averages:
            weights = self._set_aside or trained_weights(pl_module)
            weights = {name: weight.detach() for name, weight in weights.items()}
            content = cast(CheckpointContent, checkpoint)
            content["training_weights"] = gathered(weights)
            content["state_dict"] = content["state_dict"] | gathered(self.averages)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restores averages and weights, for training on; the model has loaded the averages.

        Raises:
            UserError: If only one of the checkpoint and this run has averages.
        """
        if trainer.state.fn != "fit":
            return
        weights = cast(CheckpointContent, checkpoint).get("training_weights")
        if weights is None and self.decay is not None:
            raise UserError(
                f"callbacks.ema_decay={self.decay}: the checkpoint has no averaged weights. Resume "
                "with callbacks.ema_decay=null, or start a new run from its weights with "
                "model.pretrained"
            )
        if weights is not None and self.decay is None:
            raise UserError(
                "callbacks.ema_decay=null: the run of this checkpoint averages its weights. Keep "
                "the run's own value, or start a new run from the averages with model.pretrained"
            )
        if weights is not None:
            ours, averages = dict(pl_module.named_parameters()), checkpoint["state_dict"]
            self.averages = {name: shard_of(averages[name], ours.get(name)) for name in weights}
            weights = {name: shard_of(weight, ours.get(name)) for name, weight in weights.items()}
            pl_module.load_state_dict(weights, strict=False)

    @torch.no_grad()
    def _show_averages(self, module: nn.Module) -> None:
        weights = trained_weights(module)
        if self.averages and not self._set_aside:
            self._set_aside = {name: weight.detach().clone() for name, weight in weights.items()}
            for name, average in self.averages.items():
                weights[name].copy_(average)

    @torch.no_grad()
    def _put_back(self, module: nn.Module) -> None:
        weights = trained_weights(module)
        for name, weight in self._set_aside.items():
            weights[name].copy_(weight)
        self._set_aside = {}


def trained_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}
