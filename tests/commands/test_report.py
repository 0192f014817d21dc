"""`vivit report`: the page of runs."""

import shutil
from pathlib import Path

import pytest

from tests.report.runs import write_run
from vivit_train.__main__ import main


def report(*words: object) -> None:
    with pytest.raises(SystemExit) as end:
        main(["report", *map(str, words)])
    assert end.value.code == 0


def test_the_page_of_a_run_has_film_strips(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    written = (finished_run / "report.html").read_text()
    assert "data:image/jpeg;base64," in written
    report(finished_run, "--output", tmp_path / "page.html")
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == written


def test_without_the_videos_there_are_no_strips(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "run"
    write_run(run, words=["data=folder", f"data.root={tmp_path / 'gone'}"])
    report(run)
    assert f"no film strips: data.root={tmp_path / 'gone'} is not" in capsys.readouterr().err
    assert "data:image" not in (run / "report.html").read_text()


def test_several_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name in "ab":
        write_run(tmp_path / name)
        (tmp_path / name / "config.yaml").unlink()
    monkeypatch.chdir(tmp_path)
    report("a", "b")
    assert capsys.readouterr().out.splitlines()[-1] == "report.html"
    assert "2 runs side by side" in Path("report.html").read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nothing"], "nothing is not the folder of a run or an evaluation: expected results.json"),
        (["run", "--output", "folder"], "--output=folder is a folder: give the file, folder/rep"),
    ],
)
def test_what_is_refused(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SystemExit) as end:
        main(["report", *words])
    assert told in str(end.value.code)


def test_a_page_that_cannot_be_written_costs_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from vivit_train.report.page import page_of_test

    write_run(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "report.html", ignore_errors=True)
    (tmp_path / "run" / "report.html").mkdir()
    page_of_test(tmp_path / "run", None)
    assert "warning: no report was written: " in capsys.readouterr().err
