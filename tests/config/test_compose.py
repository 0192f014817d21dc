from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from vivit_train.config import (
    complete_config,
    compose_config,
    override_config,
    to_plain,
)
from vivit_train.config import compose as config_module
from vivit_train.errors import UserError


def refused(words: list[str]) -> str:
    with pytest.raises(UserError) as caught:
        compose_config(words)
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("trainer.max_epoch", "trainer.max_epochs"),
        ("trainer.epochs", "trainer.max_epochs"),
        ("optim.learning_rate", None),
        ("lr", "optim.lr"),
        ("model.hiden_size", "model.hidden_size"),
        ("batch_size", "data.batch_size"),
        ("model.name.first", None),
        ("nonsense", None),
        ("+trainer.max_epoch", "trainer.max_epochs"),
        ("++data.root_folder", "data.root"),
    ],
)
def test_typos(key: str, suggestion: str | None) -> None:
    message = refused([f"{key}=3"])
    key = key.lstrip("+")
    assert message.startswith(f"there is no key {key!r} in the configuration")
    if suggestion:
        assert message.split("did you mean ")[1].split(" or ")[0].rstrip("?") == suggestion


def test_keys_of_the_chosen_groups_exist() -> None:
    compose_config(["optim=sgd", "optim.momentum=0.8"])
    compose_config(["data=kinetics400", "data.root=/k400", "optim.momentum=0.8"])  # sgd by default
    assert "'optim.momentum'" in refused(["optim.momentum=0.8"])  # the demo's is adamw
    assert "'data.train_per_class'" in refused(["data=kinetics400", "data.train_per_class=3"])
    compose_config(["logger=wandb", "logger.wandb.project=mine"])
    assert "'logger.wandb.project'" in refused(["logger.wandb.project=mine"])


@pytest.mark.parametrize(
    "word",
    ["~optim.lr", "~optim", "~logger", "~model.pretrained", "~optim.lr=0.001", "~data"],
)
def test_nothing_is_removed(word: str) -> None:
    assert refused([word]) == f"{word}: keys can be set, not removed"


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("optim.lr=fast", "a number"),
        ("optim.lr=true", "a number"),
        ("trainer.max_epochs=ten", "a whole number, 1 or more, or -1 for no limit"),
        ("seed=false", "a whole number"),
        ("augment.random_crop=1", "true or false"),
        ("augment.random_crop=yes", "true or false"),
        ("model.qkv_bias=[1]", "true or false"),
        ("data.eval_views=4x3", "a list"),
        ("model.tubelet_size=true", "a list"),
    ],
)
def test_values_of_the_wrong_kind(word: str, kind: str) -> None:
    assert refused([word]).startswith(f"{word}: expected {kind}")


def test_values_of_the_right_kind() -> None:
    words = [
        "optim.lr=1e-4",
        "optim.weight_decay=1",
        "optim.warmup_epochs=${optim.weight_decay}",
        "model.image_size=[224,320]",
        "model.pretrained=/weights/vivit",
        "data.num_workers=3",
        "trainer.devices=2",
        "trainer.precision=32-true",
        "trainer.max_time=00:12:00:00",
        "augment.scale_jitter=null",
        "data.clip_frames=8",
        "seed=12",
        "name=first try",
        "hydra.verbose=true",
        "trainer.limit_train_batches=10",
        "++trainer.limit_val_batches=10",
    ]
    compose_config([*words, "optim.lr=1"])
    config = compose_config(words)
    assert (config.seed, config.name, config.trainer.devices) == (12, "first try", 2)
    assert config.augment.scale_jitter is None
    compose_config(["trainer.devices=[0,1]"])


@pytest.mark.parametrize(
    ("word", "spacing"),
    [
        ("data.frame_rate=12.5", (None, 12.5, None, "window")),
        ("data.clip_seconds=3", (None, None, 3, "window")),
        ("data.frame_stride=4", (4, None, None, "window")),
        ("data.sampling=whole", (None, None, None, "whole")),
        ("data.sampling=window", (1, None, None, "window")),
        ("data.frame_rate=null", (1, None, None, "window")),
    ],
)
def test_one_word_says_how_clips_are_taken(word: str, spacing: tuple[object, ...]) -> None:
    """The demo's own is a stride of 1, that of a saved run here the whole video."""
    keys = ("frame_stride", "frame_rate", "clip_seconds", "sampling")
    data = compose_config([word]).data
    assert tuple(data[key] for key in keys) == spacing
    saved = compose_config(["data.sampling=whole"])
    changed = override_config(saved, [word]).data
    if spacing[0] == 1:
        spacing = (None, None, None, "window" if "window" in word else "whole")
    assert tuple(changed[key] for key in keys) == spacing


