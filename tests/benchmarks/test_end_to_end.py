"""The end-to-end benchmark runs and reports what it says; its times are nobody's business here."""

import json
import sys
from pathlib import Path

import end_to_end as benchmark
import pytest
import recipe
import torch

TINY = [
    "--model",
    "tiny",
    "--clips",
    "4",
    "--videos",
    "2",
    "--batch",
    "2",
    "--workers",
    "1",
    "--seconds",
    "0.5",
]


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "results" / "end_to_end.json"
    report = benchmark.main([*TINY, "--repeats", "1", "--output", str(output)])
    assert json.loads(output.read_text()) == report
    assert [(line["epoch"], line["clips"]) for line in report["results"]] == [
        ("training", 4),
        ("evaluation", 2 * 12),
    ]
    for line in report["results"]:
        (ours,), (recipe,) = line["rounds"]["ours"], line["rounds"]["recipe"]
        assert line["ratio"] == pytest.approx(recipe["total"] / ours["total"])
        assert line["clips_per_second"]["ours"] == pytest.approx(line["clips"] / ours["total"])
        assert ours["total"] == pytest.approx(ours["wait"] + ours["process"] + ours["step"])
        assert recipe["total"] == pytest.approx(recipe["wait"] + recipe["step"])
        assert min(*ours.values(), *recipe.values()) > 0
    assert "milliseconds per clip" in capsys.readouterr().out


def test_both_sides_see_the_same_pixels(tmp_path: Path) -> None:
    root = benchmark.write_data(tmp_path, benchmark.parse(TINY))
    data = benchmark.Ours(root, benchmark.parse(TINY)).data
    sample = next(iter(data.test_dataloader())).frames[0]
    ours = data.processor(sample, recipe.SPATIAL_VIEWS)  # [4 * 3, 3, T, h, w]
    views = recipe.EvalClips(root, recipe.MODELS["tiny"]["num_frames"])
    theirs = torch.cat([views[view]["pixel_values"] for view in range(4)])  # [4 * 3, T, 3, h, w]
    torch.testing.assert_close(ours, theirs.transpose(1, 2), atol=1e-6, rtol=0)


def test_batches_are_full(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.parse(["--clips", "7", "--batch", "2"])
    assert "--clips 7 must be a multiple of --batch 2" in capsys.readouterr().err


def test_transformers_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SystemExit, match=r"transformers, which is not installed: pip install"):
        benchmark.main([])
