"""The processor benchmark runs and reports what it says; its times are nobody's business here."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "processor.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_processor", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_report(benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, output = torch.get_num_threads(), tmp_path / "results" / "processor.json"
    arguments = ["--sizes", "300x240", "256x256", "--frames", "2", "--repeats", "2"]
    try:
        report = benchmark.main([*arguments, "--output", str(output)])
    finally:
        torch.set_num_threads(before)
    assert json.loads(output.read_text()) == report
    assert report["settings"] == {"device": "cpu", "frames": 2, "threads": 1}
    lines = [(line["size"], line["do_normalize"]) for line in report["results"]]
    assert lines == [(s, n) for s in ("300x240", "256x256") for n in (False, True)]
    for line in report["results"]:
        times = line["median_milliseconds"]
        assert times["processor"] > 0
        assert line["speed_ratio"] == pytest.approx(times["image_processor"] / times["processor"])
        assert line["largest_difference"] < 1e-6
    assert "300x240 normalized" in capsys.readouterr().out


def test_transformers_is_needed(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SystemExit, match=r"transformers, which is not installed: pip install"):
        benchmark.main([])
