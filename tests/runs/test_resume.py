import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from train import train
from vivit_train.config import (
    complete_config,
    compose_config,
    override_config,
    to_plain,
    use_config_dir,
)
from vivit_train.errors import UserError
from vivit_train.module import VivitModule
from vivit_train.optim import warmup_cosine
from vivit_train.recipe.preset import keys_to_fit, without_auto
from vivit_train.runs import resume
from vivit_train.runs.resume import (
    begun_or_new,
    check_whole,
    damage,
    find_last,
    newest_whole,
    resume_command,
    resumed,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "checkpoints").mkdir()
    for name in ("last", "previous"):
        torch.save({"weights": torch.randn(1000)}, tmp_path / "checkpoints" / f"{name}.ckpt")
    return tmp_path


def flip_a_bit(path: Path) -> None:
    """In the middle of the tensor: `torch.load` reads what results."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=True)


def test_a_flipped_bit_is_seen(run: Path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    assert damage(last) is None
    flip_a_bit(last)
    assert "the checksum of its part last/data/0 does not match" in (damage(last) or "")


@pytest.mark.parametrize("size", [0, 1, 100, 2000, -1])
def test_a_cut_file_is_seen(run: Path, size: int) -> None:
    last = run / "checkpoints" / "last.ckpt"
    content = last.read_bytes()
    last.write_bytes(content[:size])
    assert damage(last) is not None


def test_a_damaged_path_is_refused_with_the_way_on(run: Path) -> None:
    last, previous = (run / "checkpoints" / f"{name}.ckpt" for name in ("last", "previous"))
    check_whole(last)
    flip_a_bit(last)
    with pytest.raises(UserError) as caught:
        check_whole(last)
    assert f"the checkpoint {last} is damaged" in str(caught.value)
    assert f"python train.py ckpt_path={previous}" in str(caught.value)
    flip_a_bit(previous)
    with pytest.raises(UserError, match="The run has no other"):
        check_whole(last)


def test_the_newest_whole_one(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last, previous = (run / "checkpoints" / f"{name}.ckpt" for name in ("last", "previous"))
    assert newest_whole(run) == last
    assert capsys.readouterr().err == ""
    flip_a_bit(last)
    assert newest_whole(run) == previous
    told = capsys.readouterr().err
    assert told.startswith(f"warning: DAMAGED CHECKPOINT {last} (the checksum")
    assert told.strip().endswith(f"Resuming from {previous}")
    flip_a_bit(previous)
    with pytest.raises(UserError, match="every checkpoint of the run is damaged"):
        newest_whole(run)


def test_without_a_checkpoint(tmp_path: Path) -> None:
    assert newest_whole(tmp_path / "none") is None
    with pytest.raises(UserError, match="it does not exist.*ckpt_path=auto starts"):
        find_last(tmp_path / "none")
    (tmp_path / "config.yaml").touch()
    with pytest.raises(UserError, match=r"holds config\.yaml\."):
        find_last(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="checkpoints holds nothing"):
        find_last(tmp_path)


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch) -> Callable[..., DictConfig]:
    """The configuration of a command line, which Hydra has been given."""

    def compose(*words: str) -> DictConfig:
        given = SimpleNamespace(overrides=SimpleNamespace(task=list(words)))
        monkeypatch.setattr(resume.HydraConfig, "get", lambda: given)
        return compose_config(words)

    return compose


def test_a_link_to_itself(tmp_path: Path) -> None:
    loop = tmp_path / "checkpoints" / "last.ckpt"
    loop.parent.mkdir()
    loop.symlink_to(loop)
    with pytest.raises(UserError, match=r"expected RUN/checkpoints/last\.ckpt .*no such file"):
        resumed([f"ckpt_path={loop}"])


class TestOfAnotherVersion:
    """A run whose config.yaml lacks a key, and has one that is gone."""

    @pytest.fixture(autouse=True)
    def begun(self, run: Path) -> None:
        config = to_plain(compose_config([f"run_dir={run}", "optim.lr=0.5", "seed=3"]))
        del config["optim"]["layer_decay"]
        config["augment"]["blur"] = 0.5
        OmegaConf.save(config, run / "config.yaml")

    def test_it_is_completed(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        last = run / "checkpoints" / "last.ckpt"
        config = resumed([f"ckpt_path={last}", "trainer.max_epochs=9"])
        expected = compose_config(
            [f"run_dir={run}", "optim.lr=0.5", "seed=3", "trainer.max_epochs=9"]
        )
        assert to_plain(config) == to_plain(expected) | {"ckpt_path": str(last)}
        told = capsys.readouterr()
        assert "without meaning in this one: augment.blur=0.5" in told.err
        assert told.out == "changed from here on: trainer.max_epochs: 5 -> 9\n"

    def test_only_what_was_changed_counts_as_other(self, run: Path, command_line, capsys) -> None:
        words = [f"run_dir={run}", "ckpt_path=auto", "seed=3", "data.eval_views=[1,3]"]
        config = command_line(*words, "optim.lr=0.25", "model.token_drop=0.5", "optim=adamw")
        begun_or_new(config)
        assert config.ckpt_path == str(run / "checkpoints" / "last.ckpt")
        told = capsys.readouterr()
        changes = (
            "model.token_drop: 0.0 -> 0.5; optim.lr: 0.5 -> 0.25; data.eval_views: [2, 1] -> "
            "[1, 3]\n"
        )
        assert told.err.endswith(f"warning: {run} was started with other values: {changes}")
        assert told.out == ""

    def test_what_cannot_change_is_refused(self, run: Path, command_line) -> None:
        config = command_line(f"run_dir={run}", "ckpt_path=auto", "optim.lr=0.5", "optim=sgd")
        with pytest.raises(UserError, match=r"optim\.name: adamw -> sgd \(.*; seed: 3 -> 0 \("):
            begun_or_new(config)

    def test_the_same_command_is_told_nothing(self, run: Path, command_line, capsys) -> None:
        begun_or_new(command_line(f"run_dir={run}", "ckpt_path=auto", "optim.lr=0.5", "seed=3"))
        assert "was started with other values" not in capsys.readouterr().err


def test_auto_again_keeps_the_numbers_of_the_run(run: Path, command_line, capsys) -> None:
    words = ["experiment=finetune", "data=folder", "data.root=x", f"run_dir={run}"]
    numbers = {"optim.lr": 0.25, "data.batch_size": 3, "trainer.max_epochs": 77}
    begun = compose_config([*words, *(f"{key}={value}" for key, value in numbers.items())])
    begun = without_auto(to_plain(begun))
    begun["data"] |= {"frame_rate": 4.0, "sampling": "window"}  # of the pretrained weights
    begun["processor"] |= {"do_resize": True, "size": 18}
    OmegaConf.save(begun, run / "config.yaml")
    config = command_line(*words, "ckpt_path=auto")
    begun_or_new(config)
    assert (config.data.frame_rate, config.data.frame_stride) == (4.0, None)
    assert (config.processor.do_resize, config.processor.size) == (True, 18)
    assert {key: OmegaConf.select(config, key) for key in numbers} == numbers
    assert not keys_to_fit(to_plain(config))
    assert "was started with other values" not in capsys.readouterr().err


def test_a_run_of_another_version_trains_on(finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    config = OmegaConf.load(run / "config.yaml")
    for group, name in (
        ("model", "token_drop"), ("model", "compile"), ("augment", "mix_min_videos"),
        ("optim", "freeze"), ("callbacks", "non_finite"), ("data", "decode_timeout"),
    ):  # fmt: skip
        del config[group][name]
    words = [f"run_dir={run}", f"ckpt_path={run}/checkpoints/last.ckpt", "trainer.max_epochs=3"]
    train(override_config(complete_config(config), words))
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 24


class TestOverrides:
    """Of a resumed run: looked up in its own configuration, and refused before it is touched."""

    @pytest.fixture(autouse=True)
    def begun(self, run: Path) -> None:
        config = to_plain(compose_config([f"run_dir={run}", "optim=sgd"]))
        OmegaConf.save(config, run / "config.yaml")

    @pytest.fixture
    def words(self, run: Path) -> list[str]:
        return [f"run_dir={run}", "ckpt_path=last"]

    def test_a_key_that_the_default_configuration_does_not_have(
        self, words: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = resumed([*words, "optim.momentum=0.5", "+optim.lr=0.25"])
        assert (config.optim.momentum, config.optim.lr) == (0.5, 0.25)
        assert capsys.readouterr().out == (
            "changed from here on: optim.lr: 0.001 -> 0.25; optim.momentum: 0.9 -> 0.5\n"
        )

    def test_a_key_that_it_does_not_have(self, words: list[str]) -> None:
        with pytest.raises(UserError, match=r"there is no key 'optim\.betas'"):
            resumed([*words, "optim.betas=[0.5,0.9]"])

    def test_the_runs_own_values_are_no_change(self, words: list[str], capsys) -> None:
        resumed([*words, "optim.name=sgd", "model.hidden_size=128", "seed=0"])
        assert capsys.readouterr().out == ""

    def test_refused_with_every_reason(self, run: Path, words: list[str]) -> None:
        before = (run / "config.yaml").read_bytes()
        with pytest.raises(UserError) as caught:
            resumed([*words, "optim=adamw", "optim.lr=0.1", "model.num_layers=2", "seed=1"])
        message = str(caught.value)
        assert message.startswith(
            f"the run {run} cannot be resumed with model.num_layers: 4 -> 2 ("
        )
        assert "optim.name: sgd -> adamw (the checkpoint holds the state of this" in message
        assert "seed: 0 -> 1 (the order of the videos" in message
        assert "optim.lr" not in message
        assert (run / "config.yaml").read_bytes() == before

    def test_a_class_is_imported_only_when_the_command_names_it(
        self, run: Path, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The attack: a run's folder, maybe a stranger's, has code and names it."""
        (tmp_path / "my_attack.py").write_text("raise SystemExit('the code of a stranger has run')")
        monkeypatch.syspath_prepend(tmp_path)
        for group, key in (("callbacks", "callbacks.extra.x"), ("logger", "logger.extra.x")):
            config = to_plain(compose_config([f"run_dir={run}", "optim=sgd"]))
            config[group]["extra"] = {"x": {"_target_": "my_attack.Part", "depth": {"a": [1]}}}
            OmegaConf.save(config, run / "config.yaml")
            told = rf"has {key}\._target_=my_attack\.Part, a class .* name it yourself.* {key}=null"
            for named in ([], [f"{key}.depth.a=[2]"], ["callbacks.extra.y._target_=my.Own"]):
                with pytest.raises(UserError, match=told.replace(".extra", r"\.extra")):
                    resumed([*words, *named])
            target = f"{key}._target_=my_attack.Part"
            for named in ([target], [f"{key}={{_target_: my_attack.Part}}"]):
                assert resumed([*words, *named])[group].extra.x.depth == {"a": [1]}
            assert resumed([*words, f"{key}=null"])[group].extra == {"x": None}
            assert target in resume_command(run / "checkpoints" / "last.ckpt")

    def test_nor_is_the_class_of_an_optimiser(self, run: Path, words: list[str]) -> None:
        config = to_plain(compose_config([f"run_dir={run}", "optim=torch"]))
        OmegaConf.save(config, run / "config.yaml")
        assert resumed(words).optim._target_ == "torch.optim.NAdam"
        config["optim"]["_target_"] = "my_attack.Part"
        OmegaConf.save(config, run / "config.yaml")
        with pytest.raises(UserError, match=r"optim\._target_=my_attack\.Part, a class .*Part$"):
            resumed(words)
        assert resumed([*words, "optim._target_=my_attack.Part"]).optim.name == "torch"

    def test_nor_is_the_class_of_a_schedule(self, run: Path, words: list[str]) -> None:
        config = to_plain(compose_config([f"run_dir={run}"]))
        config["optim"]["schedule"] = {
            "_target_": "torch.optim.lr_scheduler.StepLR",
            "step_size": 5,
        }
        OmegaConf.save(config, run / "config.yaml")
        assert resumed(words).optim.schedule == config["optim"]["schedule"]
        with pytest.raises(UserError, match=r"optim\.schedule\.step_size: 5 -> 6 \(the checkpoint"):
            resumed([*words, "optim.schedule.step_size=6"])
        config["optim"]["schedule"]["_target_"] = target = "my_attack.Part"
        OmegaConf.save(config, run / "config.yaml")
        with pytest.raises(
            UserError, match=r"optim\.schedule\._target_=my_attack\.Part, a class .*Part$"
        ):
            resumed(words)
        assert (
            resumed([*words, f"optim.schedule._target_={target}"]).optim.schedule._target_ == target
        )
        assert f"optim.schedule._target_={target}" in resume_command(run / "checkpoints/last.ckpt")

    def test_last_needs_the_runs_folder(self) -> None:
        with pytest.raises(UserError, match="ckpt_path=last means the newest checkpoint in"):
            resumed(["ckpt_path=last"])


