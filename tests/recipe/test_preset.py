import copy
import functools
from types import SimpleNamespace
from typing import Any

import pytest

from vivit_train.config import compose_config, to_plain
from vivit_train.config.keys import AUTO, KEYS
from vivit_train.data.records import Records
from vivit_train.errors import UserError
from vivit_train.recipe.preset import (
    EPOCHS,
    LARGE,
    LEAST_STEPS,
    RULES,
    VALIDATIONS,
    TrainingSet,
    clips_per_step,
    fit,
    fit_to_set,
    keys_to_fit,
    steps_per_epoch,
    total_steps,
    without_auto,
)

SIZES = [1, 2, 3, 13, 16, 17, 31, 64, 100, 256, 500, 1000, 5000, 9999, 10_000, 100_000]
WORDS = ("experiment=finetune", "data=folder", "data.root=x", "trainer.accelerator=cpu")


@functools.cache
def _composed(*words: str) -> dict[str, Any]:
    return to_plain(compose_config([*WORDS, "model=vivit_demo", *words]))


def plain(*words: str) -> dict[str, Any]:
    return copy.deepcopy(_composed(*words))


def fitted(
    clips: int, *words: str, classes: tuple[str, ...] = ("a", "b"), **others: Any
) -> dict[str, Any]:
    """A configuration after each rule, without the data and the machine."""
    return fit(plain(*words), TrainingSet(clips, list(classes), **others))[0]


def of(clips: int, *class_names: str) -> Any:
    """A DataModule as far as the preset asks it; its classes come by turns."""
    labels = [row % max(1, len(class_names)) for row in range(clips)]
    records = {"train": Records("x", ["x"] * clips, labels)}
    return SimpleNamespace(
        records=records, class_names=list(class_names), heads={}, multi_label=False,
        class_counts=lambda key: records["train"].class_counts(len(class_names)),
    )  # fmt: skip


@pytest.mark.parametrize("key", RULES)
def test_each_key_takes_auto_and_the_preset_asks_for_it(key: str) -> None:
    assert KEYS[key].fits(AUTO)
    assert key in keys_to_fit(plain())


@pytest.mark.parametrize("clips", SIZES)
@pytest.mark.parametrize("processes", [1, 3, 8, 100])
def test_each_number_is_one_that_its_key_takes(clips: int, processes: int) -> None:
    for most_clips in (1, 7, 16):
        config = fitted(clips, processes=processes, most_clips=most_clips)
        assert not keys_to_fit(config)
        for key in RULES:
            group, name = key.split(".")
            assert KEYS[key].fits(config[group][name]), key


def test_each_number_is_said_with_its_reason(capsys: pytest.CaptureFixture) -> None:
    config = fit_to_set(plain(), of(64, "a", "b"))
    for key, line in zip(RULES, capsys.readouterr().err.splitlines(), strict=True):
        group, name = key.split(".")
        assert line.startswith(f"{key}={config[group][name]:g}: ")
        assert len(line) < 200


def test_a_small_set_gets_enough_steps_and_a_large_one_thirty_epochs() -> None:
    steps, epochs, rates = [], [], []
    for clips in SIZES:
        config = fitted(clips)
        steps.append(total_steps(config, TrainingSet(clips, [])))
        epochs.append(config["trainer"]["max_epochs"])
        rates.append(config["optim"]["lr"])
    assert min(steps) >= LEAST_STEPS
    assert epochs == sorted(epochs, reverse=True)
    assert rates == sorted(rates)
    assert epochs[0] == 1023  # a step per epoch, and a validation every 33
    assert epochs[-1] == EPOCHS
    # Between 500 and 1000 clips thirty epochs become enough; up to there it is about as many.
    assert all(n < 1.1 * LEAST_STEPS for n, clips in zip(steps, SIZES) if clips <= 500)


