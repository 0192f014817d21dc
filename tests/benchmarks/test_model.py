"""The model benchmark runs and reports what it says; its times are nobody's business here."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "model.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_model", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.MATRIX_SIDE = {"cpu": 64}
    return module


def test_report(benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "results" / "model.json"
    arguments = ["--model", "tiny", "--batch", "2", "--repeats", "2", "--no-memory"]
    report = benchmark.main([*arguments, "--output", str(output)])
    assert json.loads(output.read_text()) == report
    assert report.keys() == {
        "date",
        "versions",
        "hardware",
        "settings",
        "forward_gmacs",
        "largest_relative_difference_of_logits",
        "matrix_tflops",
        "results",
    }
    assert report["settings"] == {"model": "tiny", "batch": 2, "repeats": 2}
    assert report["versions"].keys() == {"python", "torch", "transformers", "vivit-train"}
    assert report["largest_relative_difference_of_logits"] < 1e-5
    assert report["matrix_tflops"].keys() == {"fp32", "bf16"}
    lines = [(r["precision"], r["form"], r["phase"]) for r in report["results"]]
    assert lines == [
        ("fp32", "eager", "training"),
        ("fp32", "eager", "inference"),
        ("bf16", "eager", "training"),
        ("bf16", "eager", "inference"),
    ]
    for line in report["results"]:
        for origin in ("vivit_train", "huggingface"):
            assert len(line[origin]["seconds"]) == 2
            assert line[origin]["median_seconds"] > 0
            assert line[origin]["share_of_matrix_rate"] > 0
            assert line[origin]["peak_memory_gib"] is None
        assert line["speed_ratio"] == pytest.approx(
            line["huggingface"]["median_seconds"] / line["vivit_train"]["median_seconds"]
        )
    printed = capsys.readouterr().out
    assert "ViViT-TINY, 2 x 4x32x32" in printed
    assert "bf16 inference" in printed


def test_memory_of_one_variant(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    variant = ["huggingface", "eager", "training", "fp32"]
    assert benchmark.main(["--model", "tiny", "--memory-of", *variant]) == {}
    assert float(capsys.readouterr().out) > 0


def test_macs_of_b(benchmark: ModuleType) -> None:
    assert benchmark.forward_macs(benchmark.MODELS["b"]) / 1e9 == pytest.approx(451.5, abs=0.05)


def test_transformers_is_needed(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SystemExit, match=r"transformers, which is not installed: pip install"):
        benchmark.main(["--model", "tiny"])


def test_output_default(benchmark: ModuleType) -> None:
    expected = SCRIPT.parent / "results" / "model_cuda.json"
    assert benchmark.parse(["--device", "cuda"]).output == expected
