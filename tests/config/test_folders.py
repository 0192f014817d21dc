"""Configurations of one's own: found, checked as ours are, and never mixed up with ours."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from vivit_train.config import (
    complete_config,
    compose_config,
    config_dir_words,
    override_config,
    parse_overrides,
    to_plain,
    use_config_dir,
)
from vivit_train.errors import UserError


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Path]:
    """A folder whose path Hydra's grammar does not take as it is."""
    folder = tmp_path / "my (own), configs"
    yield folder
    use_config_dir(None)


def write(folder: Path, name: str, text: str) -> None:
    path = folder / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


EXPERIMENT = """# @package _global_
defaults:
  - override /model: wide
  - override /optim: adamw
  - _self_
optim: {lr: 0.25}
"""


def test_options_of_ones_own(mine: Path) -> None:
    write(mine, "experiment/night", EXPERIMENT)
    write(mine, "model/wide", "defaults: [vivit_s, _self_]\nname: wide\nmlp_size: 99\n")
    assert config_dir_words() == []
    use_config_dir(str(mine))
    assert config_dir_words() == ["--config-dir", str(mine)]
    config = compose_config(["experiment=night", "seed=3"])
    assert (config.optim.name, config.optim.lr, config.seed) == ("adamw", 0.25, 3)
    assert (config.model.mlp_size, config.model.hidden_size) == (99, 384)
    assert compose_config(["model=vivit_b"]).model.hidden_size == 768
    saved = compose_config(["model=vivit_b", "data=folder", "data.root=x"])
    assert override_config(saved, ["model=wide"]).model.mlp_size == 99
    use_config_dir(None)
    with pytest.raises(UserError, match="experiment=night: there is no such option"):
        compose_config(["experiment=night"])


@pytest.mark.parametrize(
    ("text", "word", "message"),
    [
        (EXPERIMENT, "experiment=nigth", "no such option; did you mean night"),
        (EXPERIMENT + "data: {batchsize: 2}", "experiment=night", "did you mean data.batch_size"),
        (EXPERIMENT + "optin: {lr: 2}", "experiment=night", "sets optin.lr, and there is no such"),
        (EXPERIMENT + "seed: x", "experiment=night", "seed=x: expected a whole number"),
        (EXPERIMENT.replace("wide", "wid"), "experiment=night", "wid"),
        ("optim: {lr: 2}", "experiment=night", "sets experiment.optim.lr"),  # without the package
    ],
)
def test_mistakes(text: str, word: str, message: str, mine: Path) -> None:
    write(mine, "model/wide", "defaults: [vivit_s, _self_]\nname: wide\n")
    write(mine, "experiment/night", text)
    use_config_dir(str(mine))
    with pytest.raises(UserError, match="^[^\n]*$") as error:
        compose_config([word])
    assert message in str(error.value)


def test_a_data_set_of_ones_own_may_have_keys_of_its_own(mine: Path) -> None:
    text = "defaults: [video, _self_]\n_target_: my.Set\nname: mine\nroot: x\ncameras: 3\n"
    write(mine, "data/mine", text)
    use_config_dir(str(mine))
    assert compose_config(["data=mine"]).data.cameras == 3
    write(mine, "data/mine", text.replace("my.Set", "vivit_train.data.folder.Folder"))
    with pytest.raises(UserError, match="sets data.cameras, and there is no such key"):
        compose_config(["data=mine"])


def test_folders_that_are_refused(mine: Path) -> None:
    write(mine, "experiments/night", "")
    for folder in (mine, mine / "nowhere"):
        with pytest.raises(UserError, match="expected a folder with yaml files in folders named"):
            use_config_dir(str(folder))
    write(mine, "model/vivit_b", "")
    with pytest.raises(UserError, match="model=vivit_b is one of our own; give .* another name"):
        use_config_dir(str(mine))
    assert config_dir_words() == []


def test_classes_beside_them_are_found_last(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = list(sys.path)
    write(mine, "model/wide", "defaults: [vivit_s, _self_]\nname: wide\n")
    use_config_dir(str(mine))
    assert sys.path == [*before, str(mine)]
    use_config_dir(None)
    assert sys.path == before


def test_callbacks_and_loggers_of_ones_own(mine: Path) -> None:
    part = "defaults: [default, _self_]\nextra: {mine: {_target_: my.Part, depth: 1}}\n"
    write(mine, "callbacks/mine", part)
    use_config_dir(str(mine))
    words = ["callbacks=mine", "callbacks.extra.mine.depth=2", "callbacks.extra.b._target_=b.B"]
    words += ["+logger.extra.c={_target_: c.C, tags: [x]}", "logger=tensorboard"]
    config = to_plain(compose_config(words))
    first = {"_target_": "my.Part", "depth": 2}
    assert config["callbacks"]["extra"] == {"mine": first, "b": {"_target_": "b.B"}}
    assert config["logger"]["extra"] == {"c": {"_target_": "c.C", "tags": ["x"]}}
    saved = OmegaConf.create(config)
    assert to_plain(complete_config(saved)) == config  # what an older version saved, and resumes
    assert to_plain(override_config(saved, ["callbacks.extra.b=null"]))["callbacks"]["extra"] == {
        "mine": first,
        "b": None,
    }
    assert parse_overrides(words)[1].input_line == "++callbacks.extra.mine.depth=2"  # for Hydra


@pytest.mark.parametrize(
    "word",
    ["callbacks.extra.x=3", "callbacks.extra.x.depth=3", "logger.extra=null", "logger.extra.x=[]"],
)
def test_parts_without_a_class(word: str) -> None:
    key = ".".join(word.split(".")[:2]).partition("=")[0]
    with pytest.raises(UserError, match=rf"^{key}=.*a mapping of names .* that have a _target_"):
        compose_config([word])
