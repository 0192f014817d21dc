import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.describe.models import CLIP, small
from vivit_train.describe import describe
from vivit_train.describe.counts import Part, build, count_macs, count_training_flops
from vivit_train.model.arguments import ATTENTIONS
from vivit_train.model.vivit import ViViT


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
    for num_queries, macs in (
        (real.num_queries, description.computed_macs),
        (None, description.macs),
    ):
        model = ViViT(**arguments, attention_implementation="eager")
        model.num_queries = num_queries
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, *CLIP))
        assert macs == counter.get_total_flops() // 2
    assert description.macs_per_video == 12 * description.macs


def test_what_training_leaves_out_counts_in_training_alone() -> None:
    plain, drops = build(small()), build(small(token_drop=0.5))
    assert count_macs(drops, CLIP) == count_macs(plain, CLIP)
    assert count_training_flops(drops, CLIP) < count_training_flops(plain, CLIP)


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
