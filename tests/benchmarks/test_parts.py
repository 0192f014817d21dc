"""The benchmark of the model's parts runs, and compares what gives the same numbers."""

import json
from pathlib import Path

import pytest


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_report(precision: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import parts

    output = tmp_path / "parts.json"
    words = ["--side", "32", "--repeats", "1", "--precision", precision, "--output", str(output)]
    report = parts.main(words)
    assert json.loads(output.read_text()) == report
    assert len(report["results"]) == 4
    for line in report["results"]:
        assert line["largest_difference"] < (1e-4 if precision == "fp32" else 0.05)
        assert all(len(seconds) == 1 for seconds in line["seconds"].values())
        assert line["speed_ratio"] > 0
    assert "AdamW: fused" in capsys.readouterr().out
