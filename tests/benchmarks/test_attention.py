"""The attention benchmark runs and reports what it says; its times are nobody's business here."""

import json
from pathlib import Path

import attention
import measure
import pytest
import steps


def test_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "MATRIX_SIDE", {"cpu": 64})
    monkeypatch.setattr(measure, "COPY_BYTES", {"cpu": 1024})
    monkeypatch.setattr(steps, "in_fresh_process", lambda function, *args: function(*args))
    output = tmp_path / "attention.json"
    arguments = ["--model", "tiny", "--layers", "1", "--precision", "fp32", "--batch", "2"]
    arguments += ["--steps", "1", "--batches", "2", "--output", str(output)]
    report = attention.main(arguments)
    assert json.loads(output.read_text()) == report
    assert report["settings"] == {
        "device": "cpu", "model": "tiny", "layers": 1, "steps": 1, "batches": 2, "batch": [2],
        "tf32": False,
    }  # fmt: skip
    assert report["largest_relative_difference_of_logits"] < 1e-5
    rows = report["results"]
    assert [(row["phase"], row["batch"]) for row in rows] == [("training", 1), ("inference", 2)]
    for row, repeats in zip(rows, (1, 2)):
        for origin in attention.ORIGINS:
            found = row[origin]
            eager, sdpa = found["eager"], found["sdpa"]
            assert len(eager["seconds"]) == len(sdpa["seconds"]) == repeats
            for name, key in (("speedup", "median_seconds"), ("memory_saving", "peak_bytes")):
                percent = 100 * (eager[key] / sdpa[key] - 1)
                assert found[f"{name}_percent"] == pytest.approx(percent)
        ours, theirs = row["vivit_train"]["sdpa"], row["huggingface"]["sdpa"]
        assert row["sdpa_memory_ratio"] == ours["peak_bytes"] / theirs["peak_bytes"]
        assert row["sdpa_speed_ratio"] == theirs["median_seconds"] / ours["median_seconds"]
    printed = capsys.readouterr().out
    assert "training, medians of 1 steps" in printed
    assert "inference, medians of 2 batches" in printed
    assert "Hugging Face fp32" in printed


def test_defaults_are_the_pages() -> None:
    on_gpu, on_cpu = attention.parse(["--device", "cuda"]), attention.parse([])
    assert (on_gpu.steps, on_gpu.batches, on_gpu.batch) == (100, 20, [1, 2, 4, 8])
    assert (on_cpu.steps, on_cpu.batches) == (3, 3)


@pytest.mark.parametrize(("eager", "sdpa", "percent"), [(4358.19, 1233.24, 253.393)])
def test_percent_is_as_on_the_page(eager: float, sdpa: float, percent: float) -> None:
    assert attention.percent(eager, sdpa) == pytest.approx(percent, abs=1e-2)
