from types import SimpleNamespace

import pytest
import torch

from vivit_train import utilisation
from vivit_train.describe.counts import build, count_macs
from vivit_train.model.vivit import ViViT
from vivit_train.utilisation import Utilisation, matrix_rate, peak_memory

ARGUMENTS = {
    "num_classes": 5, "image_size": 32, "num_frames": 4, "tubelet_size": [2, 16, 16],
    "hidden_size": 32, "num_layers": 2, "num_heads": 2, "mlp_size": 64,
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utilisation, "MATRIX_SIDE", {"cpu": 64})


def logged(every: int, batches: int, precision: str = "32-true", world_size: int = 1) -> dict:
    logs: dict[str, list] = {}
    module = SimpleNamespace(
        model=ViViT(**ARGUMENTS),
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
    macs = count_macs(build(ARGUMENTS), (4, 32, 32))[""]
    assert [value for value, _ in logs["train/mfu"]] == pytest.approx([6 * macs * 10 / 1e9] * 2)
    (shared, _), _ = logged(every=2, batches=5, world_size=2)["train/mfu"]
    assert shared == pytest.approx(6 * macs * 5 / 1e9)  # of one process


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
    ticks = iter([0.0, 9.0, 10.0, 12.0, 20.0, 21.0, 30.0, 33.0])  # spans of 9, 2, 1 and 3 s
    monkeypatch.setattr(clock, "perf_counter", lambda: next(ticks), raising=False)
    monkeypatch.setattr(utilisation, "time", clock)
    assert matrix_rate(torch.device("cpu"), dtype) == 2 * 64**3 / 1.0
