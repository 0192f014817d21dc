import copy
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer

from tests.golden_files import GOLDEN
from vivit_train.build import (
    build_data,
    build_module,
    build_trainer,
    first_batch,
    open_data,
)
from vivit_train.callbacks.broken_videos import BrokenVideos
from vivit_train.callbacks.checkpoints import Checkpoints
from vivit_train.callbacks.early_stopping import EarlyStopping
from vivit_train.callbacks.non_finite import NonFinite
from vivit_train.callbacks.progress import Progress
from vivit_train.callbacks.same_steps import SameSteps
from vivit_train.callbacks.same_videos import SameVideos
from vivit_train.callbacks.step_seed import StepSeed
from vivit_train.callbacks.stop_signals import StopSignals
from vivit_train.callbacks.throughput import Throughput
from vivit_train.config import compose_config, to_plain
from vivit_train.data.batch import ClipBatch
from vivit_train.data.dataset import Sampling
from vivit_train.data.demo import Demo
from vivit_train.data.demo_clips import CLASS_NAMES
from vivit_train.errors import UserError
from vivit_train.io.quiet import hush_lightning
from vivit_train.launch import devices
from vivit_train.launch.devices import resolve_devices
from vivit_train.model.weights import read_weights
from vivit_train.module import VivitModule
from vivit_train.recipe import preset
from vivit_train.runs.checkpoint import AtomicCheckpointIO
from vivit_train.runs.loggers import MetricsCsv
from vivit_train.runs.run_dir import ConfigFile
from vivit_train.transforms.processor import Processor


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="module")
def config(small: tuple[str, ...]) -> dict[str, Any]:
    return to_plain(compose_config([*small, "name=test"]))


def stub_data(class_names: list[str], **processor: Any) -> Any:
    """A DataModule as far as `build_module` asks it."""
    return SimpleNamespace(
        class_names=class_names,
        heads={},
        multi_label=False,
        processor=Processor(**{"crop_size": 16} | processor),
        sampling=Sampling(4, 1),
        video_rate=30.0,
        eval_views=(2, 1),
    )


