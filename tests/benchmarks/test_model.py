"""The model benchmark runs and reports what it says; its times are nobody's business here."""

import json
import sys
from pathlib import Path
from typing import Any

import measure
import model
import pytest


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "MATRIX_SIDE", {"cpu": 64})
    monkeypatch.setattr(measure, "COPY_BYTES", {"cpu": 1024})


def test_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def memory(variant: Any, size: dict[str, Any], device: str) -> dict[str, Any] | None:
        if (variant.origin, variant.batch) == ("huggingface", 2):
            return None  # as what does not fit
        return {"peak_bytes": 1_000_000 * variant.batch, "resident_bytes": 5}

    monkeypatch.setattr(model, "memory", memory)
    output = tmp_path / "results" / "model.json"
    arguments = ["--model", "tiny", "--layers", "1", "--batch", "1", "2", "--repeats", "2"]
    report = model.main([*arguments, "--output", str(output)])
    assert json.loads(output.read_text()) == report
    assert report.keys() == {
        "date",
        "versions",
        "hardware",
        "settings",
        "forward_gmacs_per_clip",
        "largest_relative_difference_of_logits",
        "sdpa_backend",
        "machine",
        "results",
    }
    assert report["settings"] == {
        "device": "cpu", "model": "tiny", "layers": 1, "batch": [1, 2], "forms": ["eager"],
        "repeats": 2, "tf32": False,
    }  # fmt: skip
    assert report["versions"].keys() == {"python", "torch", "transformers", "vivit-train"}
    assert report["largest_relative_difference_of_logits"] < 1e-5
    assert report["machine"].keys() == {"fp32", "bf16"}
    lines = [(r["precision"], r["batch"], r["phase"], r["form"]) for r in report["results"]]
    assert lines == [
        (precision, batch, phase, "eager")
        for precision in ("fp32", "bf16")
        for batch in (1, 2)
        for phase in ("training", "inference")
    ]
    for line in report["results"]:
        ours, theirs = line["vivit_train"], line["huggingface"]
        assert len(ours["seconds"]) == 2
        assert ours["mfu"] > 0
        if line["batch"] == 1:
            speed = theirs["median_seconds"] / ours["median_seconds"]
            assert line["speed_ratio"] == pytest.approx(speed)
            assert line["speed_ratio_to_huggingface_eager"] == pytest.approx(speed)
            assert line["memory_ratio"] == 1
        else:
            assert theirs["seconds"] == []
            assert theirs["mfu"] is None
            assert line["speed_ratio"] is None
            assert line["memory_ratio"] is None
    printed = capsys.readouterr().out
    assert "ViViT-TINY, 4x32x32, 1 layer of 32" in printed
    assert "bf16 inference eager" in printed


def test_compiled_beside_eager() -> None:
    """Form against form, and ours compiled against Hugging Face's default."""
    size = model.size_of("tiny", 1)
    ours = model.Variant("vivit_train", "inference", "fp32", 1, "compiled")
    seconds = {
        ours: [1.0],
        ours._replace(form="eager"): [2.0],
        ours._replace(origin="huggingface"): [1.5],
        ours._replace(origin="huggingface", form="eager"): [3.0],
    }
    line = model.compare(ours, seconds, {}, size, {"fp32": {"matrix_tflops": 1.0}})
    assert line["speed_ratio"] == 1.5
    assert line["speed_ratio_to_huggingface_eager"] == 3
    assert line["vivit_train"]["mfu"] == pytest.approx(model.flops(size, "inference", 1) / 1e12)
    assert line["memory_ratio"] is None


def test_transformers_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SystemExit, match=r"transformers, which is not installed: pip install"):
        model.main(["--model", "tiny"])
