import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vivit_train.__main__ import main
from vivit_train.errors import UserError
from vivit_train.runs.comparison import read_runs


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three runs: a finished, a better one, and one in its third epoch."""
    write(tmp_path / "a", lr=0.1, top1=0.5)
    write(tmp_path / "b", lr=0.2, top1=0.75)
    write(tmp_path / "c", lr=0.3)
    (tmp_path / "c/metrics.csv").write_text(
        "epoch,step,train/loss,val/top1,val/top5\n0,7,2.0,0.25,0.5\n1,15,1.0,0.625,0.75\n"
        "2,20,0.5,,\n2,21,0."  # being written
    )
    return tmp_path


def write(folder: Path, lr: float, top1: float | None = None, **results: Any) -> None:
    folder.mkdir()
    (folder / "config.yaml").write_text(
        f"run_dir: {folder}\nname: n{lr}\nseed: 0\noptim: {{lr: {lr}, momentum: 0.9}}\n"
        "trainer: {max_epochs: 30}\n"
    )
    if top1 is not None:
        scores = {"top1": top1, "top5": 1.0, "mean_class_accuracy": 1 - top1, "num_videos": 16}
        scores |= {"split_fingerprint": "f00d", "verb_top1": 0.125, "versions": {}, **results}
        (folder / "results.json").write_text(json.dumps(scores))


@pytest.fixture
def compare(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[list[list[str]], str]]:
    """Runs the verb; the words of each line that it prints, and its warnings."""

    def run(*words: str | Path) -> tuple[list[list[str]], str]:
        with pytest.raises(SystemExit) as end:
            main(["compare", *map(str, words)])
        assert end.value.code == 0, end.value.code
        captured = capsys.readouterr()
        return [line.split() for line in captured.out.splitlines()], captured.err

    return run


def test_a_run_without_a_test(runs: Path, compare) -> None:
    """And one whose test was of a part: the number is that of the videos that were scored."""
    write(runs / "d", lr=0.4, top1=0.9, num_videos_scored=8, split_fingerprint="beef")
    lines, warnings = compare(runs / "a", runs / "d")
    assert "these scores cannot be compared" in warnings
    assert "8" in lines[1]
    untested = {"num_videos": 16, "num_videos_scored": 0, "split_fingerprint": None}
    (runs / "d" / "results.json").write_text(json.dumps(untested))
    lines, warnings = compare(runs / "a", runs / "d")
    assert warnings == ""
    assert [line[-2:] for line in lines[1:]] == [["16", "finished"], ["0", "finished"]]


def test_table(runs: Path, compare) -> None:
    lines, warnings = compare(runs / "a", runs / "b", runs / "c")
    scores = ["top1", "top5", "mean_class_accuracy", "verb_top1"]
    note = "* score of the last validation: the run has not been tested yet"
    assert lines == [
        ["run", "optim.lr", *scores, "num_videos", "state"],
        [f"{runs}/b", "0.2", "0.7500", "1.0000", "0.2500", "0.1250", "16", "finished"],
        [f"{runs}/c", "0.3", "0.6250*", "0.7500*", "epoch", "3", "of", "30"],
        [f"{runs}/a", "0.1", "0.5000", "1.0000", "0.5000", "0.1250", "16", "finished"],
        note.split(),
    ]
    assert warnings == ""


def test_a_folder_of_runs(runs: Path, compare) -> None:
    (runs / "notes").mkdir()
    assert compare(runs, runs / "a") == compare(runs / "a", runs / "b", runs / "c")


@pytest.mark.parametrize("kind", ["csv", "json", "png"])
def test_a_full_disk_is_told_with_the_file(
    kind: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / f"table.{kind}"
    table.symlink_to("/dev/full")
    with pytest.raises(SystemExit) as end:
        main(["compare", str(runs), f"--{kind}", str(table)])
    assert end.value.code == 74
    said = capsys.readouterr().err
    assert said.startswith(f"error: {table} could not be written: No space left on device. Make")


def test_another_score(runs: Path, compare) -> None:
    lines, _ = compare(runs / "b", runs / "a", "--sort", "mean_class_accuracy")
    assert [line[0][-1] for line in lines[1:]] == ["a", "b"]


def test_scores_of_different_videos_do_not_compare(runs: Path, compare) -> None:
    write(runs / "d", lr=0.1, top1=0.9, split_fingerprint="beef", num_videos=17)
    _, warnings = compare(runs)
    assert "warning: these scores cannot be compared, they are of different videos" in warnings
    assert f"{runs}/a: 16 (f00d); {runs}/d: 17 (beef)" in warnings


def test_files(runs: Path, compare, tmp_path: Path) -> None:
    out = tmp_path / "tables"
    compare(runs, "--csv", out / "t.csv", "--json", out / "t.json", "--png", out / "t.png")
    with (out / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], row["top1"]) for row in rows] == [
        (f"{runs}/b", "0.75"), (f"{runs}/c", "0.625"), (f"{runs}/a", "0.5"),
    ]  # fmt: skip
    content = json.loads((out / "t.json").read_text())
    assert content["warnings"] == []
    assert content["runs"][1]["num_videos"] is None
    assert [row["optim.lr"] for row in content["runs"]] == [0.2, 0.3, 0.1]
    with Image.open(out / "t.png") as image:
        line_px = (image.height - 8) // 4
        lines = [
            image.convert("RGB").crop((0, y, image.width, y + 1))
            for y in (line_px * line + 6 for line in (1, 2, 3))
        ]
    # The bars behind the scores, as long as they are high.
    bars = [list(line.get_flattened_data()).count((190, 215, 240)) for line in lines]
    assert bars[0] > bars[1] > bars[2] > 0


def test_trials_of_a_sweep(runs: Path, compare) -> None:
    """What the sweep chose, and no more: a model's name changes a dozen values."""
    for number, error in enumerate([None, "out of memory (exit code 1)"]):
        folder = runs / "sweep" / str(number)
        folder.mkdir(parents=True)
        trial = {"overrides": [], "varied": [f"model=vivit_{number}"], "error": error}
        (folder / "trial.json").write_text(json.dumps({**trial, "pruned": False}))
    lines, _ = compare(runs / "sweep")
    assert lines[0] == ["run", "model", "num_videos", "state"]
    assert lines[1][1:] == ["vivit_0", "not", "started"]
    assert lines[2][1:] == ["vivit_1", "failed:", *["out", "of", "memory", "(exit", "code", "1)"]]