@pytest.mark.parametrize("clips", SIZES)
def test_the_last_epoch_is_validated_and_not_many_are(clips: int) -> None:
    for words in ((), ("trainer.max_epochs=100",), ("trainer.max_epochs=7",)):
        trainer = fitted(clips, *words)["trainer"]
        validations, rest = divmod(trainer["max_epochs"], trainer["check_val_every_n_epoch"])
        assert rest == 0
        assert min(VALIDATIONS, trainer["max_epochs"]) <= validations < 2 * VALIDATIONS


@pytest.mark.parametrize(
    ("processes", "most_clips", "batch", "accumulate"),
    [
        (1, 16, 16, 1),
        (1, 10, 8, 2),
        (1, 4, 4, 4),
        (1, 1, 1, 16),
        (2, 16, 8, 1),
        (4, 2, 2, 2),
        (3, 16, 4, 1),
        (32, 16, 1, 1),
    ],
)
def test_a_step_has_as_many_clips_on_any_device(
    processes: int, most_clips: int, batch: int, accumulate: int
) -> None:
    config = fitted(1000, processes=processes, most_clips=most_clips)
    assert config["data"]["batch_size"] == batch
    assert config["trainer"]["accumulate_grad_batches"] == accumulate
    training_set = TrainingSet(1000, [], processes)
    assert clips_per_step(config, training_set) == processes * batch * accumulate
    assert config["callbacks"]["ema_decay"] == pytest.approx(0.99, abs=0.002)


def test_one_that_is_given_decides_the_other() -> None:
    assert fitted(64, "data.batch_size=4")["trainer"]["accumulate_grad_batches"] == 4
    assert fitted(64, "data.batch_size=5")["trainer"]["accumulate_grad_batches"] == 3
    assert fitted(64, "data.batch_size=64")["trainer"]["accumulate_grad_batches"] == 1
    assert fitted(64, "trainer.accumulate_grad_batches=2")["data"]["batch_size"] == 8
    assert fitted(64, "trainer.accumulate_grad_batches=99")["data"]["batch_size"] == 1


