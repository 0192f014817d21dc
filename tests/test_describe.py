import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vivit_train.describe import (
    PAPER,
    PaperRow,
    Part,
    build,
    count_macs,
    describe,
    paper_row,
    size,
    training_memory,
)
from vivit_train.errors import UserError
from vivit_train.model.vivit import ATTENTIONS, ViViT

SMALL: dict[str, Any] = {
    "num_classes": 5,
    "image_size": 32,
    "num_frames": 4,
    "tubelet_size": [2, 16, 16],
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 2,
    "mlp_size": 64,
}
CLIP = (4, 32, 32)


def small(attention: str = "spatio_temporal", **others: Any) -> dict[str, Any]:
    has_class_token = attention in ("spatio_temporal", "factorised_encoder")
    return {**SMALL, "attention": attention, "pooling": "cls" if has_class_token else "mean"} | (
        others
    )


def native(row: PaperRow) -> tuple[int, int, int]:
    return row.num_frames, row.image_size, row.image_size


def label(row: PaperRow) -> str:
    return f"{row.attention}-{row.hidden_size}-{native(row)}-{row.temporal_layers}"


@pytest.mark.parametrize("row", PAPER, ids=label)
def test_paper(row: PaperRow) -> None:
    model, clip = build({**row.arguments(), "num_classes": 400}), native(row)
    assert count_macs(model, clip)[""] == pytest.approx(row.macs, rel=0.01)
    if row.parameters is not None:
        assert size(model) == pytest.approx(row.parameters, rel=0.01)
    assert paper_row(model, clip) is row


def test_something_something_at_256_pixels() -> None:
    """Not in the paper: counted once from the formula."""
    row = next(row for row in PAPER if row.source == "paper, section 4.2")
    model = build({**row.arguments(), "image_size": 256, "num_classes": 174})
    clip = (32, 256, 256)
    assert count_macs(model, clip)[""] == pytest.approx(1301e9, rel=0.001)
    assert paper_row(model, clip) is None


@pytest.mark.parametrize(
    "other",
    [
        {"temporal_layers": 5},
        {"mlp_size": 2048},
        {"pooling": "mean"},
        {"num_layers": 11},
        {"representation_size": 64},
    ],
)
def test_no_figure_for_another_model(other: dict[str, Any]) -> None:
    row = PAPER[1]
    model = build({**row.arguments(), "num_classes": 400, **other})
    assert paper_row(model, native(row)) is None


def test_no_figure_for_another_clip() -> None:
    model = build({**PAPER[0].arguments(), "num_classes": 400})
    assert paper_row(model, (16, 224, 224)) is None


def add_up(part: Part) -> None:
    if part.parts:
        assert sum(p.parameters for p in part.parts) == part.parameters
        assert sum(p.macs for p in part.parts) == part.macs
    for inner in part.parts:
        add_up(inner)


@pytest.mark.parametrize("representation_size", [None, 24])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_parts_add_up(attention: str, representation_size: int | None) -> None:
    arguments = small(attention, representation_size=representation_size)
    description = describe(arguments, CLIP)
    real = ViViT(**arguments)
    assert description.parameters == sum(p.numel() for p in real.parameters())
    assert description.model == real.config
    for part in description.parts:
        add_up(part)
    with FlopCounterMode(display=False) as counter:
        ViViT(**arguments, attention_implementation="eager")(torch.zeros(1, 3, *CLIP))
    assert description.macs == counter.get_total_flops() // 2
    assert description.macs_per_video == 12 * description.macs


def test_macs_by_hand() -> None:
    (embedding, encoder, head) = describe(small(), CLIP).parts
    assert embedding.macs == 8 * (3 * 2 * 16 * 16) * 32
    attention, mlp = encoder.parts[1].parts
    assert attention.macs == 2 * (4 * 9 * 32 * 32 + 2 * 9 * 9 * 32)  # 8 tokens and the class token
    assert mlp.macs == 2 * (2 * 9 * 32 * 64)
    assert head.macs == 32 * 5


def names(part: Part) -> list[str]:
    return [part.name, *(name for inner in part.parts for name in names(inner))]


def test_shapes() -> None:
    parts = describe(small("factorised_encoder"), (4, 32, 48)).parts
    shapes = [(p.name, str(p.inputs), str(p.outputs)) for p in parts]
    assert shapes == [
        ("tubelet embedding", "[4,32,48] 3", "[2,2,3] 32"),
        ("spatial encoder", "[2,2,3] 32", "[2,2,3]+2 32"),
        ("temporal encoder", "[2,1,1] 32", "[2,1,1]+1 32"),
        ("head", "[1,1,1] 32", "[1,1,1] 5"),
    ]
    assert [p.parts[1].repeats for p in parts[1:3]] == [2, 4]


@pytest.mark.parametrize(("order", "first"), [("time_space", "time"), ("space_time", "space")])
def test_model_3_in_its_order(order: str, first: str) -> None:
    encoder = describe(small("factorised_self_attention", attention_order=order), CLIP).parts[1]
    assert names(encoder)[3] == f"{first} attention"
    assert names(encoder)[1] == "positions"  # no class token


