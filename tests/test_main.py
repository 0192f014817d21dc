"""The command line of `vivit`: options stand anywhere, and mistakes take one line."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from vivit_train import __main__
from vivit_train.config import compose_config, program, use_config_dir
from vivit_train.errors import UserError
from vivit_train.runs.trial import Trial


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch):
    """What a verb's ``run`` gets from a command line."""

    def parse(*words: str) -> argparse.Namespace:
        calls: list[argparse.Namespace] = []
        module = f"vivit_train.commands.{words[0].replace('-', '_')}"
        monkeypatch.setattr(f"{module}.run", lambda arguments: calls.append(arguments) or 0)
        monkeypatch.setattr(__main__, "check_used", lambda *_: None)
        with pytest.raises(SystemExit) as end:
            __main__.main(words)
        assert end.value.code == 0
        return calls[0]

    return parse


def test_options_stand_between_words(parsed) -> None:
    got = parsed("describe", "model=x", "--num-classes", "174", "trainer.accelerator=gpu", "--json")
    assert got.overrides == ["model=x", "trainer.accelerator=gpu"]
    assert (got.num_classes, got.json) == (174, True)
    got = parsed("evaluate", "--output", "out", "RUN", "seed=1", "--output", "other", "name=x")
    assert (got.checkpoint, got.overrides) == ("RUN", ["seed=1", "name=x"])
    assert str(got.output) == "other"
    got = parsed("predict", "a=b.ckpt", "--top-k", "2", "c=(1).mp4", "--json", "d.mp4")
    assert (got.checkpoint, got.videos) == ("a=b.ckpt", ["c=(1).mp4", "d.mp4"])
    got = parsed("check", "data=csv", "--quick", "--", "-odd=1")
    assert got.overrides == ["data=csv", "-odd=1"]


@pytest.mark.parametrize("verb", __main__.VERBS)
def test_every_verb_takes_its_options_last(verb: str, parsed) -> None:
    needed = {
        "compare": ["RUN"], "completion": ["bash"], "evaluate": ["RUN"],
        "explain": ["RUN", "clip.mp4"], "predict": ["RUN", "clip.mp4"], "demo": ["RUN"],
        "export": ["RUN", "--format", "onnx", "--output", "x"], "prepare": ["--output", "x"],
        "features": ["RUN"], "report": ["RUN"], "publish": ["RUN", "owner/name"],
        "show-batch": ["--output", "x"],
    }  # fmt: skip
    assert parsed(verb, *needed.get(verb, []))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["describe", "seed=1", "-m"], "unrecognized arguments: -m; see vivit describe --help"),
        (["describe", "-m\udcff\n"], r"unrecognized arguments: -m\udcff\n; see vivit"),  # no UTF-8
        (["describe", "--num-classes", "x"], "invalid int value: 'x'"),
        (["prepare"], "--output"),
        (["predict"], "checkpoint"),
        (["nothing"], "invalid choice: 'nothing'"),
        ([], "VERB"),
    ],
)
def test_mistakes_take_one_line(words, message, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        __main__.main(words)
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert message in told
    assert told.count("\n") == 1


def test_help_shows_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        __main__.main(["--help"])
    assert end.value.code == 0
    told = capsys.readouterr().out
    assert all(verb in told for verb in ("show-batch", "predict"))


def test_home_in_paths(parsed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no shell expands it, behind an equals sign or in quotes."""
    monkeypatch.setenv("HOME", "/home/me")
    assert str(parsed("evaluate", "RUN", "--output=~/x").output) == "/home/me/x"
    assert str(parsed("compare", "~/runs", "--csv=~/t.csv").csv) == "/home/me/t.csv"
    assert str(parsed("predict", "RUN", "a.mp4", "--csv=~/t.csv").csv) == "/home/me/t.csv"


def test_train_hands_on_every_word(parsed) -> None:
    words = ["--cfg", "job", "seed=1", "--help", "-m", "--version", "--", "x"]
    assert parsed("train", *words).words == words


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Path]:
    """A folder for --config-dir, with a model."""
    folder = tmp_path / "my (own), configs"
    (folder / "model").mkdir(parents=True)
    (folder / "model/wide.yaml").write_text("defaults: [vivit_s, _self_]\nmlp_size: 99")
    yield folder
    use_config_dir(None)


def test_train_is_train_py(
    mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its arguments, its configurations and one's own, and its name in a message."""
    monkeypatch.setattr(sys, "argv", ["vivit", "train", "seed=3"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # which train.py sets
    words = ["--cfg", "job", "--package", "model", "model=wide", "--config-dir", str(mine)]
    with pytest.raises(SystemExit) as end:
        __main__.main(["train", *words])
    assert end.value.code == 0
    told = capsys.readouterr().out
    assert "hidden_size: 384" in told
    assert "mlp_size: 99" in told
    assert sys.argv[0] == str(REPOSITORY / "train.py")  # what starts a run's other processes
    with pytest.raises(SystemExit, match="python train.py --help"):
        __main__.main(["train", "--fast"])


def test_verbs_that_compose_take_configurations_of_ones_own(parsed, mine: Path) -> None:
    parsed("describe", "model=wide", "--config-dir", str(mine))
    assert compose_config(["model=wide"]).model.mlp_size == 99
    assert Trial(mine, ["model=wide"], []).command()[3:6] == [
        *("--config-dir", str(mine)),
        "model=wide",
    ]
    parsed("describe", "model=vivit_b")
    with pytest.raises(UserError, match="model=wide: there is no such option"):
        compose_config(["model=wide"])


def test_the_program_is_called_by_a_name_that_works_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert program() == "python train.py"
    monkeypatch.chdir(tmp_path)
    assert program() == "vivit train"
    (tmp_path / "train.py").touch()  # somebody else's
    assert program() == "vivit train"


def test_version(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(__main__, "version_and_commit", lambda: "1.2+gabc")
    with pytest.raises(SystemExit) as end:
        __main__.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == "vivit-train 1.2+gabc\n"