def test_an_epoch_is_as_long_as_the_sampler_makes_it() -> None:
    from vivit_train.data.sampler import TrainSampler

    for clips, batch, accumulate, processes in [(64, 4, 4, 1), (67, 5, 2, 3), (13, 8, 1, 1)]:
        words = (f"data.batch_size={batch}", f"trainer.accumulate_grad_batches={accumulate}")
        training_set = TrainingSet(clips, [], processes)
        sampler = TrainSampler(clips, batch, 0, 0, processes, lambda: (0, 0), accumulate)
        expected = -(-sampler.num_batches // accumulate)
        assert steps_per_epoch(plain(*words), training_set) == expected
    limited = plain("data.batch_size=4", "trainer.limit_train_batches=0.5", "augment.repeats=2")
    limited["trainer"]["accumulate_grad_batches"] = 4
    assert steps_per_epoch(limited, TrainingSet(64, [])) == 4


@pytest.mark.parametrize(
    ("model", "clips", "rate"),
    [
        ("vivit_b", 1000, 5e-4),
        ("vivit_l", 1000, 3.8e-4),
        ("vivit_s", 1000, 1e-3),
        ("vivit_demo", 1000, 3e-3),
        ("vivit_demo", 8, 2.1e-3),
    ],
)
def test_a_wider_model_and_a_smaller_step_have_a_lower_rate(
    model: str, clips: int, rate: float
) -> None:
    assert fitted(clips, f"model={model}")["optim"]["lr"] == pytest.approx(rate)


def test_a_number_stays_and_the_others_follow_from_it() -> None:
    config = fitted(64, "trainer.max_epochs=7", "optim.lr=0.25", "data.batch_size=4")
    assert config["trainer"]["max_epochs"] == 7
    assert config["optim"]["lr"] == 0.25
    assert config["optim"]["warmup_epochs"] == pytest.approx(0.7)
    assert config["data"]["batch_size"] == 4


def test_a_number_of_steps_ends_the_run() -> None:
    config = fitted(64, "trainer.max_steps=200")
    assert config["trainer"]["max_epochs"] == -1
    assert config["optim"]["warmup_epochs"] == pytest.approx(5)  # of 50
    assert config["callbacks"]["ema_decay"] == pytest.approx(0.95)
    assert config["trainer"]["check_val_every_n_epoch"] == 1


def test_scores_of_few_videos_are_not_told_apart() -> None:
    def tolerance(videos: int, *words: str) -> float:
        return fitted(64, *words, val_clips=videos)["callbacks"]["score_tolerance"]

    assert tolerance(25) == pytest.approx(0.1)
    assert tolerance(10_000) == pytest.approx(0.005)
    assert tolerance(25, "callbacks.monitor=val/loss") == 0
    data = of(64, "a", "b")
    data.records["val"] = [None] * 100
    assert fit_to_set(plain(), data)["callbacks"]["score_tolerance"] == pytest.approx(0.05)


def test_a_rare_class_is_drawn_as_often_as_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    def sampling(*counts: int, words: tuple[str, ...] = ()) -> float:
        return fitted(sum(counts), *words, class_counts=counts)["data"]["class_sampling"]

    assert sampling(100, 10) == 0
    assert sampling(101, 10, 50) == 1
    assert sampling(100, 0, 10) == 0  # of a class without a video there is nothing to draw
    assert sampling(101, 10, words=("optim.class_weights=balanced",)) == 0
    assert sampling(101, 10, words=("data.class_sampling=0.5",)) == 0.5
    data = of(12, *"ab")
    data.records["train"] = Records("x", ["x"] * 12, [0] * 11 + [1])
    assert fit_to_set(plain(), data)["data"]["class_sampling"] == 1
    told = "data.class_sampling=1: a class has 1 training videos and another 11: "
    assert told in capsys.readouterr().err
    for several in ({"multi_label": True}, {"heads": {"verb": 2, "noun": 3}}):
        vars(of_several := of(12, *"ab")).update(several, records=data.records)
        assert fit_to_set(plain(), of_several)["data"]["class_sampling"] == 0


def test_a_flip_is_off_unless_it_is_known_to_do_no_harm() -> None:
    def flip(clips: int, *classes: str, words: tuple[str, ...] = ()) -> float:
        return fitted(clips, *words, classes=classes)["augment"]["horizontal_flip"]

    assert flip(64, "falling line", "rising line") == 0
    assert flip(LARGE - 1, "up", "down") == 0
    assert flip(LARGE, "up", "down") == 0.5
    assert flip(LARGE, "turn left", "turn right") == 0
    labels = ("augment.flip_labels=[[turn left,turn right]]",)
    assert flip(64, "turn left", "turn right", words=labels) == 0.5


def test_a_warm_up_that_does_not_fit_is_refused_once_the_length_is_known() -> None:
    with pytest.raises(UserError, match=r"warmup_epochs=40: the run ends after 30 epochs"):
        fit_to_set(plain("optim.warmup_epochs=40"), of(1000, "a", "b"))


def test_a_rate_is_known_for_adamw_alone() -> None:
    with pytest.raises(UserError, match=r"optim.lr=auto is known for adamw alone: give optim.lr a"):
        fitted(64, "optim=sgd")


def test_what_has_no_auto_is_left_as_it_is(capsys: pytest.CaptureFixture) -> None:
    config = to_plain(compose_config(["data=folder", "data.root=x"]))
    assert fit_to_set(config, of(64)) is config
    assert capsys.readouterr().err == ""
    assert without_auto(config) == config


def test_without_a_set_it_is_that_of_a_large_one() -> None:
    config = without_auto(plain())
    assert not keys_to_fit(config)
    assert config["data"]["batch_size"] == 16
    assert config["augment"]["horizontal_flip"] == 0.5
    assert config["trainer"]["max_epochs"] == EPOCHS
