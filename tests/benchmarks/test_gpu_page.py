"""The GPU section of the page: figures of the report, rounded, between the page's markers."""

import json
from pathlib import Path
from typing import Any

import gpu_page
import pytest


def report_of(**rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "date": "2026-11-27T23:40:00+00:00",
        "versions": {"python": "3.12", "torch": "2.11.0", "transformers": "5.17.0"},
        "hardware": {"cpu": "some CPU", "gpu": "NVIDIA H200"},
        "parts": {
            name: {"rows": found, "ended": "done", "seconds": 1.0} for name, found in rows.items()
        },
    }


STEP = {
    "form": "compiled", "batch": 32, "seconds": [0.2134], "median_seconds": 0.21336,
    "clips_per_second": 149.98, "mfu": 0.4789, "peak_bytes": 33_249_000_000,
    "first_step_seconds": 12.3,
}  # fmt: skip
KERNEL = {"name": "cudnn_" + "k" * 80, "seconds": 0.0734, "share": 0.35, "launches": 12}
PROFILE = {
    "seconds": 0.21, "launches": 1234, "kinds": {"attention, backward": 0.0734},
    "kernels": [KERNEL],
}  # fmt: skip
ATTENTION = {
    "eager": {"median_seconds": 0.3, "peak_bytes": 4_358_190_000},
    "sdpa": {"median_seconds": 0.2, "peak_bytes": 1_233_240_000},
    "speedup_percent": 50.04, "memory_saving_percent": 253.393,
}  # fmt: skip
BESIDE = {
    "phase": "training", "form": "compiled", "batch": 8,
    "vivit_train": {"median_seconds": 0.0569, "peak_bytes": 9_600_000_000},
    "huggingface": {"median_seconds": None, "peak_bytes": None},
    "speed_ratio": None, "speed_ratio_to_huggingface_eager": 1.618, "memory_ratio": None,
    "left_out": {"huggingface compiled": "over 60 s"},
}  # fmt: skip
TRANSFORMS = {
    "what": "augment", "clips": 16, "median_seconds": 0.0015, "host_seconds": 0.0004,
    "kernel_seconds": 0.0011, "launches": 40, "share_of_step": 0.0136,
}  # fmt: skip


def test_figures_are_rounded() -> None:
    rows = {
        "matrix": [{"precision": "bf16", "matrix_tflops": 789.6, "copy_gb_per_second": 3912.4}],
        "step": [STEP, {"form": "compiled", "batch": 32, "profile": PROFILE}],
        "train": [{"batch": 32, "clips_per_second": 146.4, "share_of_step": 0.976}],
        "transforms": [TRANSFORMS],
        "huggingface": [BESIDE],
        "attention_tables": [
            {"phase": "inference", "batch": 8, "vivit_train": ATTENTION, "huggingface": ATTENTION}
        ],
        "kernels": [
            {"kernel": "cudnn", "forward_seconds": 0.00122, "forward_tflops": 396.2},
            {"kernel": "math", "left_out": "out of memory"},
        ],
        "deterministic": [
            {"compared": "the same run twice", "tensors": 56, "tensors_that_differ": 0,
             "largest_difference": 0.0},
            {"compared": "killed, resumed", "left_out": "no time"},
            {"batch": 16, "share_of_usual": 0.8512},
        ],
        "nccl": [{"strategy": "ddp", "rc": 0, "loss": 0.69314}],
    }  # fmt: skip
    lines = gpu_page.section([report_of(**rows)]).splitlines()
    assert lines[1].startswith("NVIDIA H200, 2026-11-27, torch 2.11.0, transformers 5.17.0: `matr")
    assert "| bf16 | 790 | 3,912 |" in lines
    assert "| compiled | 32 | 213.4 | 150 | 0.48 | 33.2 | 12 s |" in lines
    assert "| together | 210.0 | 100 % | 1234 |" in lines
    assert "| attention, backward | 73.4 | 35.0 % | |" in lines
    assert f"| `cudnn_{'k' * 54}` | 73.4 | 35.0 % | 12 |" in lines
    assert "| 32 | 146 | 0.98 |" in lines
    assert "| augment, 16 clips | 1.5 | 0.4 | 1.1 | 40 | 1.4 % |" in lines
    assert "| training, compiled | 8 | 56.9 | - (over 60 s) | - | 1.62x | 9.6 / - | - |" in lines
    assert (
        "| inference, Hugging Face | 8 | 300.0 | 200.0 | 50.0 % | 4,358 | 1,233 | 253.4 % |"
        in lines
    )
    assert "| cudnn | 1.22 ms, 396 TFLOP/s | - |" in lines
    assert "| math | - | - |" in lines
    assert "| the same run twice | 0 of 56 | 0 |" in lines
    assert "| killed, resumed | not measured | - |" in lines
    assert "`train.py` has 0.85 times as many clips per second with it." in lines
    assert "| ddp | runs | 0.693 |" in lines
    assert gpu_page.NOT_MEASURED not in lines


def test_what_is_missing_is_not_measured() -> None:
    report = report_of(step=[STEP], train=[])
    report["parts"]["step"]["ended"] = "out of time, after 80 s"
    lines = gpu_page.section([report]).splitlines()
    assert lines.count(gpu_page.NOT_MEASURED) == len(gpu_page.TABLES) - 1
    assert lines.count("This part is not whole: out of time, after 80 s.") == 2


def test_a_later_report_replaces_the_parts_that_it_has() -> None:
    first = report_of(train=[{"batch": 16, "clips_per_second": 99, "share_of_step": 0.5}])
    first["parts"]["step"] = {"rows": [STEP], "ended": "done", "seconds": 1.0}
    second = report_of(train=[{"batch": 16, "clips_per_second": 146, "share_of_step": None}])
    second["parts"]["step"] = {"rows": [], "ended": "not begun", "seconds": None}
    lines = gpu_page.section([first, second]).splitlines()
    assert "| 16 | 146 | - |" in lines
    assert not any("| 16 | 99 |" in line for line in lines)
    assert "| compiled | 32 | 213.4 | 150 | 0.48 | 33.2 | 12 s |" in lines


def test_only_what_lies_between_the_markers_is_written(tmp_path: Path) -> None:
    page, report = tmp_path / "page.md", tmp_path / "gpu.json"
    page.write_text(f"above\n{gpu_page.BEGIN}\nold\n{gpu_page.END}\nbelow\n")
    report.write_text(json.dumps(report_of(step=[STEP])))
    for _ in range(2):  # and again
        gpu_page.main([str(report), "--page", str(page)])
        written = page.read_text()
        assert written.startswith(f"above\n{gpu_page.BEGIN}\n\nNVIDIA H200")
        assert written.endswith(f"\n\n{gpu_page.END}\nbelow\n")
        assert "old" not in written
        assert written.count("### A training step") == 1


@pytest.mark.parametrize("page", ["", f"{gpu_page.BEGIN}\n", f"{gpu_page.END}{gpu_page.BEGIN}"])
def test_a_page_without_markers_is_left_alone(page: str) -> None:
    with pytest.raises(SystemExit, match="the page must have one line <!-- gpu.py: begin -->"):
        gpu_page.replaced(page, "new")


def test_the_page_has_its_markers() -> None:
    assert "new" in gpu_page.replaced(gpu_page.PAGE.read_text(), "new")
