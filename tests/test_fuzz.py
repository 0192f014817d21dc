"""The fuzz of command lines and files: `python -m tests.fuzz`."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz.sandbox import Case, outside, run


def test_every_case_has_an_answer(command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """A short run; the longer one is for whoever changes what is read from outside."""
    words = ("--commands=20", "--files=20", "--seed=1", "--jobs=1")
    done = command("-m", "tests.fuzz", *words, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("40 cases")


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["compare", "missing"], ""),
        (["--exit"], "exit code 77"),
        (["--traceback"], "traceback"),
        (["--stranger"], "wrote outside: stranger.txt"),
        (["--child"], "1 processes left running"),
        (["--killed"], "died of SIGUSR2"),
        (["--silent"], "failed without an error message"),
    ],
)
def test_the_sandbox_sees_each_fault(
    words: list[str], fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import signal

    from vivit_train import __main__ as program

    def faulty() -> None:
        if words == ["--exit"]:
            raise SystemExit(77)
        if words == ["--traceback"]:
            raise KeyError("x")
        if words == ["--stranger"]:
            Path("../stranger.txt").write_text("x")
        elif words == ["--child"]:
            subprocess.Popen(["sleep", "30"])
        elif words == ["--killed"]:
            os.kill(os.getpid(), signal.SIGUSR2)
        elif words == ["--silent"]:
            raise SystemExit(1)

    if words[0].startswith("--"):
        monkeypatch.setattr(program, "main", faulty)
    (tmp_path / "sandbox").mkdir()
    outcome = run(Case("vivit", words), tmp_path / "sandbox")
    expected = (fault,) if fault else ()
    assert [f for f in outcome.faults if f in expected] == list(expected)
    assert bool(outcome.faults) == bool(expected)


@pytest.mark.parametrize(
    ("words", "strangers"),
    [
        (["run_dir=~"], "work/x"),
        (["run_dir=~/b"], "home/a, work/x"),
        (["prepare", "--output", "~"], "work/x"),
        (["compare", "--json", "x"], "home/a"),
        (["compare", "--sort", "x"], "home/a, work/x"),
    ],
)
def test_a_file_that_was_asked_for_is_not_outside(words: list[str], strangers: str) -> None:
    after = {"home/a": (1, 1), "work/x": (1, 1)}
    assert outside({}, after, Case("train.py", words)) == [f"wrote outside: {strangers}"]


@pytest.mark.parametrize(
    ("told", "faults"),
    [('{"video": "x", "error": "no such file"}', ()), ("{}", ("failed without an error message",))],
)
def test_an_error_may_be_told_in_json(
    told: str, faults: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vivit_train import __main__ as program

    def fails() -> None:
        print(told)
        raise SystemExit(1)

    monkeypatch.setattr(program, "main", fails)
    (tmp_path / "sandbox").mkdir()
    assert run(Case("vivit", ["predict"]), tmp_path / "sandbox").faults == faults
