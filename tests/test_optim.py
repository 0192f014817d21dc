import json
import re
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from tests.golden_files import GOLDEN
from vivit_train.errors import UserError
from vivit_train.model.vivit import ViViT
from vivit_train.optim import (
    build_optimizer,
    check_restored,
    freeze,
    hyper_parameters,
    layers_of,
    parameter_groups,
    scaled_lr,
    schedule_of_class,
    set_hyper_parameters,
    warmup_cosine,
)

SGD = {
    "name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "warmup_epochs": 1,
    "min_lr_fraction": 0.0, "layer_decay": 1.0,
}  # fmt: skip
ADAMW = {
    "name": "adamw", "lr": 1e-3, "betas": [0.9, 0.99], "eps": 1e-7, "weight_decay": 0.05,
    "warmup_epochs": 1, "layer_decay": 1.0, "min_lr_fraction": 0.0,
}  # fmt: skip


TINY: dict[str, Any] = {
    "num_classes": 3, "image_size": 8, "num_frames": 2, "tubelet_size": (2, 4, 4),
    "hidden_size": 8, "num_layers": 1, "num_heads": 2, "mlp_size": 16,
}  # fmt: skip


def small() -> ViViT:
    return ViViT(**TINY)


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
        ({"layer_decay": 0}, "optim.layer_decay is the factor .* at most 1 .*, got 0"),
        ({"layer_decay": 1.1}, "optim.layer_decay is the factor .* got 1.1"),
        ({"min_lr_fraction": 1.5}, "optim.min_lr_fraction is the share of optim.lr .* got 1.5"),
    ],
)
def test_errors(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_optimizer(small(), SGD | change)


def rates_and_decays(groups: list[dict], model: nn.Module) -> dict[str, tuple[float, float]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in groups
        for p in group["params"]
    }


@pytest.mark.parametrize("layer_decay", [0.65, 1.0])
def test_layer_decay_is_timms(layer_decay: float) -> None:
    """Model 1 has an image ViT's layers."""
    ours = ViViT(**TINY | {"num_layers": 3})
    theirs = timm.models.VisionTransformer(
        img_size=8, patch_size=4, embed_dim=8, depth=3, num_heads=2, mlp_ratio=2, num_classes=3
    )
    groups = param_groups_layer_decay(
        theirs, 0.05, theirs.no_weight_decay(), layer_decay=layer_decay
    )
    for group in groups:
        group["lr"] = ADAMW["lr"] * group["lr_scale"]
    expected = {
        re.sub("^(blocks|norm|cls_token|pos_embed)", r"encoder.\1", name).replace(
            "patch_embed.proj", "embed"
        ): values
        for name, values in rates_and_decays(groups, theirs).items()
    }
    optimizer = build_optimizer(ours, ADAMW | {"layer_decay": layer_decay})
    found = rates_and_decays(optimizer.param_groups, ours)
    assert found.keys() == expected.keys()
    assert all(found[name] == pytest.approx(expected[name]) for name in found)


@pytest.mark.parametrize("optim", [SGD, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize(
    ("arguments", "layers"),
    [
        (
            {"attention": "factorised_encoder", "temporal_layers": 2},
            {
                "embed.bias": 0, "encoder.cls_token": 0, "encoder.pos_embed": 0,
                "encoder.blocks.0.mlp.fc1.weight": 1, "encoder.blocks.1.attn.qkv.bias": 2,
                "encoder.norm.weight": 2, "temporal_encoder.cls_token": 3,
                "temporal_encoder.pos_embed": 3, "temporal_encoder.blocks.0.norm1.bias": 3,
                "temporal_encoder.blocks.1.norm1.bias": 4, "temporal_encoder.norm.bias": 4,
                "head.bias": 5,
            },
        ),
        (
            {"attention": "factorised_encoder", "temporal_layers": 0},
            {"embed.weight": 0, "encoder.blocks.1.norm1.bias": 2, "encoder.norm.bias": 2,
             "head.weight": 3},
        ),
        (
            {"attention": "factorised_self_attention", "pooling": "mean"},
            {"encoder.pos_embed": 0, "encoder.blocks.0.temporal_attn.qkv.weight": 1,
             "encoder.blocks.1.temporal_norm.bias": 2, "head.weight": 3},
        ),
        (
            {"attention": "factorised_dot_product", "pooling": "mean", "representation_size": 4},
            {"encoder.blocks.1.attn.proj.weight": 2, "pre_logits.weight": 3, "head.weight": 3},
        ),
    ],
    ids=["model_2", "model_2_averaging_frames", "model_3", "model_4"],
)  # fmt: skip
def test_layers_of_the_video_models(arguments: dict, layers: dict[str, int], optim: dict) -> None:
    model = ViViT(**TINY | {"num_layers": 2} | arguments)
    found = layers_of(model)
    assert {name: found[name] for name in layers} == layers
    rates = rates_and_decays(
        build_optimizer(model, optim | {"layer_decay": 0.5}).param_groups, model
    )
    top = max(layers.values())
    assert rates.keys() == found.keys()
    assert all(
        rates[name][0] == pytest.approx(optim["lr"] * 0.5 ** (top - layer))
        for name, layer in layers.items()
    )


@pytest.mark.parametrize("optim", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_fused_is_the_textbooks_step(optim: dict) -> None:
    """And as good as any other for loss scaling: a step that overflowed is left out."""
    fused, plain = small(), small()
    plain.load_state_dict(fused.state_dict())
    optimizer = build_optimizer(fused, optim)
    assert all(group["fused"] for group in optimizer.param_groups)
    others = {k: optimizer.defaults[k] for k in ("momentum", "betas", "eps") if k in optim}
    groups = parameter_groups(plain, optim["lr"], optim["weight_decay"], 1.0)
    by_loop = type(optimizer)(groups, lr=optim["lr"], **others, foreach=False, fused=False)
    steps = []
    optimizer.register_step_post_hook(lambda *_: steps.append(None))
    for seed in range(3):
        torch.manual_seed(seed)
        for p, q in zip(fused.parameters(), plain.parameters()):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        optimizer.step()
        by_loop.step()
    torch.testing.assert_close(list(fused.parameters()), list(plain.parameters()))
    assert len(steps) == 3

    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.zeros(()))
    before = [p.detach().clone() for p in fused.parameters()]
    for p in fused.parameters():
        p.grad = torch.full_like(p, torch.inf)
    scaler.step(optimizer)
    torch.testing.assert_close(list(fused.parameters()), before, rtol=0, atol=0)
    assert len(steps) == 3


def names_of(model: nn.Module, *, frozen: bool) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad is not frozen}


def test_a_linear_probe_trains_the_head() -> None:
    model = ViViT(**TINY, representation_size=4)
    parts = freeze(model, "all_but_head")
    assert names_of(model, frozen=False) == {"head.weight", "head.bias"}
    assert {model.embed, model.encoder, model.pre_logits} <= set(parts)
    assert not {model, model.head} & set(parts)
    optimizer = build_optimizer(model, ADAMW | {"layer_decay": 0.5})
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 1]
    assert {group["lr"] for group in optimizer.param_groups} == {ADAMW["lr"]}


@pytest.mark.parametrize(
    ("what", "parameters", "whole"),
    [
        (None, set(), set()),
        ([], set(), set()),
        ("embed.*", {"embed.weight", "embed.bias"}, {"embed"}),
        (["encoder.pos_embed", "embed.bias"], {"encoder.pos_embed", "embed.bias"}, set()),
    ],
)
def test_freezing_by_name(what: Any, parameters: set[str], whole: set[str]) -> None:
    model = small()
    parts = freeze(model, what)
    assert names_of(model, frozen=True) == parameters
    assert set(parts) == {model.get_submodule(name) for name in whole}


def test_freezing_blocks() -> None:
    model = ViViT(**TINY | {"num_layers": 3})
    parts = freeze(model, ["embed.*", "encoder.blocks.[01].*"])
    blocks = model.encoder.blocks
    assert {model.embed, blocks[0], blocks[1]} <= set(parts)
    assert not {blocks[2], model.encoder} & set(parts)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            ["encoder.block.0.*"],
            r"no parameter's name matches 'encoder\.block\.0\.\*'; give all_but",
        ),
        ("all_but_heads", "no parameter's name matches 'all_but_heads'"),
        (["*"], r"optim\.freeze=\['\*'\] leaves nothing to train"),
    ],
)
def test_freezing_what_is_not_there_or_everything(what: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        freeze(small(), what)


def test_the_linear_scaling_rule() -> None:
    assert scaled_lr(0.1, 64, 64) == 0.1
    assert scaled_lr(0.1, 64, 16) == pytest.approx(0.025)
    assert scaled_lr(1e-3, 256, 512) == pytest.approx(2e-3)
    with pytest.raises(UserError, match=r"optim\.lr_batch_size is the number of clips .* got 0"):
        scaled_lr(0.1, 0, 64)


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


TORCHS = "torch.optim.lr_scheduler"


def test_a_schedule_of_torchs() -> None:
    """A value that is the word total_steps is their number."""
    ours, theirs = build_optimizer(small(), SGD), build_optimizer(small(), SGD)
    settings = {"max_lr": 0.4, "total_steps": "total_steps"}
    schedule = schedule_of_class({"_target_": f"{TORCHS}.OneCycleLR"} | settings, ours, 20)
    expected = OneCycleLR(theirs, max_lr=0.4, total_steps=20)
    for _ in range(20):
        for one, other in zip(ours.param_groups, theirs.param_groups):
            assert (one["lr"], one["momentum"]) == (other["lr"], other["momentum"])
        for optimizer, steps in ((ours, schedule), (theirs, expected)):
            optimizer.step()
            steps.step()
    assert type(schedule) is OneCycleLR


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"_target_": f"{TORCHS}.ReduceLROnPlateau"}, "ReduceLROnPlateau follows a score, and a s"),
        ({"_target_": "torch.optim.SGD"}, r"schedule\._target_=torch\.optim\.SGD is not the class"),
        ({"_target_": f"{TORCHS}.OneCycle"}, "is not the class of a schedule: expected a subclass"),
        (
            {"_target_": f"{TORCHS}.OneCycleLR", "max_lr": 1},
            r"OneCycleLR cannot be built with \{max_lr: 1\}: You must define either total_steps OR "
            r".* It is stepped after each optimiser step, not .* epoch; total_steps as a value",
        ),
        ({"_target_": f"{TORCHS}.StepLR"}, r"StepLR cannot be built with \{\}: .*'step_size'"),
        (
            {"_target_": f"{TORCHS}.SequentialLR", "schedulers": [], "milestones": []},
            r"SequentialLR cannot be built with \{schedulers: \[\],milestones: \[\]\}: ",
        ),
        (
            {"_target_": f"{TORCHS}.LambdaLR", "lr_lambda": "x"},
            "cannot be built with {lr_lambda: x",
        ),
        (
            {"_target_": f"{TORCHS}.OneCycleLR", "max_lr": 1, "total_steps": 5},
            "ends before the run, after 5 steps; total_steps as a value stands for .* run, 20",
        ),
    ],
)
def test_what_is_no_schedule_here(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        schedule_of_class(settings, build_optimizer(small(), SGD), 20)


@pytest.mark.parametrize("settings", [SGD, ADAMW])
def test_a_restored_state_is_that_of_the_parameters(settings: dict[str, Any]) -> None:
    model = small()
    optimizer = build_optimizer(model, settings)
    schedule = LambdaLR(optimizer, lambda step: 1.0)
    check_restored(schedule)  # of a run that has made no step
    model(torch.zeros(1, 3, 2, 8, 8)).sum().backward()
    optimizer.step()
    check_restored(schedule)
    state = optimizer.state[model.embed.weight]
    name = "momentum_buffer" if settings is SGD else "exp_avg"
    kept = state[name]
    for value in ("x", [1.0], torch.zeros(3), torch.zeros(()), torch.zeros_like(kept).int()):
        state[name], whole = value, state[name]
        with pytest.raises(UserError, match="state in the checkpoint does not fit this model"):
            check_restored(schedule)
        state[name] = whole
    optimizer.state[7] = optimizer.state[model.embed.weight]  # type: ignore[index]
    with pytest.raises(UserError, match="does not fit this model's parameters"):
        check_restored(schedule)
    del optimizer.state[7]  # type: ignore[arg-type]
    for other in ([], None, 1.5, torch.zeros(3)):
        optimizer.state[model.embed.weight], whole = other, state
        with pytest.raises(UserError, match="does not fit this model's parameters"):
            check_restored(schedule)
        optimizer.state[model.embed.weight] = whole
    for place, key in ((optimizer.param_groups[0], "lr"), (vars(schedule), "last_epoch")):
        place[key], whole = {}, place[key]
        with pytest.raises(UserError, match="does not fit this model's parameters"):
            check_restored(schedule)
        place[key] = whole


def test_an_average_that_is_missing() -> None:
    model = small()
    optimizer = build_optimizer(model, ADAMW)
    model(torch.zeros(1, 3, 2, 8, 8)).sum().backward()
    optimizer.step()
    state = optimizer.state[model.embed.weight]
    for name in ("step", "exp_avg"):
        state[name], whole = None, state[name]
        with pytest.raises(UserError, match="does not fit this model's parameters"):
            check_restored(LambdaLR(optimizer, lambda step: 1.0))
        state[name] = whole
    check_restored(LambdaLR(optimizer, lambda step: 1.0))
    del state["exp_avg_sq"]
    with pytest.raises(UserError, match="does not fit this model's parameters"):
        check_restored(LambdaLR(optimizer, lambda step: 1.0))


OTHER: dict[str, Any] = {
    **ADAMW, "name": "torch", "_target_": "torch.optim.NAdam", "arguments": {"betas": [0.5, 0.9]},
    "layer_decay": 0.5,
}  # fmt: skip


class TestOfAnyClass:
    def test_it_has_the_groups_of_ours(self) -> None:
        model = small()
        other, adamw = (build_optimizer(model, o) for o in (OTHER, ADAMW | {"layer_decay": 0.5}))
        assert type(other) is torch.optim.NAdam
        assert len(other.param_groups) == len(adamw.param_groups) > 2
        for ours, theirs in zip(other.param_groups, adamw.param_groups):
            assert (ours["lr"], ours["weight_decay"]) == (theirs["lr"], theirs["weight_decay"])
            assert list(map(id, ours["params"])) == list(map(id, theirs["params"]))
            assert tuple(ours["betas"]) == (0.5, 0.9)

    def test_what_it_counts_in_its_groups_is_kept(self) -> None:
        optimizer = build_optimizer(small(), OTHER)
        schedule = LambdaLR(optimizer, lambda step: 1.0)
        given = hyper_parameters(optimizer)
        assert given[0].keys() == {"lr", "initial_lr", "weight_decay"}
        optimizer.param_groups[0]["k"] = 7  # as schedule-free optimisers do
        optimizer.state[optimizer.param_groups[0]["params"][0]] = {"rows": torch.ones(1), "k": 7}
        check_restored(schedule)
        set_hyper_parameters(schedule, given)
        assert optimizer.param_groups[0]["k"] == 7

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"_target_": "torch.optim.Nadam"},
                r"torch\.optim\.Nadam is not the class",
            ),
            ({"_target_": "nowhere.Best"}, r"_target_=nowhere\.Best cannot be imported"),
            ({"arguments": {"beta": 1}}, r"optim\.arguments=\{beta: 1\}: .*'beta'"),
            ({"_target_": "torch.optim.Rprop", "arguments": {}}, r"set optim\.weight_decay=0"),
            ({"_target_": "torch.optim.LBFGS", "arguments": {}}, "parameter groups"),
        ],
    )
    def test_mistakes(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            build_optimizer(small(), OTHER | changes)
