from typing import Any

import pytest
import torch
import torch.nn.functional as F

from vivit_train.data.dataset import Batch
from vivit_train.module import VivitModule

OPTIM = {
    "name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "warmup_epochs": 0,
    "min_lr_fraction": 0.0, "label_smoothing": 0.1,
}  # fmt: skip


class Stub(VivitModule):
    """The module with fixed logits, outside a trainer."""

    def __init__(self, logits: torch.Tensor) -> None:
        model = {
            "num_classes": 3, "image_size": 8, "num_frames": 2, "tubelet_size": [2, 8, 8],
            "hidden_size": 8, "num_layers": 1, "num_heads": 2, "mlp_size": 8,
        }  # fmt: skip
        super().__init__(model, ["a", "b", "c"], {}, {}, OPTIM, {})
        self.logged: dict[str, Any] = {}
        self.model.forward = lambda clips: logits
        group = type("Optimizer", (), {"param_groups": [{"lr": 0.1}]})
        self._trainer = type("Trainer", (), {"optimizers": [group]})

    def log(self, name: str, value: Any, **_: Any) -> None:  # type: ignore[override]
        self.logged[name] = value


LOGITS = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 0.5], [0.0, 0.1, 0.2]])


@pytest.mark.parametrize(
    ("labels", "top1"),
    [
        (torch.tensor([0, 1, 1, 2]), 0.75),
        (torch.eye(3)[[0, 1, 1, 2]], 0.75),
        # The larger share counts: the first two right, the others wrong.
        (torch.tensor([[0.6, 0.0, 0.4], [0.3, 0.7, 0], [0.4, 0.6, 0], [0.9, 0, 0.1]]), 0.5),
    ],
)
def test_a_training_step_with_hard_and_with_soft_labels(labels: torch.Tensor, top1: float) -> None:
    module = Stub(LOGITS)
    indices = torch.arange(4)
    batch = Batch([], labels, indices, indices >= 0, [0] * 4, [], torch.zeros(4, 3, 2, 8, 8))
    loss = module.training_step(batch, 0)
    shares = labels if labels.ndim == 2 else F.one_hot(labels, 3)
    smoothed = shares * 0.9 + 0.1 / 3
    torch.testing.assert_close(loss, -(smoothed * LOGITS.log_softmax(dim=1)).sum(dim=1).mean())
    assert float(module.logged["train/top1"]) == top1
    assert float(module.logged["train/loss"]) == float(loss)
    assert module.logged["train/lr"] == 0.1