class TestTrainer:
    @pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
    @pytest.mark.usefixtures("no_gpu")
    def test_no_gpu(self, config: dict, tmp_path: Path, accelerator: str) -> None:
        config = config | {"trainer": config["trainer"] | {"accelerator": accelerator}}
        message = f"trainer.accelerator={accelerator}: no GPU .* set trainer.accelerator=cpu"
        with pytest.raises(UserError, match=message):
            build_trainer(config, tmp_path)

    @pytest.mark.parametrize("devices", [8, -1, [0, 1]])
    @pytest.mark.usefixtures("no_gpu")
    def test_processes_on_a_cpu_are_asked_for_by_name(
        self, config: dict, tmp_path: Path, devices: Any
    ) -> None:
        settings = config["trainer"] | {"accelerator": "auto", "devices": devices}
        with pytest.raises(UserError, match="no GPU .* processes on its CPU add trainer.acc"):
            build_trainer(config | {"trainer": settings}, tmp_path)
        assert resolve_devices(settings | {"accelerator": "cpu"}) == devices
        assert resolve_devices(settings | {"devices": "auto"}) == 1

    @pytest.mark.usefixtures("no_gpu")
    def test_no_batch_per_step(self, config: dict, tmp_path: Path) -> None:
        config = config | {"trainer": config["trainer"] | {"accumulate_grad_batches": 0}}
        with pytest.raises(UserError, match=r"accumulate_grad_batches is .* 1 or more; got 0"):
            build_trainer(config, tmp_path)

    def test_a_kernel_that_is_not_deterministic(self, config: dict, tmp_path: Path) -> None:
        config = config | {
            "model": config["model"] | {"attention_kernel": "cudnn"},
            "trainer": config["trainer"] | {"deterministic": True},
        }
        with pytest.raises(UserError, match=r"attention_kernel=cudnn .* trainer\.deterministic=tr"):
            build_trainer(config, tmp_path)

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("precision", "foo", "Precision 'foo' is invalid. Allowed precision values: "),
            ("accelerator", "foo", "You selected an invalid accelerator name"),
            ("accelerator", "tpu", "torch_xla"),
            ("strategy", "foo", ""),
            ("devices", "foo", "should be an int > 0"),
            ("devices", 0, r"`Trainer\(devices=0\)` value is not a valid input"),
            ("num_nodes", 0, "`num_nodes` must be a positive integer"),
            ("limit_val_batches", 3.5, "invalid value 3.5 for limit_val_batches"),
        ],
    )
    @pytest.mark.usefixtures("no_gpu")
    def test_what_lightning_refuses(
        self, name: str, value: Any, message: str, config: dict, tmp_path: Path
    ) -> None:
        config = config | {"trainer": config["trainer"] | {name: value}}
        told = rf"trainer\.{name}={value}.*{message}" if name != "limit_val_batches" else message
        with pytest.raises(UserError, match=told):
            build_trainer(config, tmp_path)

    @pytest.mark.usefixtures("no_gpu")
    def test_what_it_is_made_of(
        self, config: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(devices, "cpu_has_bf16", lambda: True)
        changes = {"accelerator": "auto", "devices": "auto", "precision": "auto"}
        config = config | {"trainer": config["trainer"] | changes}
        config["callbacks"] = config["callbacks"] | {
            "monitor": "val/loss",
            "every_n_train_steps": 7,
            "top_k": 3,
            "score_tolerance": 0.25,
            "patience_steps": 50,
        }
        trainer, checkpoints = build_trainer(config, tmp_path)
        assert trainer.precision == "bf16-mixed"
        assert trainer.num_devices == 1
        assert trainer.max_epochs == 2
        assert (checkpoints.monitor, checkpoints.every_n_train_steps) == ("val/loss", 7)
        assert (checkpoints.top_k, checkpoints.score_tolerance) == (3, 0.25)
        (stopping,) = (c for c in trainer.callbacks if isinstance(c, EarlyStopping))
        assert (stopping.monitor, stopping.mode, stopping.patience) == ("val/loss", "min", 50)
        assert checkpoints.last == tmp_path / "checkpoints" / "last.ckpt"
        assert isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO)
        assert [type(logger) for logger in trainer.loggers] == [MetricsCsv]
        kinds = {type(callback) for callback in trainer.callbacks}
        ours = {
            StepSeed, SameSteps, SameVideos, NonFinite, BrokenVideos, Throughput, Checkpoints,
            StopSignals, ConfigFile,
        }  # fmt: skip
        assert ours | {Progress} <= kinds
        broken = next(c for c in trainer.callbacks if isinstance(c, BrokenVideos))
        assert broken.max_bad_fraction == 0.1
        assert list(tmp_path.iterdir()) == []  # nothing is written before the run

    def test_without_a_bar(self, config: dict, tmp_path: Path) -> None:
        config = config | {"trainer": config["trainer"] | {"enable_progress_bar": False}}
        trainer, _ = build_trainer(config, tmp_path)
        assert not any(isinstance(callback, Progress) for callback in trainer.callbacks)