def test_a_run_as_train_py_writes_it(finished_run: Path, compare) -> None:
    lines, _ = compare(finished_run)
    assert lines[1][-1] == "finished"
    results = json.loads((finished_run / "results.json").read_text())
    assert lines[1][1] == f"{results['top1']:.4f}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["empty"], "empty is neither a run nor holds one: expected results.json or config.yaml"),
        (["a", "--sort", "f1"], "--sort f1: no run has that score; there are top1, top5"),
    ],
)
def test_mistakes(words, message, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    (runs / "empty").mkdir()
    with pytest.raises(SystemExit, match=message):
        main(["compare", *words])


def test_runs_are_found_in_the_layout_that_they_have_by_default(tmp_path: Path, compare) -> None:
    """``runs/<name>/<date>``, and sweeps beside them; not what lies inside of a run."""
    places = ["demo/2026-01-01", "demo/2026-01-02", "k400/2026-01-03", "sweeps/2026-01-04/0"]
    for number, place in enumerate((*places, "demo/2026-01-01/inner", "demo/.hidden")):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / place, lr=0.1 * (number + 1), top1=0.1 * (9 - number))
    lines, _ = compare(tmp_path)
    assert [line[0] for line in lines[1:5]] == [f"{tmp_path}/{place}" for place in places]
    assert len(lines) == 5


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (name, text)
        for name in ("config.yaml", "results.json", "trial.json")
        for text in ("", "{", "[1]", "3", "[" * 1500, '{"num_videos": "x"}', "a: !!python/name:os")
    ]
    + [
        ("metrics.csv", text)
        for text in ("a,b\n1,2\n", "epoch,step\nx,1\n", "epoch,step,val/top1\n1,1,x\n")
    ],
)
def test_files_of_a_run_that_are_something_else(name: str, text: str, tmp_path: Path) -> None:
    """One line, or a run of which less is known."""
    (tmp_path / "config.yaml").write_text("trainer: {max_epochs: 3}\n")
    (tmp_path / name).write_text(text)
    try:
        read_runs([tmp_path])
    except UserError as error:
        told = str(error)
    else:
        told = name if name == "config.yaml" else ""
    assert name in told
    assert "\n" not in told
