"""The benchmark of the bookkeeping runs and accounts for every callback that works in a step."""

import json
from pathlib import Path

import pytest

TINY = (
    "model.image_size=16",
    "model.num_frames=4",
    "model.hidden_size=16",
    "model.num_layers=1",
    "model.num_heads=2",
    "model.mlp_size=32",
    "data.num_workers=1",
)


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import overhead

    output = tmp_path / "overhead.json"
    report = overhead.main(["--steps", "2", "--output", str(output), *TINY])
    assert json.loads(output.read_text()) == report
    assert {"StepSeed", "NonFinite", "Throughput", "Ema", "StopSignals"} <= report[
        "callbacks"
    ].keys()
    # Each of them did something in the steps that were counted.
    for name in ("StepSeed", "NonFinite", "Ema"):
        assert 0 < report["callbacks"][name]["median_seconds"] < report["step_seconds"]
    assert "together" in capsys.readouterr().out
