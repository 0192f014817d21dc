"""Ends a run whose validation no longer gets better."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch import callbacks
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from vivit_train.errors import UserError
from vivit_train.io.terminal import say


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's early stopping, with the patience in optimiser steps.

    Lightning counts validations, of which a small data set has many in few steps and a large one
    few in many. ``wait_count`` is the number of optimiser steps since the best score here. A run
    that is resumed after it has stopped trains no further, unless it is given more patience.

    Args:
        monitor: The validation score, e.g. ``val/top1``; higher is better, but of ``val/loss``
            lower. Only a better score counts, not an equal one.
        patience_steps: The run ends at the first validation that comes this many optimiser steps
            or more after that of the best score, and is not better.
    """

    def __init__(self, monitor: str, patience_steps: int) -> None:
        mode = "min" if monitor == "val/loss" else "max"
        super().__init__(
            monitor,
            mode=mode,
            patience=patience_steps,
            check_finite=False,  # NaN is no better score; `NonFinite` is for training
            check_on_train_epoch_end=False,
        )
        self.best_step = 0

    def state_dict(self) -> dict[str, Any]:
        """Lightning's state and the step of the best score."""
        return super().state_dict() | {"best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` gave, but for the patience, which is this call's."""
        patience = self.patience
        super().load_state_dict(state_dict)
        self.patience = patience
        self.best_step = int(state_dict["best_step"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Trains no further where the checkpoint is of a run that has stopped.

        Raises:
            UserError: If there are no validations to go by.
        """
        if trainer.limit_val_batches == 0:
            raise UserError(
                f"callbacks.patience_steps={self.patience} needs validations, and "
                "trainer.limit_val_batches=0 turns them off: leave out one of the two"
            )
        if self.wait_count >= self.patience:
            trainer.should_stop = True
            rank_zero_warn(
                f"the run has stopped early already: {self._reason()}. To continue training, raise "
                "callbacks.patience_steps or set it to null"
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the run if its score has not been better for long enough."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        # Lightning adds 1, or where the score is better sets it to 0.
        self.wait_count = trainer.global_step - self.best_step - 1
        super().on_validation_end(trainer, pl_module)
        if self.wait_count == 0:
            self.best_step = trainer.global_step
        elif self.wait_count >= self.patience and trainer.is_global_zero:
            say(f"stopping early: {self._reason()}")

    def _reason(self) -> str:
        return (
            f"{self.monitor} has not been better for {self.wait_count} steps "
            f"(callbacks.patience_steps={self.patience}) than {self.best_score:.4f} at step "
            f"{self.best_step}"
        )
