from types import SimpleNamespace
from typing import Any

import pytest

from vivit_train.config import compose_config, to_plain
from vivit_train.config.keys import AUTO, KEYS
from vivit_train.errors import UserError
from vivit_train.preset import (
    EPOCHS,
    LEAST_STEPS,
    RULES,
    TrainingSet,
    fit_to_set,
    keys_to_fit,
    steps_per_epoch,
    without_auto,
)

SIZES = [1, 2, 13, 16, 17, 64, 100, 256, 500, 1000, 5000, 10_000, 100_000]
WORDS = ("experiment=finetune", "data=folder", "data.root=x", "trainer.accelerator=cpu")


def plain(*words: str) -> dict[str, Any]:
    return to_plain(compose_config([*WORDS, *words]))


def of(clips: int, *class_names: str) -> Any:
    """A DataModule as far as the preset asks it."""
    return SimpleNamespace(records={"train": [None] * clips}, class_names=list(class_names))


def fitted(clips: int, *words: str, classes: tuple[str, ...] = ("a", "b")) -> dict[str, Any]:
    return fit_to_set(plain(*words), of(clips, *classes))


def steps(config: dict[str, Any], clips: int, processes: int = 1) -> int:
    training_set = TrainingSet(clips, [], processes)
    return steps_per_epoch(config, training_set) * config["trainer"]["max_epochs"]


@pytest.mark.parametrize("key", RULES)
def test_each_key_takes_auto_and_the_preset_asks_for_it(key: str) -> None:
    assert KEYS[key].fits(AUTO)
    assert key in keys_to_fit(plain())


def test_each_number_is_one_that_its_key_takes_and_is_said(capsys: pytest.CaptureFixture) -> None:
    for clips in SIZES:
        config = fitted(clips)
        assert not keys_to_fit(config)
        told = capsys.readouterr().err.splitlines()
        for key, line in zip(RULES, told, strict=True):
            group, name = key.split(".")
            value = config[group][name]
            assert KEYS[key].fits(value), (key, clips, value)
            assert line.startswith(f"{key}={value:g}: ")


def test_a_small_set_gets_enough_steps_and_a_large_one_thirty_epochs() -> None:
    counts = [steps(fitted(clips), clips) for clips in SIZES]
    assert counts[0] == LEAST_STEPS
    assert all(count >= LEAST_STEPS for count in counts)
    assert fitted(100_000)["trainer"]["max_epochs"] == EPOCHS


def test_a_number_stays_and_the_others_follow_from_it() -> None:
    config = fitted(64, "trainer.max_epochs=7", "optim.lr=0.25", "data.batch_size=4")
    assert config["trainer"]["max_epochs"] == 7
    assert config["optim"]["lr"] == 0.25
    assert config["optim"]["warmup_epochs"] == pytest.approx(0.7)
    assert config["data"]["batch_size"] == 4


def test_a_warm_up_that_does_not_fit_is_refused_once_the_length_is_known() -> None:
    with pytest.raises(UserError, match=r"warmup_epochs=40: the run ends after 30 epochs"):
        fitted(1000, "optim.warmup_epochs=40")


def test_a_rate_is_known_for_adamw_alone() -> None:
    with pytest.raises(UserError, match=r"optim.lr=auto is for adamw; give optim=sgd a rate"):
        fitted(64, "optim=sgd")


def test_what_has_no_auto_is_left_as_it_is(capsys: pytest.CaptureFixture) -> None:
    config = to_plain(compose_config(["data=folder", "data.root=x"]))
    assert fit_to_set(config, of(64)) is config
    assert capsys.readouterr().err == ""
    assert without_auto(config) == config


def test_data_can_be_built_before_the_set_is_known() -> None:
    config = without_auto(plain())
    assert config["data"]["batch_size"] == 8
    assert config["augment"]["horizontal_flip"] == 0.5
