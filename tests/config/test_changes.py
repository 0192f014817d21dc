"""Every key of the configuration has one rule for resumed runs, in the code and in the docs."""

from collections import Counter
from fnmatch import fnmatchcase

import pytest

from tests.conftest import REPOSITORY
from vivit_train.config import keys
from vivit_train.config.changes import RULES, Outcome, check_changes, differences, rule_of
from vivit_train.errors import UserError

# A saved configuration has no part `hydra`: overrides of it are no keys of the run.
KEYS = sorted(key for key in keys.KEYS if not key.startswith("hydra."))


def test_every_key_is_decided_once() -> None:
    patterns = [pattern for rule in RULES for pattern in rule.keys.split()]
    assert [pattern for pattern, times in Counter(patterns).items() if times > 1] == []
    undecided = [key for key in KEYS if not any(fnmatchcase(key, p) for p in patterns)]
    assert undecided == [], "say in vivit_train/config/changes.py what a resumed run does with them"
    without_a_key = [p for p in patterns if not any(fnmatchcase(key, p) for key in KEYS)]
    assert without_a_key == []


@pytest.mark.parametrize("key", KEYS)
def test_a_change_happens_or_is_refused(key: str) -> None:
    group, _, name = key.partition(".")
    changes = differences({group: {name: 1}}, {group: {name: 2}}) if name else {key: f"{key}: 1"}
    rule = rule_of(key)
    if rule.outcome is Outcome.REFUSED:
        with pytest.raises(UserError) as caught:
            check_changes(changes, "the run")
        assert key in str(caught.value)
        assert rule.text in str(caught.value)
    else:
        check_changes(changes, "the run")


def test_the_more_specific_rule_counts() -> None:
    assert "number of videos" in rule_of("augment.repeats").text
    assert rule_of("augment.hue").keys == "augment.*"


def test_keys_that_are_not_ours() -> None:
    assert rule_of("data.threshold").outcome is Outcome.USED  # of a data set of one's own
    assert rule_of("trainer.overfit_batches").outcome is Outcome.REFUSED


def test_differences() -> None:
    before = {"optim": {"lr": 0.1, "name": "sgd"}, "seed": 0, "gone": 1, "run_dir": "a"}
    now = {"optim": {"lr": 0.2, "name": "sgd"}, "seed": 0, "new": None, "run_dir": "b"}
    changes = {"optim.lr": "optim.lr: 0.1 -> 0.2", "gone": "gone: 1 -> None"}
    assert differences(before, now) == changes
    logged = differences({"logger": {"wandb": None}}, {"logger": {"wandb": {"project": "x"}}})
    assert list(logged) == ["logger.wandb.project"]


def test_the_documentation_has_the_same_table() -> None:
    text = (REPOSITORY / "docs" / "runs.md").read_text()
    for rule in RULES:
        keys = ", ".join(f"`{key}`" for key in rule.keys.split())
        assert f"| {keys} | {rule} |" in text
