import json

import numpy as np
import pytest
import torch
from torch import nn

from tests.golden_files import GOLDEN
from vivit_train.errors import UserError
from vivit_train.model.vivit import ViViT
from vivit_train.optim import build_optimizer, warmup_cosine

SGD = {
    "name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "warmup_epochs": 1,
    "min_lr_fraction": 0.0,
}  # fmt: skip
ADAMW = {
    "name": "adamw", "lr": 1e-3, "betas": [0.9, 0.99], "eps": 1e-7, "weight_decay": 0.05,
    "warmup_epochs": 1, "min_lr_fraction": 0.0,
}  # fmt: skip


def small() -> ViViT:
    return ViViT(
        num_classes=3, image_size=8, num_frames=2, tubelet_size=(2, 4, 4), hidden_size=8,
        num_layers=1, num_heads=2, mlp_size=16,
    )  # fmt: skip


def test_decay_spares_what_is_no_matrix() -> None:
    model = small()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, spared = build_optimizer(model, ADAMW).param_groups
    assert decayed["weight_decay"] == 0.05
    assert spared["weight_decay"] == 0
    assert {names[id(p)] for p in decayed["params"]} == {
        "embed.weight", "encoder.blocks.0.attn.qkv.weight", "encoder.blocks.0.attn.proj.weight",
        "encoder.blocks.0.mlp.fc1.weight", "encoder.blocks.0.mlp.fc2.weight", "head.weight",
    }  # fmt: skip
    assert len(decayed["params"]) + len(spared["params"]) == len(names)


def test_sgd_is_the_papers() -> None:
    (group, _) = build_optimizer(small(), SGD).param_groups
    assert (group["momentum"], group["nesterov"], group["dampening"]) == (0.9, False, 0)


def test_adamw() -> None:
    (group, _) = build_optimizer(small(), ADAMW).param_groups
    assert (group["lr"], group["betas"], group["eps"]) == (1e-3, (0.9, 0.99), 1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "adam"}, "optim.name='adam' is not one of sgd, adamw"),
        ({"lr": -1}, "optim.lr must be 0 or more, got -1"),
        ({"warmup_epochs": -1}, "optim.warmup_epochs must be 0 or more"),
        ({"min_lr_fraction": 1e-6 - 1}, "optim.min_lr_fraction .* between 0 and 1, got -0.99"),
        ({"min_lr_fraction": 1.5}, "optim.min_lr_fraction is the share of optim.lr .* got 1.5"),
    ],
)
def test_errors(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_optimizer(nn.Linear(2, 2), SGD | change)


def test_schedule_shape() -> None:
    factors = [warmup_cosine(step, 100, 10) for step in range(101)]
    assert factors[0] == 0
    assert factors[5] == pytest.approx(0.5)
    assert max(factors) == factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == 0
    assert warmup_cosine(0, 10, 0) == 1
    assert warmup_cosine(100, 100, 10, 0.2) == pytest.approx(0.2)


def test_the_originals_schedules() -> None:
    """Every recorded schedule, one with a floor among them, at all steps before the end."""
    schedules = json.loads((GOLDEN / "lr_schedules.json").read_text())
    arrays = np.load(GOLDEN / "lr_schedules.npz")
    assert len(schedules) == 10
    for case, schedule in schedules.items():
        total, warmup = schedule["steps_per_cycle"], schedule["warmup_steps"]
        steps = arrays[f"{case}/steps"]
        before_end = steps < total
        floor = schedule.get("alpha", 0.0)
        rates = [
            schedule["base_learning_rate"] * warmup_cosine(int(step), total, warmup, floor)
            for step in steps[before_end]
        ]
        np.testing.assert_allclose(rates, arrays[f"{case}/lr"][before_end], atol=2e-7)


def test_schedule_drives_torch() -> None:
    optimizer = build_optimizer(small(), SGD)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: warmup_cosine(s, 20, 4))
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    np.testing.assert_allclose(rates, [0.1 * warmup_cosine(s, 20, 4) for s in range(20)])
