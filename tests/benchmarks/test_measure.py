"""What the benchmarks share counts what it says it counts."""

import os
from collections.abc import Callable
from pathlib import Path

import measure
import pytest
import torch
from torch import Tensor, nn
from torch.distributed._tools.mem_tracker import MemTracker
from torch.profiler import ProfilerActivity, profile


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "MATRIX_SIDE", {"cpu": 32})
    monkeypatch.setattr(measure, "COPY_BYTES", {"cpu": 1024})


def test_turns() -> None:
    order: list[str] = []
    steps = {name: (lambda name=name: order.append(name)) for name in "abc"}
    seconds = measure.in_turns(steps, 2, "cpu")
    assert "".join(order) == "cbaabccba"  # the first round warms up
    assert {name: len(times) for name, times in seconds.items()} == dict.fromkeys("abc", 2)


@pytest.mark.usefixtures("small")
def test_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    def fixed(function: Callable[[], Tensor], device: str) -> float:
        return 2.0 if function().shape == (32, 32) else 0.5

    monkeypatch.setattr(measure, "timed", fixed)
    machine = measure.Machine("cpu", "bf16")
    assert machine.matrix.dtype == torch.bfloat16
    step = torch.zeros(1).clone
    measure.in_turns({"a": step, "b": step}, 1, "cpu", machine=machine)
    assert {name: len(times) for name, times in machine.seconds.items()} == {"matrix": 4, "copy": 4}
    rates = machine.rates()
    assert rates["matrix_tflops"] == pytest.approx(2 * 32**3 / 2 / 1e12)
    assert rates["copy_gb_per_second"] == pytest.approx(2 * 1024 / 0.5 / 1e9)


def test_peak_memory_is_that_of_torchs_tracker() -> None:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True):
        left = torch.empty(1024, 1024)
    del left  # unseen: a profiler's total keeps it

    def prepare() -> tuple[nn.Module, torch.optim.Optimizer, Tensor, Callable[[], None]]:
        model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        inputs = torch.randn(32, 64)

        def step() -> None:
            model(inputs).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        return model, optimizer, inputs, step

    found = measure.peak_memory(lambda: prepare()[-1], "cpu")
    model, optimizer, inputs, step = prepare()
    step()
    tracker = MemTracker()
    tracker.track_external(model, optimizer, inputs)
    with tracker:
        step()
    (snapshot,) = tracker.get_tracker_snapshot("peak").values()
    assert found["peak_bytes"] == pytest.approx(snapshot["Total"], rel=0.01)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert found["kept_bytes"] == pytest.approx(3 * weights + 32 * 64 * 4, rel=0.01)
    assert found["resident_bytes"] >= 0


def test_a_fresh_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "PRELOAD", [])
    assert measure.in_fresh_process(os.getpid) != os.getpid()
    assert measure.in_fresh_process(os._exit, 1) is None  # as one that the system kills
    assert "left out, out of memory" in capsys.readouterr().err


def test_head() -> None:
    report = measure.head({"batch": 1}, "cpu", "torch")
    assert report.keys() == {"date", "versions", "hardware", "settings"}
    assert list(report["versions"]) == ["python", "torch"]
    assert report["hardware"].keys() == {"cpu", "threads", "cpu_capability"}


def test_what_was_not_measured() -> None:
    assert measure.ratio(None, 2.0) is None
    assert measure.ratio(3.0, 2.0) == 1.5
    assert measure.cell(None, "{:.1f}") == "-"
    assert measure.cell(1.25, "{:.2f}x") == "1.25x"


def test_results_have_a_place_of_their_own() -> None:
    parser = measure.Arguments("What it shows.", "parts_{phase}_{device}")
    parser.add_argument("--phase", default="training")
    assert parser.parse([]).output == measure.RESULTS / "parts_training_cpu.json"
    assert parser.parse(["--device", "cuda"]).output.name == "parts_training_cuda.json"
    assert parser.parse(["--output", "here.json"]).output == Path("here.json")
    assert "results/parts_PHASE_DEVICE.json" in parser.format_help()
    assert not hasattr(measure.Arguments("", "loader").parse([]), "device")