class TestData:
    def test_it_is_built_from_the_configuration(self, config: dict, demo_root: Path) -> None:
        data = build_data(config)
        assert isinstance(data, Demo)
        assert data.root == demo_root
        assert data.processor.crop_size == (16, 16)
        assert data.augment.processor is data.processor
        assert data.augment.hue == 0
        assert data.seed == config["seed"] == 0
        assert type(data.augment.scale_jitter) is tuple
        names = list(reversed(CLASS_NAMES))
        assert build_data(config, names).class_names == names

    def test_opened_it_has_the_numbers_that_follow_from_the_set(
        self, small: tuple[str, ...]
    ) -> None:
        keys = (
            "data.batch_size", "data.class_sampling", "augment.horizontal_flip", "optim.lr",
            "trainer.max_epochs",
        )  # fmt: skip
        given = to_plain(compose_config([*small, *(f"{key}=auto" for key in keys)]))
        config, data = open_data(given)
        assert given["data"]["batch_size"] == "auto"  # left as it was
        assert data.batch_size == config["data"]["batch_size"] == 16  # of 32 clips
        assert data.class_sampling == config["data"]["class_sampling"] == 0
        assert data.augment.horizontal_flip == config["augment"]["horizontal_flip"] == 0
        assert config["trainer"]["max_epochs"] == 512  # of 2 steps
        module = build_module(config, data)
        assert module.hparams["config"] == config
        assert module.optim["lr"] == config["optim"]["lr"] > 1e-3

    def test_opened_it_draws_rare_classes_more_often(
        self, uneven: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(preset, "IMBALANCE", 3)
        config, data = open_data(to_plain(compose_config([*uneven, "data.class_sampling=auto"])))
        assert data.class_sampling == config["data"]["class_sampling"] == 1

    def test_a_mistake_stays_one_message(self, config: dict) -> None:
        with pytest.raises(UserError, match=r"^data\.root is not set"):
            build_data(config | {"data": config["data"] | {"root": None}})


class TestModule:
    def test_it_says_all_that_it_needs(self, config: dict) -> None:
        module = build_module(config, stub_data(["b", "a"]))
        assert isinstance(module, VivitModule)
        assert module.hparams["class_names"] == ["b", "a"]
        assert module.hparams["model"]["num_classes"] == 2
        assert module.hparams["sampling"] == {
            "clip_frames": 4, "frame_stride": 1, "frame_rate": None, "clip_seconds": None,
            "sampling": "window", "eval_views": [2, 1], "video_rate": 30.0,
        }  # fmt: skip
        assert module.hparams["processor"] == Processor(crop_size=16).settings()
        assert module.hparams["config"] == config
        assert module.model.head.out_features == 2

    def pretrained(self, config: dict, run: Path, **model: Any) -> dict:
        weights = str(run / "checkpoints" / "best.ckpt")
        return config | {"model": config["model"] | {"pretrained": weights} | model}

    def test_pretrained(
        self, config: dict, finished_run: Path, capsys: pytest.CaptureFixture
    ) -> None:
        config = self.pretrained(config, finished_run)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            module = build_module(config, stub_data(list(CLASS_NAMES)))
        state = torch.load(config["model"]["pretrained"], weights_only=True)["state_dict"]
        ours = module.model.state_dict()
        assert all(torch.equal(ours[name.removeprefix("model.")], v) for name, v in state.items())
        said = capsys.readouterr().out
        assert "Weights from vivit-train checkpoint" in said
        assert f"\n{len(state)} loaded\n" in said

    def test_another_order_of_classes(self, config: dict, finished_run: Path) -> None:
        config = self.pretrained(config, finished_run)
        module = build_module(config, stub_data(list(reversed(CLASS_NAMES))))
        state = torch.load(config["model"]["pretrained"], weights_only=True)["state_dict"]
        assert state["model.head.weight"].std() > 0
        assert torch.equal(module.model.head.weight, state["model.head.weight"].flip(0))

    def test_other_classes_replace_the_head(
        self, config: dict, finished_run: Path, capsys: pytest.CaptureFixture
    ) -> None:
        config = self.pretrained(config, finished_run)
        module = build_module(config, stub_data(["juggling", CLASS_NAMES[3]]))
        state = torch.load(config["model"]["pretrained"], weights_only=True)["state_dict"]
        head = module.model.head.weight
        assert head.shape == (2, 16)
        assert torch.equal(head[1], state["model.head.weight"][3])  # found by name
        assert not head[0].any()  # new, as initialised
        assert torch.equal(module.model.embed.weight, state["model.embed.weight"])
        said = capsys.readouterr().out
        assert "replaced head" in said
        assert "1 of 2 classes found by name" in said

    def test_another_size(self, config: dict, finished_run: Path) -> None:
        config = self.pretrained(config, finished_run, num_frames=8)
        assert build_module(config, stub_data(list(CLASS_NAMES))).model.grid == (4, 2, 2)

    def test_another_model(self, config: dict, finished_run: Path) -> None:
        config = self.pretrained(config, finished_run, num_layers=3)
        with pytest.raises(UserError, match=r"model\.num_layers=3, but the file's is 2"):
            build_module(config, stub_data(list(CLASS_NAMES)))

    def test_an_image_vit(self, config: dict, capsys: pytest.CaptureFixture[str]) -> None:
        """The rules of model.from_image reach the loading."""
        config = copy.deepcopy(config)
        file = GOLDEN / "ckpt_bigvision_prelinen_vit.npz"
        told = read_weights(file).model
        sizes = {k: told[k] for k in ("image_size", "hidden_size", "num_layers", "num_heads")}
        config["model"] |= sizes | {
            "mlp_size": told["mlp_size"],
            "num_frames": 4,
            "tubelet_size": [2, *told["tubelet_size"][1:]],
            "pretrained": str(file),
        }
        config["model"]["from_image"]["inflation"] = "average"
        module = build_module(config, stub_data(list(CLASS_NAMES)))
        kernel = module.model.embed.weight
        assert torch.equal(kernel[:, :, 0], kernel[:, :, 1])
        assert "average over 2" in capsys.readouterr().out

        config["model"]["from_image"]["inflation"] = "mean"
        with pytest.raises(UserError, match=r"model\.from_image\.inflation='mean' is not one of"):
            build_module(config, stub_data(list(CLASS_NAMES)))
        config["model"]["from_image"]["inflation"] = "central"
        with pytest.warns(UserWarning, match=r"trained on pixels in \(-1.0, 1.0\).*gives \(-3"):
            build_module(config, stub_data(list(CLASS_NAMES), do_normalize=True))


class TestPreparing:
    """What only a run that trains does to its model."""

    def built(self, config: dict, **changes: dict[str, Any]) -> VivitModule:
        changed = {group: config[group] | values for group, values in changes.items()}
        return build_module(config | changed, stub_data(list(CLASS_NAMES)))

    def test_freezing(self, config: dict, capsys: pytest.CaptureFixture[str]) -> None:
        module = self.built(config, optim={"freeze": "all_but_head"})
        trains = [name for name, p in module.named_parameters() if p.requires_grad]
        assert trains == ["model.head.weight", "model.head.bias"]
        total = sum(p.numel() for p in module.parameters())
        said = capsys.readouterr().out
        assert said == f"training {17 * 8} of {total:,} parameters, the rest is frozen\n"

    def test_lora(
        self, config: dict, finished_run: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """At its start the model is the pretrained one, to the bit."""
        pretrained = {"pretrained": str(finished_run / "checkpoints" / "best.ckpt")}
        plain = self.built(config, model=pretrained).eval()
        capsys.readouterr()
        module = self.built(config, model=pretrained, optim={"lora_rank": 2}).eval()
        clips = torch.randn(2, 3, 4, 16, 16)
        assert torch.equal(module.model(clips), plain.model(clips))
        # In each of two blocks: D -> 3D, D -> D, D -> M, M -> D, for D = 16 and M = 32.
        trained = 2 * 2 * (16 + 48 + 16 + 16 + 16 + 32 + 32 + 16) + 17 * 8
        total = sum(p.numel() for p in plain.parameters()) + trained - 17 * 8
        said = capsys.readouterr().out
        assert said.endswith(f"training {trained} of {total:,} parameters, the rest is frozen\n")
        assert not module.train().model.embed.training

    def test_lora_needs_weights_and_nothing_else_frozen(
        self, config: dict, finished_run: Path
    ) -> None:
        with pytest.raises(UserError, match=r"optim\.lora_rank=2 .*without model\.pretrained"):
            self.built(config, optim={"lora_rank": 2})
        pretrained = {"pretrained": str(finished_run / "checkpoints" / "best.ckpt")}
        both = {"lora_rank": 2, "freeze": "embed.*"}
        with pytest.raises(UserError, match=r"optim\.freeze=embed\.\* says otherwise: leave one"):
            self.built(config, model=pretrained, optim=both)

    def test_lora_beside_what_the_weights_lack(self, config: dict) -> None:
        file = GOLDEN / "ckpt_bigvision_prelinen_vit.npz"
        told = read_weights(file).model
        names = ("image_size", "hidden_size", "num_layers", "num_heads", "mlp_size")
        model = {name: told[name] for name in names} | {
            "tubelet_size": [2, *told["tubelet_size"][1:]],
            "attention": "factorised_encoder",
            "pretrained": str(file),
        }
        with pytest.raises(UserError, match=r"has no .* and \d+ other tensors .* random values"):
            self.built(config, model=model, optim={"lora_rank": 2})

    def test_activation_checkpointing(self, config: dict) -> None:
        model = {"attention": "factorised_encoder"}
        for value in (False, True):
            module = self.built(config, model=model | {"activation_checkpointing": value})
            used = [encoder.activation_checkpointing for encoder in module.model.encoders]
            assert used == [value, value]

    def test_compiling(self, config: dict, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CXX", "python3")  # nothing is compiled before the first batch
        assert self.built(config, model={"compile": True}).is_compiled
        assert config["model"]["compile"] == "auto"
        assert not self.built(config).is_compiled

    def test_attention_kernel(self, config: dict) -> None:
        module = self.built(config, model={"attention_kernel": "math"})
        assert module.attention_kernel == "math"
        assert module.kernel_used is None  # until there is a batch
        with pytest.raises(UserError, match=r"eager computes the formula"):
            self.built(
                config,
                model={"attention_kernel": "flash", "attention_implementation": "eager"},
            )

    def test_a_checkpoint_does_not_carry_it_on(self, config: dict) -> None:
        """Who loads the model to use it neither compiles it nor computes it twice."""
        module = self.built(config, model={"activation_checkpointing": True})
        arguments = module.hparams["model"]
        assert "activation_checkpointing" not in arguments
        assert "compile" not in arguments


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_the_first_batch_is_that_of_a_run(small: tuple[str, ...], precision: str) -> None:
    mixed = ("augment.cutmix=1.0", "augment.repeats=2")
    words = [*small, *mixed, "data.num_workers=0", f"trainer.precision={precision}"]
    plain, data = open_data(to_plain(compose_config(words)), "fit")
    first = first_batch(data, plain["trainer"])

    class Catch(Callback):
        batch: ClipBatch

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> int:
            if index == 0:
                self.batch = batch
            return -1  # no step

    catch = Catch()
    trainer = Trainer(
        accelerator="cpu", devices=1, precision=precision, max_epochs=1, limit_val_batches=0,
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, callbacks=[catch],
    )  # fmt: skip
    trainer.fit(build_module(plain, data), datamodule=data)
    assert first.shares is not None
    assert first.clips.dtype == (torch.bfloat16 if precision == "bf16-true" else torch.float32)
    for name in ("clips", "labels", "shares", "indices", "decoded"):
        assert torch.equal(getattr(first, name), getattr(catch.batch, name)), name
    assert first.seeds == catch.batch.seeds


def test_a_linear_probe_trains_nothing_else(
    small: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With every way of saving at once: tokens left out, activations computed again."""
    words = [
        *small, f"run_dir={tmp_path}", "optim.freeze=all_but_head", "optim.lr_batch_size=8",
        "model.token_drop=0.25", "model.activation_checkpointing=true", "trainer.max_epochs=1",
    ]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        config = to_plain(compose_config(words))
        data = build_data(config)
        data.setup()
        module = build_module(config, data)
        hush_lightning()
        before = {name: p.detach().clone() for name, p in module.named_parameters()}
        modes: list[bool] = []
        module.model.encoder.register_forward_hook(lambda part, *_: modes.append(part.training))
        trainer, _ = build_trainer(config, tmp_path)
        trainer.fit(module, datamodule=data)
    assert "learning rate 0.0005: optim.lr=0.001 is for 8 clips" in capsys.readouterr().out
    assert not any(modes)
    changed = [n for n, p in module.named_parameters() if not torch.equal(p, before[n])]
    assert changed == ["model.head.weight", "model.head.bias"]
