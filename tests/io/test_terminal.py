import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import SMALL
from train import train
from vivit_train.__main__ import main
from vivit_train.config import compose_config
from vivit_train.errors import UserError
from vivit_train.io.terminal import csv_cell, json_text, printable, said_if_long, say
from vivit_train.launch.entry import errors_in_one_line

EVIL = "\x1b[2J\x1b]0;owned\x07 a\nb\r\x9b31m\u202eb\udce9"
SHOWN = r"\x1b[2J\x1b]0;owned\x07 a\nb\r\x9b31m\u202eb\udce9"


def test_what_does_harm_is_escaped() -> None:
    assert printable(EVIL) == SHOWN
    assert printable(Path("a\tb\x7f\u2028\U000e0041")) == r"a\tb\x7f\u2028\U000e0041"
    letters = "Füße 走る 🏃\u200d♀️ न्\u200dन [x] C:\\videos"
    assert printable(letters) == letters


@given(st.text(st.characters()))
def test_nothing_printed_has_control_characters(text: str) -> None:
    file = io.StringIO()
    say(text, file)
    assert file.getvalue().endswith("\n")
    assert not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in file.getvalue()[:-1])
    file.getvalue().encode()


def test_a_terminal_with_few_characters() -> None:
    buffer = io.BytesIO()
    terminal = io.TextIOWrapper(buffer, encoding="latin-1", write_through=True)
    say("é走", terminal)
    assert buffer.getvalue() == b"\xe9\\u8d70\n"


@given(st.recursive(st.text(st.characters()) | st.integers() | st.none(), st.lists))
def test_json_keeps_every_name(value: object) -> None:
    text = json_text(value)
    assert json.loads(text.encode()) == value
    assert all(printable(line) == line for line in text.split("\n"))


def test_a_spreadsheet_sees_no_formula() -> None:
    for text in ("=1+1", "+1", "-1", "@SUM(A1)"):
        assert csv_cell(text) == f"'{text}"
    assert csv_cell("\t=1") == r"\t=1"
    assert [csv_cell(value) for value in ("a=1", "", -1.5, None)] == ["a=1", "", -1.5, None]


def test_errors_are_escaped() -> None:
    with pytest.raises(SystemExit) as end, errors_in_one_line():
        raise UserError(f"no such video: {EVIL}")
    assert end.value.code == f"error: no such video: {SHOWN}"


@pytest.fixture(scope="module")
def odd(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo with classes and files of odd names, one of which does not decode."""
    root = tmp_path_factory.mktemp("odd") / "data"
    shutil.copytree(demo_root, root)
    classes = sorted(os.listdir(root / "train"))
    names = ["=1+1", "\x1b[31mred", "caf\udce9", "two\nlines"]
    for split in ("train", "val"):
        for old, new in zip(classes, names):
            os.rename(root / split / old, root / split / new)
        folder = root / split / "caf\udce9"
        os.rename(next(folder.iterdir()), folder / "-b\udce9\x1bc.mp4")
    (root / "val" / "=1+1" / "junk\udce9.mp4").write_bytes(b"junk")
    return root


# Where the tests run in several processes, warnings with such names cannot be sent between them.
@pytest.mark.filterwarnings("ignore")
def test_odd_names_go_all_the_way(
    odd: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training, its files, evaluation, prediction, export and check, with the same names."""
    settings = [word for word in SMALL if not word.startswith("data.train_per")]
    words = [word for word in settings if not word.startswith("data.val_per")]
    words += ["data=folder", f"data.root={odd}", "trainer.max_epochs=1"]
    run = train(compose_config([*words, f"run_dir={tmp_path / 'run'}"]))
    results = json.loads((run / "results.json").read_text())
    assert results["test_is_validation"] is True
    assert results["undecodable"] == ["val/=1+1/junk\udce9.mp4"]
    table = (run / "predictions.csv").read_text()
    assert r"val/caf\udce9/-b\udce9\x1bc.mp4,caf\udce9," in table
    assert "'=1+1" in table
    assert r"\x1b[31mred," in (run / "classes.csv").read_text()
    video = str(odd / "val/caf\udce9/-b\udce9\x1bc.mp4")
    commands = [
        ["predict", str(run), video, "--top-k", "8"],
        ["predict", str(run), video, "--top-k", "8", "--json"],
        ["evaluate", str(run), "--output", str(tmp_path / "evaluation")],
        ["export", str(run), "--format", "safetensors", "--output", str(tmp_path / "safe")],
        ["export", str(run), "--format", "huggingface", "--output", str(tmp_path / "hf")],
        ["predict", str(tmp_path / "safe"), video, "--top-k", "8", "--json"],
        ["check", "data=folder", f"data.root={odd}", "--output", str(tmp_path / "found.jsonl")],
        ["compare", str(run)],
    ]
    capfd.readouterr()
    said = {}
    for command in commands:
        with pytest.raises(SystemExit) as end:
            main(command)
        out, err = capfd.readouterr()
        assert end.value.code in (0, None) or command[0] == "check", err
        assert not set("\x1b\x07") & {*out, *err}, command
        assert "Traceback" not in err
        said[tuple(command[:1] + command[-1:])] = out
    assert r"\x1b[31mred" in said["predict", "8"]
    (predicted,) = json.loads(said["predict", "--json"])
    assert predicted["video"] == video
    assert {"caf\udce9", "two\nlines"} <= {row["class"] for row in predicted["classes"]}


def test_what_takes_long_is_said_while_it_is_done(capsys: pytest.CaptureFixture) -> None:
    with said_if_long("reading", seconds=60.0):
        pass
    assert capsys.readouterr().err == ""
    with said_if_long("reading", seconds=0.01):
        time.sleep(0.5)
        assert capsys.readouterr().err == "reading\n"


def test_what_takes_long_is_said_by_one_process(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with said_if_long("reading", seconds=0.01):
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_who_reads_has_enough() -> None:
    """As in `vivit predict ... | head`: no traceback, and the exit code of a shell's own tools."""
    code = "from vivit_train.io.terminal import say\nwhile True: say('line')"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "line\n"
    process.stdout.close()
    assert process.wait(60) == 128 + signal.SIGPIPE
    assert process.stderr.read() == ""
