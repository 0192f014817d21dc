"""The loader benchmark runs and reports what it says; its times are nobody's business here."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from vivit_train.video.decode import VideoReader

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "loader.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_loader", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.HEIGHT, module.WIDTH = 64, 80
    return module


def test_report(benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "results" / "loader.json"
    arguments = ["--workers", "0", "1", "--seconds", "0.5", "--clips", "4", "--batch", "2"]
    arguments += ["--clip-frames", "4", "--repeats", "2", "--output", str(output)]
    report = benchmark.main(arguments)
    assert json.loads(output.read_text()) == report
    assert report["settings"] == {
        "clips": 4, "batch": 2, "clip_frames": 4, "frame_stride": 2, "repeats": 2,
        "videos": "generated, 0.5 s",
    }  # fmt: skip
    assert [line["workers"] for line in report["results"]] == [0, 1]
    for line in report["results"]:
        for who in ("loader", "loop"):
            assert len(line["seconds"][who]) == 2
            assert line["clips_per_second"][who] == pytest.approx(
                4 / (sum(line["seconds"][who]) / 2)
            )
        rates = line["clips_per_second"]
        assert line["ratio"] == pytest.approx(rates["loader"] / rates["loop"])
    assert "4 frames at stride 2, videos: generated, 0.5 s" in capsys.readouterr().out


def test_generated_videos_move(benchmark: ModuleType, tmp_path: Path) -> None:
    (first, second) = sorted(benchmark.write_videos(tmp_path, 0.2, count=2).iterdir())
    with VideoReader(first) as video:
        assert (video.num_frames, video.fps) == (6, 30)
        frames = video.read(range(6)).astype(float)
    assert abs(frames[0] - frames[5]).mean() > 3
    assert first.read_bytes() != second.read_bytes()


def test_clips_are_shared_evenly(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.parse(["--workers", "3", "--clips", "64"])
    assert "--clips 64 must be a multiple of 24 (--batch 8 x 3" in capsys.readouterr().err


def test_a_folder_without_videos(benchmark: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=f"no video under {tmp_path}"):
        benchmark.main(["--videos", str(tmp_path)])
