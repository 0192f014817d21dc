"""Words of a command line: flags anywhere, names and paths as they are written."""

import shlex
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivit_train.config import compose_config, override_config, to_plain
from vivit_train.config.keys import KEYS
from vivit_train.config.words import as_written, command_line, parse_overrides, values_of, word_of
from vivit_train.errors import UserError

ODD = [
    "/home/jürgen/clips", "/数据/视频", "/data/a=b", "/x/epoch=3-step=100.ckpt", "/data/a,b",
    "/data/My Videos (2024)", "/data/a[1]", "[x]", "{x}", "/data/a#b", "/data/R&D", "/data/it's",
    '/data/"q"', "2024", "1e3", "true", "nan", "/data/trailing ", " leading", "a\\", "a\\'b", "'",
    "/a: b", "s3://bucket/a*b?c", "choice(a,b)", "a\nb", "-1", "+x", "$HOME", "50%", "a\udcffb",
]  # fmt: skip
TEXT_KEYS = [key for key, kind in KEYS.items() if kind.is_text]


@pytest.mark.parametrize("name", ODD)
def test_a_path_is_taken_as_it_is_written(name: str) -> None:
    (override,) = parse_overrides([f"data.root={name}"])
    assert override.value() == name
    assert not override.is_sweep_override()


def test_paths_arrive_in_the_configuration() -> None:
    words = ["data=csv", "data.root=/数据/a=(1)", "run_dir=2024", "data.train_split=1"]
    words += ["model.pretrained=/w/it's", "name=1e3", "optim.freeze=embed.*"]
    for plain in (
        to_plain(compose_config(words)),
        to_plain(override_config(compose_config(["data=csv", "data.root=x"]), words[1:])),
    ):
        assert plain["data"]["root"] == "/数据/a=(1)"
        assert plain["data"]["train_split"] == "1"
        assert (plain["run_dir"], plain["name"]) == ("2024", "1e3")
        assert plain["model"]["pretrained"] == "/w/it's"
        assert plain["optim"]["freeze"] == "embed.*"


def test_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    words = ["data=csv", "data.root=~/videos", "run_dir=~/runs/1", "data.train_split=~/a.csv"]
    plain = to_plain(compose_config([*words, "model.pretrained=~/w.ckpt", "name=~me"]))
    assert plain["data"]["root"] == "/home/me/videos"
    assert plain["data"]["train_split"] == "/home/me/a.csv"
    assert plain["run_dir"] == "/home/me/runs/1"
    assert plain["model"]["pretrained"] == "/home/me/w.ckpt"
    assert plain["name"] == "~me"  # no path


@pytest.mark.parametrize("word", ["null", "none", "None", "NULL"])
def test_null_is_null_where_a_key_may_be(word: str) -> None:
    assert parse_overrides([f"model.pretrained={word}"])[0].value() is None
    assert parse_overrides([f"run_dir={word}"])[0].value() == word  # a folder of that name


def test_references_and_lists_keep_their_meaning() -> None:
    plain = to_plain(compose_config(["seed=7", "run_dir=runs/${name}/${seed}", "name=a b"]))
    assert plain["run_dir"] == "runs/a b/7"
    for word in ("augment.flip_labels=[[a,b]]", "augment.flip_labels={a: b}", "optim.freeze=[a,b]"):
        assert as_written([word]) == [word]
    assert as_written(["augment.flip_labels=pairs (1).yaml"]) != [
        "augment.flip_labels=pairs (1).yaml"
    ]


def test_quotes_for_hydra_still_work() -> None:
    for word, value in (
        ("data.root='/a=b'", "/a=b"),
        ('data.root="/a=b"', "/a=b"),
        (r"data.root='/it\'s'", "/it's"),
    ):
        assert parse_overrides([word])[0].value() == value
        assert as_written([word]) == [word]


def test_commas_separate_paths_in_a_sweep_only() -> None:
    word = "model.pretrained=/a=1/x.ckpt,/ü.ckpt,null"
    assert parse_overrides([word])[0].value() == word.partition("=")[2]
    assert values_of(parse_overrides([word], sweeps=True)[0]) == ["/a=1/x.ckpt", "/ü.ckpt", None]
    for word in ("data.root='a,b',c", "data.root=choice('a,b',c)"):
        assert values_of(parse_overrides([word], sweeps=True)[0]) == ["a,b", "c"]


@given(st.sampled_from(TEXT_KEYS), st.text(min_size=1))
@settings(max_examples=200, deadline=None)
def test_what_we_print_is_read_back(key: str, value: str) -> None:
    """Through a shell's quoting, Hydra's grammar and the references of its configurations."""
    from omegaconf import OmegaConf

    (word,) = shlex.split(shlex.quote(word_of(key, value)))
    once = as_written([word])
    assert as_written(once) == once
    (override,) = parse_overrides([word])
    assert OmegaConf.create({"value": override.value()})["value"] == value


def test_a_real_shell(tmp_path) -> None:
    """It hands on to `train.py` the very words that a message shows."""
    from vivit_train.runs.resume import resume_command

    for number, name in enumerate(n for n in ODD if "\udcff" not in n):
        checkpoint = tmp_path / str(number) / name.strip("/") / "last.ckpt"
        shown = resume_command(checkpoint).replace("python train.py", "printf %s", 1)
        done = subprocess.run(["sh", "-c", shown], capture_output=True, text=True, check=True)
        assert parse_overrides([done.stdout])[0].value() == str(checkpoint)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "optim.lr=1e-4,3e-4",
            "several values make a sweep, with a run for each: add -m to train.py",
        ),
        ("seed=range(1,4)", "add -m"),
        ("data.root='a','b'", "add -m"),
        ("~optim.lr", "keys can be set, not removed"),
        ("optim.lr", "not of the form KEY=VALUE"),
        ("=3", "not of the form KEY=VALUE"),
        ("optim.lr=(1", "cannot be read"),
        ("optim.lr=1=2", "cannot be read"),
        ("ünder.lr=2", "cannot be read"),
    ],
)
def test_refused(word: str, message: str) -> None:
    with pytest.raises(UserError, match="^[^\n]*$") as error:
        parse_overrides([word])
    assert message in str(error.value)
    assert word in str(error.value)


def test_flags_stand_anywhere() -> None:
    call = command_line(["data=folder", "--cfg", "job", "data.root=/a b", "--resolve", "seed=3"])
    assert call.flags == ["--cfg", "job", "--resolve"]
    assert call.words == ["data=folder", "data.root='/a b'", "seed=3"]
    assert call.composes
    assert not call.is_sweep
    call = command_line(["optim.lr=1,2", "-m", "data.root=a,b"])
    assert call == (["-m"], ["optim.lr=1,2", "data.root='a','b'"], True, True, None)
    for flag in (["--config-dir", "job"], ["--config-dir=job"], ["-cd", "job"]):
        call = command_line(["seed=1", "--cfg", "job", *flag, "-m"])
        assert call == (["--cfg", "job", "-m"], ["seed=1"], True, True, "job")
    assert not command_line(["--config-path", "/r", "--config-name", "config"]).composes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fast"], "unrecognized arguments: --fast; python train.py --help"),
        (["--cfg", "x"], "invalid choice"),
        (["--cfg"], "expected one argument"),
        (["--experimental-rerun", "x.pickle"], "ckpt_path"),
        (["--config-name", "mine", "+optim.lrr=1"], "+optim.lrr=1: no key can be added"),
    ],
)
def test_flags_that_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match="^[^\n]*$") as error:
        command_line(arguments)
    assert message in str(error.value)
