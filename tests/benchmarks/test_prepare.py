"""The benchmark of prepared copies runs and reports what it says."""

import argparse
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from vivit_train.commands import prepare
from vivit_train.video.decode import VideoReader

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "prepare.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_prepare", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.SIZES = {"720p": (48, 64)}
    return module


def test_report(benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "results" / "prepare.json"
    arguments = ["--sizes", "720p", "--seconds", "1", "--clips", "2", "--keyframe-intervals", "4"]
    report = benchmark.main([*arguments, "--output", str(output)])
    assert json.loads(output.read_text()) == report
    assert report.keys() == {"date", "versions", "hardware", "settings", "results"}
    (result,) = report["results"]
    assert result["video"] == "720p.mp4"
    names = [variant["name"] for variant in result["variants"]]
    assert names == ["original", "prepared, 16", "prepared, 4"]
    for variant in result["variants"]:
        assert len(variant["seconds"]) == 2
        assert variant["megabytes"] > 0
        assert variant["clips_per_second"] > 0
    assert result["variants"][0]["speed_ratio"] == 1
    assert "720p.mp4 prepared, 16" in capsys.readouterr().out


def test_videos_that_are_given(benchmark: ModuleType, tmp_path: Path) -> None:
    (video,) = benchmark.make_videos(tmp_path, ["720p"], 0.5)
    with VideoReader(video) as reader:
        assert (reader.num_frames, reader.fps) == (15, 30)
    arguments = ["--videos", str(video), "--clips", "1", "--keyframe-intervals"]
    report = benchmark.main([*arguments, "--output", str(tmp_path / "out.json")])
    assert [result["video"] for result in report["results"]] == ["720p.mp4"]


def test_it_measures_the_defaults_of_the_command(benchmark: ModuleType) -> None:
    parser = argparse.ArgumentParser()
    prepare.add_arguments(parser)
    defaults = parser.parse_args(["--output", "x"])
    assert benchmark.DEFAULT._asdict().items() <= vars(defaults).items()
