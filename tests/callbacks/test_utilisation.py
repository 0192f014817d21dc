from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vivit_train.callbacks import utilisation
from vivit_train.callbacks.utilisation import Utilisation, matrix_rate, peak_memory
from vivit_train.describe.counts import build, count_macs, count_training_flops
from vivit_train.model.vivit import ViViT

ARGUMENTS = {
    "num_classes": 5, "image_size": 32, "num_frames": 4, "tubelet_size": [2, 16, 16],
    "hidden_size": 32, "num_layers": 2, "num_heads": 2, "mlp_size": 64,
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utilisation, "MATRIX_SIDE", {"cpu": 64})
    monkeypatch.setattr(utilisation, "MATRIX_SECONDS", 0.0)


def logged(
    every: int,
    batches: int,
    precision: str = "32-true",
    world_size: int = 1,
    frozen: str | None = None,
    lora_rank: int | None = None,
    **arguments: Any,
) -> dict:
    logs: dict[str, list] = {}
    module = SimpleNamespace(
        model=ViViT(**ARGUMENTS | arguments),
        optim={"freeze": frozen, "lora_rank": lora_rank},
        device=torch.device("cpu"),
        log=lambda name, value, **how: logs.setdefault(name, []).append((value, how)),
    )
    trainer = SimpleNamespace(
        precision=precision,
        world_size=world_size,
        callback_metrics={"train/clips_per_second": torch.tensor(10.0)},
    )
    callback = Utilisation(every)
    callback.on_train_start(trainer, module)
    callback.matrix_rate = 1e9
    batch = SimpleNamespace(clips=torch.zeros(2, 3, 4, 32, 32))
    for index in range(batches):
        callback.on_train_batch_end(trainer, module, None, batch, index)
    return logs


def test_operations_of_the_model_beside_those_of_a_matrix_product() -> None:
    logs = logged(every=2, batches=5)
    flops = count_training_flops(build(ARGUMENTS), (4, 32, 32))
    assert [value for value, _ in logs["train/mfu"]] == pytest.approx([flops * 10 / 1e9] * 2)
    (shared, _), _ = logged(every=2, batches=5, world_size=2)["train/mfu"]
    assert shared == pytest.approx(flops * 5 / 1e9)  # of one process


def test_operations_are_counted_where_anomalies_are_looked_for() -> None:
    """By trainer.detect_anomaly: seen was a traceback after the first step."""
    model = build(ARGUMENTS)
    flops = count_training_flops(model, (4, 32, 32))
    with torch.autograd.set_detect_anomaly(True):
        assert count_training_flops(model, (4, 32, 32)) == flops
        assert torch.is_anomaly_enabled()


def test_what_frozen_parts_save_does_not_count() -> None:
    ((whole, _),) = logged(every=1, batches=1)["train/mfu"]
    ((probe, _),) = logged(every=1, batches=1, frozen="all_but_head")["train/mfu"]
    ((lora, _),) = logged(every=1, batches=1, lora_rank=2)["train/mfu"]
    assert probe < lora < whole
    macs = count_macs(build(ARGUMENTS), (4, 32, 32))
    # Backward takes twice what forward does, but for the gradient of the pixels.
    assert whole == pytest.approx((6 * macs[""] - 2 * macs["embed"]) * 10 / 1e9)
    # Forward through all, and the gradient of the head's weights.
    assert probe == pytest.approx((2 * macs[""] + 2 * macs["head"]) * 10 / 1e9)


def test_what_dropped_tokens_save_does_not_count() -> None:
    """But a frozen encoder drops none."""
    ((whole, _),) = logged(every=1, batches=1)["train/mfu"]
    ((dropped, _),) = logged(every=1, batches=1, token_drop=0.5)["train/mfu"]
    # By hand: 5 in place of 9 tokens in a block; of the last, which has one query, in keys and
    # values alone. Backward takes twice what forward does.
    block = 4 * 4 * 32**2 + 2 * (9**2 - 5**2) * 32 + 2 * 4 * 32 * 64
    last = 3 * 4 * 32**2 + 2 * 4 * 32
    assert whole - dropped == pytest.approx(6 * (block + last) * 10 / 1e9)
    ((probe, _),) = logged(every=1, batches=1, frozen="all_but_head")["train/mfu"]
    both = logged(every=1, batches=1, frozen="all_but_head", token_drop=0.5)["train/mfu"]
    assert both[0][0] == pytest.approx(probe)


def test_memory_is_that_of_the_largest_process() -> None:
    ((gib, how),) = logged(every=1, batches=1)["train/memory_gib"]
    assert how == {"sync_dist": True, "reduce_fx": "max"}
    assert gib == pytest.approx(peak_memory(torch.device("cpu")) / 2**30)
    assert 0.05 < gib < 64  # torch alone takes some hundred MB


def test_no_logging() -> None:
    assert logged(every=0, batches=3) == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_rate_is_of_the_size_and_type(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=0.0)
    ticks = iter([10.0, 12.0, 20.0, 21.0, 30.0, 33.0])  # spans of 2, 1 and 3 s
    monkeypatch.setattr(clock, "perf_counter", lambda: next(ticks), raising=False)
    monkeypatch.setattr(utilisation, "time", clock)
    state = torch.get_rng_state()
    assert matrix_rate(torch.device("cpu"), dtype) == 2 * 64**3 / 1.0
    assert torch.equal(torch.get_rng_state(), state)  # the run's draws are as without


def test_the_rate_is_measured_for_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    ticks = iter([t / 8 for t in range(100)])
    monkeypatch.setattr(clock, "perf_counter", lambda: next(ticks), raising=False)
    monkeypatch.setattr(utilisation, "time", clock)
    monkeypatch.setattr(utilisation, "MATRIX_SECONDS", 1.0)
    matrix_rate(torch.device("cpu"), torch.float32)
    assert next(ticks) == 2.0  # eight products of an eighth of a second