def test_another_size_than_the_native_one() -> None:
    """The positions are the native size's, the compute is the clip's."""
    description = describe(small(), (8, 64, 64))
    assert description.tokens == 4 * 4 * 4
    assert description.parameters == describe(small(), CLIP).parameters


def test_sampled_frames() -> None:
    arguments = small(tubelet_size=[1, 16, 16], sampled_frames=3)
    description = describe(arguments, (4, 32, 32))
    assert description.tokens == 3 * 2 * 2
    assert description.clip == (4, 32, 32)
    assert description.model == ViViT(**arguments).config
    assert description.parameters == sum(p.numel() for p in ViViT(**arguments).parameters())


def memory(arguments: dict[str, Any], precision: str = "32-true", **others: Any) -> Any:
    settings = {"batch_size": 2, "optimizer": "sgd"} | others
    return training_memory(build(arguments), CLIP, precision=precision, **settings)


def test_memory_of_weights() -> None:
    weights = 4 * describe(small(), CLIP).parameters
    sgd, adamw = memory(small()), memory(small(), optimizer="adamw")
    assert (sgd.parameters, sgd.gradients, sgd.optimizer_state) == (weights,) * 3
    assert adamw.optimizer_state == 2 * weights
    assert adamw.total == 4 * weights + adamw.activations
    assert memory(small(), "bf16-true").parameters == weights // 2
    assert memory(small(), "bf16-mixed").parameters == weights


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_activations_are_those_of_a_real_step(attention: str, precision: str) -> None:
    """Real tensors, counted in the same way: fake ones take the same kernels."""
    arguments = small(attention, dropout=0.1, drop_path=0.2, drop_path_style="timm")
    dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
    model = ViViT(**arguments).to(dtype)
    clips = torch.rand(2, 3, *CLIP, dtype=dtype)
    storages = {s.data_ptr(): s for s in [clips.untyped_storage()]}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    mixed = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed")
    with mixed, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(clips)
    for parameter in model.parameters():
        storages.pop(parameter.data_ptr(), None)
    assert logits.shape == (2, 5)
    real = sum(storage.nbytes() for storage in storages.values())
    assert memory(arguments, precision).activations == real


def test_activations_grow_with_the_batch() -> None:
    one, two, three = (memory(small(), batch_size=n).activations for n in (1, 2, 3))
    assert three - two == two - one > 0


def test_fused_attention_keeps_no_weights() -> None:
    """Nor with dropout, as on a GPU; the explicit formula does."""
    arguments = small(num_frames=64, tubelet_size=[1, 8, 8])
    clip = (64, 32, 32)
    tokens = 64 * 16 + 1

    def activations(**others: Any) -> int:
        return describe({**arguments, **others}, clip).memory.activations

    fused = activations()
    weights = 2 * 2 * tokens**2 * 4  # layers, heads, bytes
    assert fused < weights
    assert activations(attention_dropout=0.1) == fused
    assert activations(attention_implementation="eager") > weights


# Resident memory before and at the peak of training steps; a first one loads what torch needs.
MEASURED = """
import sys
import torch
import torch.nn.functional as F
from vivit_train.model.vivit import ViViT

def resident(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024

def train(size, arguments, steps):
    model = ViViT(**arguments)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    clips, labels = torch.rand(2, 3, *size), torch.zeros(2, dtype=torch.long)
    for _ in range(steps):
        loss = F.cross_entropy(model(clips), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

small, size, arguments = eval(sys.argv[1])
train((4, 32, 32), small, 1)
before = resident("VmRSS:")
train(size, arguments, 2)
print(resident("VmHWM:") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_memory_of_a_measured_step(attention: str, command: Callable[..., Any]) -> None:
    """Peak resident memory of a fresh process; its allocator gives back what is freed."""
    arguments = small(
        attention, image_size=224, num_frames=16, hidden_size=512, num_layers=4, mlp_size=2048
    )
    clip = (16, 224, 224)
    result = command(
        "-c", MEASURED, repr((small(), clip, arguments)), MALLOC_MMAP_THRESHOLD_="65536"
    )
    assert result.returncode == 0, result.stderr
    estimated = describe(arguments, clip, batch_size=2, optimizer="adamw").memory.total
    assert estimated == pytest.approx(int(result.stdout), rel=0.15)


def test_mistakes() -> None:
    for wrong, message in (
        ({"precision": "8-true"}, "trainer.precision=8-true.*use one of them"),
        ({"optimizer": "lamb"}, "optim.name='lamb' is not one of sgd, adamw"),
    ):
        with pytest.raises(UserError, match=message):
            describe(small(), CLIP, **wrong)
    with pytest.raises(UserError, match="cannot be cut into tubelets"):
        describe(small(), (4, 32, 40))
    with pytest.raises(UserError, match="sampled_frames=2 embeds single frames"):
        describe(small(sampled_frames=2), CLIP)


def test_plain_values() -> None:
    plain = describe(small(), CLIP).to_dict()
    assert plain["memory"]["total"] == sum(
        plain["memory"][field.name] for field in dataclasses.fields(memory(small()))
    )
    assert plain["paper"] is None
