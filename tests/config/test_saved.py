"""A saved configuration may be a stranger's: nothing in it is evaluated or imported."""

import copy
import random
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from vivit_train.config import (
    complete_config,
    compose_config,
    override_config,
    read_saved,
    saved_config,
    to_plain,
)
from vivit_train.errors import UserError


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return to_plain(compose_config(["data=demo"]))


@pytest.fixture
def write(tmp_path: Path):
    def write(content: Any) -> Path:
        text = content if isinstance(content, str) else OmegaConf.to_yaml(OmegaConf.create(content))
        (tmp_path / "config.yaml").write_text(text)
        return tmp_path / "config.yaml"

    return write


def test_what_a_run_saves_comes_back(plain: dict[str, Any], write) -> None:
    assert to_plain(complete_config(read_saved(write(plain)))) == plain


BILLION = "a: &a [x, x]\nb: &b [*a, *a]\n" + "".join(
    f"c{i}: &c{i} [*{'b' if i == 0 else f'c{i - 1}'}, *b]\n" for i in range(40)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a run's configuration, or not a whole one: optim.name, data._target_"),
        ("- a\n- b\n", "is not a run's configuration"),
        ("just words", "is"),
        ("3", "is"),
        ("null", "is"),
        ("optim: {name: adamw", "cannot be read as a run's configuration: .*expected"),
        ("a: !!python/object/apply:os.system ['touch x']", "cannot be read .*could not determine"),
        ("a: !!python/name:os.system", "cannot be read .*could not determine"),
        ("1: x", "the key 1 is not text"),
        (BILLION, "it has YAML aliases"),
        ("a: &a [*a]", "it has YAML aliases"),
        ("[" * 500_000, "cannot be read as a run's configuration: it has more than 20 levels"),
        ("- " * 500_000, "cannot be read as a run's configuration: it has more than 20 levels"),
        ("\x00", "cannot be read"),
        ("x: " + "y" * 2**21, "larger than 1,048,576 bytes"),
        ("optim: {name: adamw}\ndata: 3", "data, data._target_ is missing or something else"),
        ("optim: {name: adamw}\ndata: {_target_: [os]}", "data._target_ is missing or something"),
    ],
    ids=range(17),
)
def test_a_file_that_is_none_is_one_line(text: str, message: str, write) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_saved(write(text))
    assert "\n" not in str(caught.value)
    assert "config.yaml" in str(caught.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as a run's configuration"):
        read_saved(tmp_path / "config.yaml")


@pytest.mark.parametrize("value", ["${oc.env:SECRET}", "a ${seed}", "${now:%Y}", "???"])
def test_nothing_is_evaluated(value: str, plain: dict[str, Any], write, monkeypatch) -> None:
    monkeypatch.setenv("SECRET", "password")
    content = plain | {"data": plain["data"] | {"root": value}}
    path = write(content)
    for read in (lambda: read_saved(path), lambda: saved_config(content, "best.ckpt")):
        with pytest.raises(UserError, match="would have to be evaluated") as caught:
            read()
        assert "password" not in str(caught.value)


def test_a_class_from_outside_is_imported_only_when_the_command_names_it(
    plain: dict[str, Any],
) -> None:
    content = plain | {"data": plain["data"] | {"_target_": "evil.Thing"}}
    config = complete_config(saved_config(content, "best.ckpt"))
    with pytest.raises(UserError, match=r"class evil\.Thing, outside of .* data\._target_=evil"):
        override_config(config, ["data.batch_size=2"])
    assert override_config(config, ["data._target_=evil.Thing"]).data._target_ == "evil.Thing"
    words = ["data=folder", "data.root=x"]
    assert override_config(config, words).data._target_ == "vivit_train.data.folder.Folder"


def test_any_change_is_a_configuration_or_one_line(plain: dict[str, Any]) -> None:
    odd = [None, 0, -1, 1.5, 10**30, float("nan"), True, "", "x", [], [1, "x"], {}, {"x": 1},
           {1: 2}, "${seed}", "???", object(), (1,)]  # fmt: skip
    refusals = []
    for seed in range(40):
        rng, content = random.Random(seed), copy.deepcopy(plain)
        group = rng.choice(list(content))
        part = content[group] if isinstance(content[group], dict) else content
        key = rng.choice(list(part))
        if seed % 8 == 0:
            del part[key]
        else:
            part[key] = rng.choice(odd)
        try:
            config = complete_config(saved_config(content, "best.ckpt"))
            to_plain(override_config(config, []))
        except UserError as error:
            refusals.append(str(error))
    assert 0 < len(refusals) < 40
    assert not [told for told in refusals if "\n" in told]
