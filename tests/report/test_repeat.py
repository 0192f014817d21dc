"""The command that repeats a run."""

import shlex

import pytest

from vivit_train.config import compose_config, to_plain
from vivit_train.config.changes import values
from vivit_train.errors import UserError
from vivit_train.report.repeat import command_of, words_of


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["model=vivit_b_fe", "data=kinetics400", "data.root=/data/a b", "optim=adamw"],
        ["data=folder", "data.root=/x=y", "augment=crop", "data.eval_views=[1,1]", "seed=7"],
        ["experiment=demo_fe", "trainer.max_epochs=3", "optim.freeze=all_but_head"],
        ["augment.scale_jitter=null", "callbacks.monitor=val/loss", "processor=scenic"],
    ],
)
def test_the_words_compose_to_the_same_settings(words: list[str]) -> None:
    settings = dict(values(to_plain(compose_config(words))))
    again = dict(values(to_plain(compose_config(words_of(settings)))))
    own = ("name", "run_dir", "model.name", "data.name")
    assert {k: v for k, v in again.items() if k not in own} == {
        k: v for k, v in settings.items() if k not in own
    }


def test_the_command_survives_a_shell() -> None:
    settings = dict(values(to_plain(compose_config(["data=folder", "data.root=/it's; a b"]))))
    program, script, *words = shlex.split(command_of(settings))
    assert (program, script) == ("python", "train.py")
    assert dict(values(to_plain(compose_config(words))))["data.root"] == "/it's; a b"


def test_defaults_are_not_repeated() -> None:
    settings = dict(
        values(to_plain(compose_config(["data=folder", "data.root=/x", "optim.lr=0.5"])))
    )
    assert words_of(settings) == [
        "model=vivit_demo", "data=folder", "optim=adamw", "optim.lr=0.5", "data.root=/x",
    ]  # fmt: skip


def test_a_run_with_a_key_of_its_own_has_no_command() -> None:
    """Words without it would be another run."""
    settings = dict(values(to_plain(compose_config([])))) | {"data.depth": 3}
    with pytest.raises(UserError, match=r"no words set data\.depth, which the run has"):
        words_of(settings)
