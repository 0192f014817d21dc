import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.describe.models import CLIP, small
from vivit_train.describe import describe
from vivit_train.describe.counts import build
from vivit_train.describe.memory import training_memory
from vivit_train.errors import UserError
from vivit_train.model.arguments import ATTENTIONS
from vivit_train.model.vivit import ViViT


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


def test_memory_of_what_is_trained() -> None:
    """Of 2 blocks, width 32, MLP 64: LoRA of rank 2 trains 2 * 2 * 512 numbers and the head."""
    whole, lora = describe(small(), CLIP), describe(small(), CLIP, lora_rank=2)
    assert lora.trained_parameters == 2 * 2 * (32 + 96 + 32 + 32 + 32 + 64 + 64 + 32) + 33 * 5
    assert lora.memory.gradients == lora.memory.optimizer_state == 4 * lora.trained_parameters
    assert lora.memory.parameters == 4 * (whole.parameters + lora.trained_parameters - 33 * 5)
    assert (lora.parameters, lora.macs) == (whole.parameters, whole.macs)
    probe = describe(small(), CLIP, freeze="all_but_head")
    assert probe.trained_parameters == 33 * 5
    assert probe.memory.activations < lora.memory.activations
    with pytest.raises(UserError, match=r"optim\.lora_rank=2 freezes all but the head"):
        describe(small(), CLIP, freeze="all_but_head", lora_rank=2)


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
    arguments = small(num_frames=64, tubelet_size=[1, 8, 8], num_layers=3)
    clip = (64, 32, 32)
    tokens = 64 * 16 + 1

    def activations(**others: Any) -> int:
        return describe({**arguments, **others}, clip).memory.activations

    fused = activations()
    weights = 2 * 2 * tokens**2 * 4  # layers before the last, heads, bytes
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
