import functools
import shutil
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from tests.model.test_vivit import CLIPS, MODELS, TINY
from vivit_train.data.batch import ClipBatch
from vivit_train.errors import UserError
from vivit_train.module import VivitModule, check_deterministic

OPTIM = {
    "name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "warmup_epochs": 0,
    "min_lr_fraction": 0.0, "label_smoothing": 0.1, "layer_decay": 1.0, "lr_batch_size": None,
    "schedule": {},
}  # fmt: skip


class Stub(VivitModule):
    """The module with fixed logits, outside a trainer."""

    def __init__(self, logits: torch.Tensor) -> None:
        model = {
            "num_classes": 3, "image_size": 8, "num_frames": 2, "tubelet_size": [2, 8, 8],
            "hidden_size": 8, "num_layers": 1, "num_heads": 2, "mlp_size": 8,
        }  # fmt: skip
        super().__init__(model, ["a", "b", "c"], {}, {}, OPTIM, {}, {})
        self.logged: dict[str, Any] = {}
        self.model.forward = lambda clips: logits
        group = type("Optimizer", (), {"param_groups": [{"lr": 0.1}]})
        self._trainer = SimpleNamespace(optimizers=[group], global_step=0, log_every_n_steps=0)

    def log(self, name: str, value: Any, **_: Any) -> None:  # type: ignore[override]
        self.logged[name] = value


LOGITS = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 0.5], [0.0, 0.1, 0.2]])


@pytest.mark.parametrize(
    ("shares", "top1"),
    [
        (None, 0.75),
        (torch.eye(3)[[0, 1, 1, 2]], 0.75),
        # The larger share counts: the first two right, the others wrong.
        (torch.tensor([[0.6, 0.0, 0.4], [0.3, 0.7, 0], [0.4, 0.6, 0], [0.9, 0, 0.1]]), 0.5),
    ],
)
def test_a_training_step_with_and_without_mixing(shares: torch.Tensor | None, top1: float) -> None:
    module = Stub(LOGITS)
    indices, labels = torch.arange(4), torch.tensor([0, 1, 1, 2])
    batch = ClipBatch(
        clips=torch.zeros(4, 3, 2, 8, 8), labels=labels, shares=shares,
        indices=indices, decoded=indices >= 0, seeds=[0] * 4,
    )  # fmt: skip
    loss = module.training_step(batch, 0)
    smoothed = (F.one_hot(labels, 3) if shares is None else shares) * 0.9 + 0.1 / 3
    torch.testing.assert_close(loss, -(smoothed * LOGITS.log_softmax(dim=1)).sum(dim=1).mean())
    assert float(module.logged["train/top1"]) == top1
    assert float(module.logged["train/loss"]) == float(loss)
    assert module.logged["train/lr"] == 0.1


@pytest.mark.parametrize("mixed", [False, True])
def test_a_training_step_of_clips_with_any_number_of_classes(mixed: bool) -> None:
    module = Stub(LOGITS)
    module.multi_label = True
    labels = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 1, 1]])
    shares = torch.tensor([[0.7, 1, 0], [0, 0.6, 0.4], [0, 0, 0], [0.4, 1, 0.5]]) if mixed else None
    batch = ClipBatch(
        clips=torch.zeros(4, 3, 2, 8, 8), labels=labels, shares=shares,
        indices=torch.arange(4), decoded=torch.ones(4) > 0, seeds=[0] * 4,
    )  # fmt: skip
    loss = module.training_step(batch, 0)
    smoothed = (labels if shares is None else shares) * 0.9 + 0.05
    theirs = F.binary_cross_entropy_with_logits(LOGITS, smoothed)
    torch.testing.assert_close(loss, theirs)
    assert "train/top1" not in module.logged
    # All logits are at least 0: each class is taken for shown, 12 in all, and 5 of them are.
    assert float(module.logged["train/micro_f1"]) == pytest.approx(2 * 5 / (12 + 5))


def module_of(arguments: dict[str, Any], **optim: Any) -> VivitModule:
    names = [str(i) for i in range(TINY["num_classes"])]
    return VivitModule(TINY | arguments, names, {}, {}, OPTIM | optim, {}, {})


def test_what_is_frozen_stays_in_evaluation_mode() -> None:
    module = module_of({"dropout": 0.1, "drop_path": 0.1})
    module.freeze_parts(["embed.*", "encoder.blocks.0.*"])
    first, second = module.model.encoder.blocks
    for mode in (True, False, True):
        module.train(mode)
        assert not any(part.training for part in first.modules())
        assert all(part.training is mode for part in second.modules())
        assert module.model.encoder.pos_dropout.training is mode