def rates(run: Path) -> list[float]:
    """The learning rate at each step."""
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row["train/lr"]) for row in csv.DictReader(file) if row["train/lr"]]


def test_hyper_parameters_take_effect(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    train(
        resumed(
            [
                f"run_dir={run}", "ckpt_path=last", "trainer.max_epochs=3", "optim.lr=0.01",
                "optim.weight_decay=0.5", "optim.betas=[0.5,0.75]", "optim.eps=1e-6",
            ]
        )
    )  # fmt: skip
    # Of 24 steps with 4 of warm-up, 16 were done by the schedule of a run of 16.
    expected = [0.01 * warmup_cosine(step, 24, 4) for step in range(16, 24)]
    assert rates(run)[:16] == rates(finished_run)
    assert rates(run)[16:] == pytest.approx(expected)
    said = f"learning rate 0 -> {expected[0]:.4g} at step 16: the schedule is now that"
    assert said in capsys.readouterr().out

    groups = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    groups = groups["optimizer_states"][0]["param_groups"]
    config = OmegaConf.load(run / "config.yaml")
    assert config.optim.lr == max(group["initial_lr"] for group in groups) == 0.01
    # Layer by layer, first what decays: the rate falls by layer_decay, biases do not decay.
    assert min(group["initial_lr"] for group in groups) == pytest.approx(0.01 * 0.8**3)
    assert {group["weight_decay"] for group in groups} == {0.5, 0.0}
    assert {(tuple(group["betas"]), group["eps"]) for group in groups} == {((0.5, 0.75), 1e-6)}


def test_config_yaml_says_what_was_used(finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    before = (run / "config.yaml").read_bytes()
    words = [f"run_dir={run}", "ckpt_path=last", "trainer.max_epochs=3"]
    with pytest.raises(UserError, match="1 processes x 3 videos each"):
        train(resumed([*words, "data.batch_size=3"]))
    with pytest.raises(UserError, match=r"trainer\.max_epochs=1: the run has done 2 already"):
        train(resumed([*words, "trainer.max_epochs=1"]))
    assert (run / "config.yaml").read_bytes() == before
    with pytest.warns(UserWarning, match="accumulate_grad_batches=1 becomes 2"):
        train(resumed([*words, "data.batch_size=2"]))
    config = OmegaConf.load(run / "config.yaml")
    assert (config.data.batch_size, config.trainer.accumulate_grad_batches) == (2, 2)


def test_what_is_advised_after_a_nan(
    small: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    step = VivitModule.training_step
    with monkeypatch.context() as patch:
        patch.setattr(
            VivitModule,
            "training_step",
            lambda self, batch, index: (
                step(self, batch, index) * (torch.nan if self.global_step == 12 else 1)
            ),
        )
        with pytest.raises(UserError, match=r"Lower optim\.lr.* resume with ckpt_path=last"):
            train(compose_config([*small, f"run_dir={run}"]))
    train(resumed([f"run_dir={run}", "ckpt_path=last", "optim.lr=1e-5"]))
    assert len(rates(run)) == 16
    assert rates(run)[8:] == pytest.approx([1e-5 * warmup_cosine(s, 16, 4) for s in range(8, 16)])


def test_a_command_can_be_typed() -> None:
    command = resume_command(Path("/a run/checkpoints/last.ckpt"))
    assert command == "python train.py ckpt_path='/a run/checkpoints/last.ckpt'"


def test_a_command_names_the_users_own_configurations(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "wide.yaml").write_text("defaults: [vivit_s]")
    use_config_dir(str(tmp_path))
    try:
        command = resume_command(Path("run/checkpoints/last.ckpt"))
    finally:
        use_config_dir(None)
    words = f"--config-dir {tmp_path} ckpt_path=run/checkpoints/last.ckpt"
    assert command == f"python train.py {words}"