@pytest.mark.parametrize(
    "words",
    [
        ["data.frame_rate=12.5", "data.frame_stride=2"],
        ["data.sampling=whole", "data.clip_seconds=2"],
    ],
)
def test_two_words_that_contradict(words: list[str]) -> None:
    told = f"{' and '.join(words)} contradict each other: give one of data.frame_stride, data."
    assert refused(words).startswith(told)
    with pytest.raises(UserError, match="contradict each other"):
        override_config(compose_config([]), words)
    compose_config([words[0], words[1].split("=")[0] + "=null"])


def test_composing_checks_first() -> None:
    with pytest.raises(UserError, match=r"did you mean trainer\.max_epochs"):
        compose_config(["+trainer.max_epoch=3"])


def test_sweeps() -> None:
    words = ["optim.lr=0.1,0.2", "model=vivit_b,vivit_l", "seed=range(1,4)", "optim=sgd,adamw"]
    compose_config(words, sweeps=True)
    with pytest.raises(UserError, match=r"no key 'optim\.lrr'.*optim\.lr"):
        compose_config(["optim.lrr=0.1,0.2"], sweeps=True)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model=vivit_bb", "no such option; did you mean vivit_b or vivit_"),
        ("data=kinetics", "no such option; did you mean kinetics"),
        ("experiment=none", "experiment=none: there is no such option"),
        ("optim.lr", "'optim.lr' is not of the form KEY=VALUE"),
        ("optim.lr=[1", "optim.lr=[1: the value of optim.lr cannot be read"),
    ],
)
def test_choices_that_do_not_exist(word: str, message: str) -> None:
    assert message in refused([word])


def test_without_the_configurations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_module, "CONFIG_DIR", tmp_path / "configs")
    with pytest.raises(UserError, match="does not exist: run from a clone of the repository"):
        compose_config([])


def test_composed_values() -> None:
    config = compose_config(["model=vivit_b", "data=kinetics400", "optim.lr=0.05"])
    assert config.optim == {**config.optim, "name": "sgd", "lr": 0.05, "momentum": 0.9}
    assert config.name == "vivit_b_kinetics400"
    assert config.data.clip_frames == 32
    assert config.processor.crop_size == 224
    assert config.data.eval_views == [4, 3]


def saved(*words: str) -> DictConfig:
    """What a run's config.yaml holds."""
    return OmegaConf.create(to_plain(compose_config(["run_dir=runs/x", *words])))


class TestOverridingASavedConfiguration:
    def test_a_value(self) -> None:
        config = saved("model.num_frames=8", "trainer.max_epochs=6", "data.eval_views=[2,1]")
        changed = override_config(config, ["trainer.max_epochs=9", "data.eval_views=[1,3]"])
        assert changed.trainer.max_epochs == 9
        assert changed.data.eval_views == [1, 3]
        assert config.trainer.max_epochs == 6  # a copy
        changed.trainer.max_epochs, changed.data.eval_views = 6, [2, 1]
        assert changed == config

    def test_a_group_refers_to_the_saved_model(self) -> None:
        config = saved("model.num_frames=8", "optim.lr=0.02", "trainer.max_epochs=2")
        changed = override_config(config, ["data=kinetics400", "data.root=/data/k400"])
        plain = to_plain(changed)
        assert plain["data"]["_target_"] == "vivit_train.data.kinetics.Kinetics"
        assert plain["data"]["root"] == "/data/k400"
        assert plain["data"]["clip_frames"] == 8
        assert "train_per_class" not in plain["data"]  # replaced as a whole
        assert plain["data"]["frame_stride"] == 2
        for part in ("model", "optim", "trainer", "processor"):
            assert plain[part] == to_plain(config)[part]

    def test_a_group_with_values_in_it(self) -> None:
        changed = override_config(saved(), ["optim=sgd", "optim.momentum=0.5", "optim.lr=0.3"])
        assert to_plain(changed)["optim"] == {
            "name": "sgd", "lr": 0.3, "momentum": 0.5, "weight_decay": 0.0, "warmup_epochs": 2.5,
            "min_lr_fraction": 0.0, "schedule": {}, "label_smoothing": 0.0, "layer_decay": 1.0,
            "lr_batch_size": None, "freeze": None, "lora_rank": None, "class_weights": None,
        }  # fmt: skip

    def test_what_the_demo_sets_for_itself_is_not_taken_over(self) -> None:
        config = saved("data=kinetics400", "data.root=/k400", "optim=adamw")
        changed = to_plain(override_config(config, ["optim=sgd"]))
        assert (changed["optim"]["lr"], changed["optim"]["warmup_epochs"]) == (0.1, 2.5)

    def test_two_groups(self) -> None:
        config = override_config(saved(), ["processor=huggingface", "augment=none"])
        plain = to_plain(config)
        assert plain["processor"]["do_normalize"] is True
        assert plain["processor"]["crop_size"] == 48  # the saved model's
        assert plain["augment"]["random_crop"] is False

    def test_keys_that_only_the_saved_one_has(self) -> None:
        config = saved("data=kinetics400", "data.root=/k400")
        changed = override_config(config, ["optim.momentum=0.8"])
        assert changed.optim.momentum == 0.8
        with pytest.raises(UserError, match=r"no key 'data\.train_per_class'"):
            override_config(config, ["data.train_per_class=8"])

    @pytest.mark.parametrize("word", ["optim.lrr=1", "+optim.lrr=1", "optim.lr=fast"])
    def test_mistakes(self, word: str) -> None:
        with pytest.raises(UserError, match=r"optim\.lr"):
            override_config(saved(), [word])

    @pytest.mark.parametrize("word", ["~optim.lr", "~data"])
    def test_nothing_is_removed(self, word: str) -> None:
        with pytest.raises(UserError, match="keys can be set, not removed"):
            override_config(saved(), [word])

    def test_an_experiment_is_for_new_runs(self) -> None:
        with pytest.raises(UserError, match="experiment=vivit_b_k400 makes a new configuration"):
            override_config(saved(), ["experiment=vivit_b_k400"])