@pytest.mark.parametrize(
    ("lr_batch_size", "accumulated", "rate"), [(None, 4, 0.1), (64, 4, 0.05), (16, 1, 0.05)]
)
def test_the_learning_rate_for_this_runs_batch(
    lr_batch_size: int | None, accumulated: int, rate: float, capsys: pytest.CaptureFixture[str]
) -> None:
    module = module_of({}, lr_batch_size=lr_batch_size)
    module._trainer = SimpleNamespace(
        accumulate_grad_batches=accumulated, world_size=2, is_global_zero=True,
        datamodule=SimpleNamespace(batch_size=4),
    )  # fmt: skip
    assert module.learning_rate() == pytest.approx(rate)
    said = capsys.readouterr().out
    assert said.count("learning rate") == (lr_batch_size is not None)
    if lr_batch_size == 64:
        assert said == (
            "learning rate 0.05: optim.lr=0.1 is for 64 clips per step (optim.lr_batch_size), this "
            "run has 32 (batch 4 x 4 accumulated x 2 processes)\n"
        )


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"max_epochs": 3, "max_steps": -1}, (15, 12.5)),
        ({"max_epochs": -1, "max_steps": 13}, (13, 12.5)),
        ({"max_epochs": 3, "max_steps": 12}, "ends after 2.4 epochs (12 steps of 5 per epoch)"),
        ({"max_epochs": 2, "max_steps": -1}, "ends after 2 epochs (10 steps of 5 per epoch)"),
    ],
)
def test_a_warm_up_is_as_long_as_asked_for(limits: dict[str, int], expected: Any) -> None:
    module = module_of({}, warmup_epochs=2.5)
    module._trainer = SimpleNamespace(
        limit_train_batches=1.0, accumulate_grad_batches=2, val_check_interval=1.0,
        check_val_every_n_epoch=1, **limits,
        datamodule=SimpleNamespace(train_dataloader=lambda: range(10)),
    )  # fmt: skip
    if isinstance(expected, tuple):
        assert module.schedule_steps() == expected
    else:
        with pytest.raises(UserError) as caught:
            module.schedule_steps()
        assert f"optim.warmup_epochs=2.5: the run {expected}" in str(caught.value)


def passes(module: VivitModule, clips: Tensor) -> None:
    """A training step, then an evaluation of seven clips in batches of up to three."""
    module.train()
    module.model(clips).square().sum().backward()
    module.eval()
    module._chunk_size = 0
    with torch.no_grad():
        for chunk in torch.randn(7, *CLIPS[1:]).split(3):
            assert len(module._logits(chunk)) == len(chunk)


@pytest.mark.parametrize("arguments", MODELS.values(), ids=MODELS)
def test_last_batches_do_not_compile_again(
    arguments: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dynamo's counters, with torch's eager backend: what is compiled, not by what."""
    torch._dynamo.reset()
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter))
    drops = {"num_layers": 4, "drop_path": 0.3, "drop_path_style": "timm"}
    module = module_of(arguments | drops)
    names = list(module.state_dict())
    module.compile_blocks()
    assert list(module.state_dict()) == names
    clips = torch.randn(3, *CLIPS[1:])
    passes(module, clips)
    compiled = counter.frame_count
    # A block that never drops a branch, one that may, and evaluation; in each encoder.
    assert 0 < compiled <= 3 * len(module.model.encoders)
    for _ in range(2):
        passes(module, clips)
    assert counter.frame_count == compiled
    assert not torch._dynamo.utils.counters["graph_break"]


def test_padding_for_a_compiled_model_is_not_seen() -> None:
    module = module_of({}).eval()
    nn.init.normal_(module.model.head.weight)
    clips = torch.randn(3, *CLIPS[1:])
    expected = module._logits(clips)
    module.is_compiled = True
    with torch.no_grad():
        found = torch.cat([module._logits(chunk) for chunk in clips.split(2)])
    assert module._chunk_size == 2
    torch.testing.assert_close(found, expected)


def test_interpolated_positions_are_refused_where_bits_must_repeat() -> None:
    """Their gradient raises an error of torch's on a GPU."""
    model = module_of({}).model
    native = torch.empty(1, 3, *(n * p for n, p in zip(model.grid, model.embed.tubelet_size)))
    t, h, w = native.shape[2:]
    larger = torch.empty(1, 3, 2 * t, h, w)
    check_deterministic(model, larger)
    torch.use_deterministic_algorithms(True)
    try:
        check_deterministic(model, native)
        with pytest.raises(UserError, match=r"deterministic=true: .*model\.num_frames"):
            check_deterministic(model, larger)
        model.encoder.pos_embed.requires_grad_(False)
        check_deterministic(model, larger)
        model.encoder.pos_embed.requires_grad_(True)
        torch.use_deterministic_algorithms(True, warn_only=True)
        check_deterministic(model, larger)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
def test_compiled_blocks_compute_the_same() -> None:
    torch._dynamo.reset()
    module, plain = module_of({"num_layers": 2}), module_of({"num_layers": 2})
    for part in (module, plain):
        torch.manual_seed(0)
        part.model.reset_parameters(0.5)
        nn.init.normal_(part.model.head.weight)
    module.compile_blocks()
    clips = torch.randn(CLIPS)
    for part in (module, plain):
        part.model(clips).square().sum().backward()
    for ours, theirs in zip(module.parameters(), plain.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)
