"""Classes by name; those of data sets are in tests/data/test_target.py."""

from pathlib import Path

import pytest

from vivit_train.config.target import build_named, named_class
from vivit_train.errors import UserError


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_module_that_is_not_found_says_how_it_would_be() -> None:
    for target, missing in (("nowhere.Set", "nowhere"), ("nowhere.at.all.Set", "nowhere")):
        with pytest.raises(UserError) as caught:
            named_class("data._target_", target, dict, "a data set")
        told = str(caught.value)
        assert f"data._target_={target} cannot be imported: No module named '{missing}'" in told
        assert "--config-dir" in told
        assert "PYTHONPATH=FOLDER" in told


def test_what_a_module_needs_is_told_from_the_module(mine: Path) -> None:
    (mine / "my_part.py").write_text("import my_missing_dependency\n")
    with pytest.raises(UserError, match="'my_missing_dependency'. my_part needs it: install it$"):
        named_class("callbacks.extra.x._target_", "my_part.Part", dict, "a callback")


def test_arguments_are_handed_on_and_nothing_in_them_is_a_class(mine: Path) -> None:
    (mine / "my_dict.py").write_text("class Mine(dict): ...\n")
    inner = {"_target_": "os.system", "command": "false"}
    built = build_named("callbacks.extra.x", {"_target_": "my_dict.Mine", "a": inner}, dict, "one")
    assert built == {"a": inner}
    with pytest.raises(UserError, match=r"^callbacks\.extra\.x: fractions\.Fraction cannot be bui"):
        build_named("callbacks.extra.x", {"_target_": "fractions.Fraction", "b": 1}, object, "one")