class TestCompletingASavedConfiguration:
    @pytest.mark.parametrize(
        "words",
        [
            ("experiment=demo_fe", "seed=3", "callbacks.ema_decay=0.9"),
            (
                "experiment=vivit_l_fe_ssv2",
                "data.root=/s",
                "model.pretrained=none",
                "augment.flip_labels=[[left,right]]",
            ),
            ("data=webdataset", "data.root=s3://bucket", "data.name=mine", "optim.freeze=[head]"),
            ("data=kinetics400", "data.root=/k", "logger=wandb", "optim=adamw", "augment=none"),
        ],
    )
    def test_of_this_version_it_stays(self, words: tuple[str, ...], capsys) -> None:
        config = saved(*words)
        assert to_plain(complete_config(config)) == to_plain(config)
        assert capsys.readouterr().err == ""

    def test_new_keys_leave_things_as_they_were(self) -> None:
        config = saved("data=folder", "data.root=/d", "logger=wandb", "model.num_frames=8")
        for key in (
            "model.token_drop", "augment.mix_min_videos", "optim.layer_decay", "optim.freeze",
            "callbacks.ema_decay", "callbacks.non_finite", "data.decode_timeout",
            "data.val_fraction", "data.clip_frames", "logger.wandb.tags", "model.from_image",
        ):  # fmt: skip
            group, _, name = key.rpartition(".")
            del OmegaConf.select(config, group)[name]
        completed = to_plain(complete_config(config))
        assert completed == to_plain(saved("data=folder", "data.root=/d", "logger=wandb",
                                           "model.num_frames=8"))  # fmt: skip
        assert completed["optim"]["layer_decay"] == 1.0
        assert completed["augment"]["mix_min_videos"] == 0
        assert completed["data"]["clip_frames"] == 8
        assert "callbacks" not in config or "non_finite" not in config.callbacks  # a copy

    def test_a_group_that_is_new(self) -> None:
        config = saved()
        whole = to_plain(config)
        del config["callbacks"]
        assert to_plain(complete_config(config))["callbacks"] == whole["callbacks"]

    def test_keys_that_are_gone_are_named(self, capsys: pytest.CaptureFixture[str]) -> None:
        config = saved("data=kinetics400", "data.root=/k")
        whole = to_plain(config)
        config.augment.blur, config.data.backend, config.fast = 0.5, "opencv", True
        assert to_plain(complete_config(config)) == whole
        told = capsys.readouterr().err
        assert told.endswith("in this one: augment.blur=0.5, data.backend=opencv, fast=True\n")

    def test_what_is_the_users_own_stays(self, capsys: pytest.CaptureFixture[str]) -> None:
        config = saved()
        config.trainer.overfit_batches = 2  # by an experiment
        config.data = {"_target_": "mine.Data", "name": "mine", "depth": 3}
        completed = to_plain(complete_config(config))
        assert completed["trainer"]["overfit_batches"] == 2
        assert completed["data"]["depth"] == 3
        assert completed["data"]["_target_"] == "mine.Data"
        assert capsys.readouterr().err == ""


def test_plain_values_only() -> None:
    plain = to_plain(compose_config(["data=demo", "data.root=/x", "model.num_frames=8"]))
    kinds = set()

    def walk(node: object) -> None:
        kinds.add(type(node))
        for child in node.values() if isinstance(node, dict) else ():
            walk(child)
        for child in node if isinstance(node, list) else ():
            walk(child)

    walk(plain)
    assert kinds <= {dict, list, str, int, float, bool, type(None)}
    assert plain["data"]["clip_frames"] == 8
    assert plain["name"] == "vivit_demo_demo"
    assert plain["run_dir"].startswith("runs/vivit_demo_demo/20")


def test_references_that_lead_nowhere() -> None:
    with pytest.raises(UserError, match=r"cannot be resolved: .*model\.frames"):
        to_plain(compose_config(["data.clip_frames=${model.frames}"]))
    with pytest.raises(UserError, match="data=video only holds what all data sets have in common"):
        to_plain(OmegaConf.create({"data": {"_target_": "???"}}))
