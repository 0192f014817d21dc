"""The scaling benchmark runs and reports what it says; its times are nobody's business here."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import pytest
import scaling


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "MATRIX_SIDE", {"cpu": 64})
    monkeypatch.setattr(measure, "COPY_BYTES", {"cpu": 1024})


@pytest.mark.usefixtures("small")
def test_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = []

    def here(function: Callable[..., Any], *args: Any) -> Any:
        runs.append(args[0])
        return function(*args) if args[0].size["num_frames"] < 16 else None

    monkeypatch.setattr(scaling, "in_fresh_process", here)
    output = tmp_path / "scaling.json"
    arguments = ["--model", "tiny", "--layers", "1", "--repeats", "1", "--output", str(output)]
    arguments += ["--points", "models", "frames=4,8,16", "token_drop=0,0.5", "checkpointing"]
    report = scaling.main(arguments)
    assert json.loads(output.read_text()) == report
    found = {(line["kind"], line["value"]): line for line in report["results"]}
    assert list(found) == [
        *(("models", attention) for attention in scaling.ATTENTIONS),
        *(("frames", frames) for frames in (4, 8, 16)),
        *(("token_drop", share) for share in (0.0, 0.5)),
        *(("checkpointing", which) for which in ("off", "on")),
    ]
    assert [found["frames", n]["tokens"] for n in (4, 8, 16)] == [8, 16, 32]
    assert found["token_drop", 0.5]["tokens"] == 4
    assert found["token_drop", 0.5]["flops"] < found["token_drop", 0.0]["flops"]
    assert found["checkpointing", "on"]["flops"] == found["checkpointing", "off"]["flops"]
    # What does not fit is left out, and the same model is not measured twice.
    assert found["frames", 16]["median_seconds"] is None
    assert len(runs) == 9
    for line in report["results"]:
        assert (line["kind"], line["value"]) == ("frames", 16) or (
            line["peak_bytes"] > line["step_bytes"] > 0 and line["mfu"] > 0
        )
    (growth,) = report["exponents"]
    points = [(found["frames", n]["tokens"], found["frames", n]["step_bytes"]) for n in (4, 8)]
    assert growth["memory"] == scaling.fit(points)
    printed = capsys.readouterr().out
    assert "training of ViViT-TINY, 4x32x32, 1 layer of 32, 1 clip(s), fp32" in printed
    assert "spatio_temporal, frames: time ~ tokens^" in printed


def test_fit() -> None:
    found = scaling.fit([(x, 3 * x**1.5) for x in (1, 2, 5)] + [(7, None)])
    assert found == {"exponent": pytest.approx(1.5), "factor": pytest.approx(3)}
    assert scaling.fit([(1, 2.0), (2, None)]) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--points", "depth"], "--points depth: with --phase training there are models, frames"),
        (["--phase", "inference", "--points", "token_drop"], "there are models, frames, side\n"),
        (["--points", "models=joint"], "--points models=joint: models are spatio_temporal"),
        (["--points", "frames=a"], "invalid literal for int"),
    ],
)
def test_points(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        scaling.parse(words)
    assert message in capsys.readouterr().err


def test_each_phase_has_its_points() -> None:
    assert list(scaling.parse(["--phase", "inference"]).points) == ["models", "frames", "side"]
    assert list(scaling.parse([]).points) == list(scaling.KINDS)


REPORT = {
    "settings": {"phase": "training", "layers": 1, "precision": "fp32"},
    "hardware": {"cpu": "a processor"},
    "results": [
        {
            "kind": "frames",
            "attention": "spatio_temporal",
            "tokens": tokens,
            "median_seconds": 0.001 * tokens,
            "step_bytes": 1000 * tokens,
        }
        for tokens in (784, 1568)
    ],
    "exponents": [
        {
            "kind": "frames",
            "attention": "spatio_temporal",
            "time": {"exponent": 1.0, "factor": 0.001},
            "memory": {"exponent": 1.0, "factor": 1000.0},
        }
    ],
}


def test_plots(tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image")
    scaling.draw(REPORT, tmp_path / "scaling.json")
    for what in ("time", "memory"):
        assert image.imread(tmp_path / f"scaling_{what}.png").std() > 0


def test_plots_need_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    scaling.draw(REPORT, tmp_path / "scaling.json")
    assert "no plots: they need matplotlib (pip install matplotlib)" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
