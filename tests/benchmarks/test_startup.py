"""The start-up benchmark runs and reports what it says; its times are nobody's business here."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from vivit_train.runs.metrics_csv import MetricsFile

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "startup.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_startup", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_report(benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "results" / "startup.json"
    arguments = ["--cases", "vivit", "typo", "--repeats", "2", "--output", str(output)]
    report = benchmark.main(arguments)
    assert json.loads(output.read_text()) == report
    assert list(report["results"]) == ["vivit", "typo"]
    for result in report["results"].values():
        assert result["median"] == pytest.approx(sum(result["seconds"]) / 2)
    assert report["import_seconds"] == {}
    shown = capsys.readouterr().out
    assert "vivit --help" in shown
    assert "train.py modle=vivit_b" in shown


def test_a_step_is_seen_in_the_rows_of_a_run(benchmark: ModuleType, tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.csv")
    assert not benchmark.has_step(metrics.path, 0)
    metrics.add({"val/loss": 1.0, "epoch": 0}, 0)
    metrics.add({"train/loss": 2.0, "epoch": 0}, 1)
    metrics.save()
    assert benchmark.has_step(metrics.path, 1)
    assert not benchmark.has_step(metrics.path, 2)
    metrics.path.write_text(metrics.path.read_text().rstrip("\n"))  # a row being written
    assert not benchmark.has_step(metrics.path, 1)


def test_a_run_is_ended_at_its_sign(benchmark: ModuleType, tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    program = f"import time; open({str(sign)!r}, 'w').close(); time.sleep(600)"
    assert 0 < benchmark.until(["-c", program], sign.exists, None) < 600
    with pytest.raises(SystemExit, match=r"ended:\nno such thing"):
        benchmark.until(["-c", "print('no such thing')"], lambda: False, None)
    with pytest.raises(SystemExit, match="ended with 0"):
        benchmark.finish(["-c", ""], exit_code=1)


def test_imports_are_added_up_by_package(benchmark: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "imports.txt"
    log.write_text(
        "import time: self [us] | cumulative | imported package\n"
        "import time:    100000 |     100000 |   torch._C\n"
        "import time:    200000 |     300000 | torch\n"
        "import time:     50000 |      50000 | av\n"
        "a warning\n"
    )
    assert benchmark.own_seconds(log) == {"torch": pytest.approx(0.3), "av": pytest.approx(0.05)}
