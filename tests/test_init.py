"""The public names: `from vivit_train import ...`."""

import ast
import inspect

import pytest
import yaml

import vivit_train
from tests.conftest import REPOSITORY


def test_type_checkers_see_the_same_names() -> None:
    source = ast.parse(inspect.getsource(vivit_train))
    (block,) = (
        node
        for node in source.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == vivit_train._MODULES
    assert vivit_train.__all__ == sorted([*seen, "load"])


@pytest.mark.parametrize("name", vivit_train.__all__)
def test_each_name(name: str) -> None:
    found = getattr(vivit_train, name)
    assert getattr(vivit_train, name) is found
    assert name in dir(vivit_train)
    if name == "__version__":
        assert isinstance(found, str)
    else:
        assert found.__name__ == name
        assert found.__module__ == vivit_train._MODULES.get(name, "vivit_train")
        assert f"`{name}`" in str(vivit_train.__doc__)


def test_every_data_set_of_the_configurations_is_public() -> None:
    text = "\n".join(path.read_text() for path in (REPOSITORY / "configs/data").glob("*.yaml"))
    tokens = [token.value for token in yaml.scan(text) if isinstance(token, yaml.ScalarToken)]
    targets = {value for value in tokens if value.startswith("vivit_train.data.")}
    assert len(targets) >= 9
    assert {target.rpartition(".")[2] for target in targets} <= set(vivit_train.__all__)


def test_a_name_that_is_none() -> None:
    with pytest.raises(AttributeError, match="module 'vivit_train' has no attribute 'Clasifier'"):
        _ = vivit_train.Clasifier
    with pytest.raises(ImportError, match="cannot import name 'Clasifier'"):
        from vivit_train import Clasifier  # noqa: F401


def test_the_names_cost_nothing_before_they_are_used(command) -> None:
    code = """
import sys
before = set(sys.modules)
from vivit_train import load
load, dir(sys.modules["vivit_train"])
ours = [name for name in sys.modules if name.startswith("vivit_train")]
heavy = {"torch", "numpy", "lightning", "hydra", "omegaconf", "wandb", "torchmetrics", "av"}
print(ours, sorted(heavy & (sys.modules.keys() - before)))
from vivit_train import UserError
print(sorted(heavy & (sys.modules.keys() - before)))
"""
    done = command("-c", code)
    assert (done.stdout, done.stderr) == ("['vivit_train'] []\n[]\n", "")
