"""The steps that are compared do the same work."""

import pytest
import steps
import torch

from vivit_train.model.vivit import ViViT

TINY = steps.SIZES["tiny"]


def test_models_alike() -> None:
    kinds = [(origin, attention) for origin in steps.ORIGINS for attention in ("eager", "sdpa")]
    models, difference = steps.build_alike(TINY, kinds, "cpu")
    assert list(models) == kinds
    assert 0 < difference < 1e-5
    assert models["huggingface", "eager"].config._attn_implementation == "eager"
    assert models["vivit_train", "eager"].config["attention_implementation"] == "eager"


@pytest.mark.parametrize("origin", steps.ORIGINS)
def test_training_step(origin: str) -> None:
    models, _ = steps.build_alike(TINY, [(origin, "sdpa")], "cpu")
    model = models[origin, "sdpa"]
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    clips = steps.random_clips(origin, TINY, 2, "cpu")
    step = steps.make_step(model, clips, "training", "bf16")
    step()
    assert model.training
    # SGD would leave weights without a gradient as they are, so would a step that does nothing.
    changed = [n for n, weight in model.state_dict().items() if not weight.equal(before[n])]
    assert set(changed) >= {name for name, _ in model.named_parameters() if "key" not in name}
    assert all(parameter.grad is None for parameter in model.parameters())


def test_optimizers_are_fused() -> None:
    pytest.importorskip("transformers")
    for model in (ViViT(**TINY), steps.build_huggingface(TINY, "sdpa")):
        optimizer = steps.make_optimizer(model)
        assert type(optimizer) is torch.optim.AdamW
        assert all(group["fused"] for group in optimizer.param_groups)


def test_the_trainers_default_optimizer() -> None:
    training_args = pytest.importorskip("transformers.training_args")
    assert training_args.TrainingArguments.default_optim == "adamw_torch_fused"


def test_compiled_forms() -> None:
    """Nothing is compiled before the first call."""
    ours = steps.compiled(ViViT(**TINY))
    assert isinstance(ours, ViViT)
    *others, last = ours.encoder.blocks
    assert all(block._compiled_call_impl is not None for block in others)
    assert last._compiled_call_impl is None
    theirs = steps.compiled(steps.build_huggingface(TINY, "sdpa"))
    assert type(theirs).__name__ == "OptimizedModule"


def test_flops_of_b() -> None:
    size = steps.size_of("b", None)
    theirs, ours = (steps.flops(size, "inference", 1, o) for o in ("huggingface", "vivit_train"))
    assert theirs / 2e9 == pytest.approx(451.5, abs=0.05)
    tokens, width = 3137, 768  # in the last block the class token alone is asked for
    saved = (tokens - 1) * (9 * width**2 + 2 * tokens * width)
    assert (theirs - ours) / 2 == saved
    assert steps.flops(size, "training", 2) == 6 * steps.flops(size, "inference", 1)
    assert steps.describe(steps.size_of("b", 1)) == "32x224x224, 1 layer of 768"


def test_backend() -> None:
    assert steps.sdpa_backend(TINY, "fp32", "cpu") in ("math", "flash_attention")
