"""A run is resumed as it was begun: by its own checkpoint, read once for what is checked."""

import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from train import train
from vivit_train.build import build_data
from vivit_train.data.datamodule import VideoDataModule
from vivit_train.data.demo_clips import CLASS_NAMES, write_demo
from vivit_train.errors import UserError
from vivit_train.io.layout import CheckpointContent, HyperParameters
from vivit_train.runs import resume
from vivit_train.runs.begun import Begun, check_resumable, read_begun
from vivit_train.runs.resume import resumed
from vivit_train.transforms import processor

# Of commit 1b7c78c, before the package was laid out anew, in its second epoch of three:
#   python train.py data=demo data.root=demo data.train_per_class=2 data.val_per_class=1
#     data.batch_size=4 data.num_workers=0 data.clip_frames=2 model.num_frames=2 model.image_size=8
#     model.tubelet_size=[2,8,8] model.hidden_size=4 model.num_layers=1 model.num_heads=2
#     model.mlp_size=8 model.drop_path=0.1 model.dropout=0.1 augment=basic augment.hue=0.0
#     trainer.accelerator=cpu trainer.precision=32-true trainer.log_every_n_steps=1
#     optim.warmup_epochs=0.5 callbacks.ema_decay=0.9 trainer.devices=1 trainer.max_epochs=3
# stopped by SIGTERM in its sixth step of twelve. expected.safetensors holds the last weights of the
# same run without a stop.
OLD_RUN = Path(__file__).with_name("old_run")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The videos of the old run."""
    root = tmp_path_factory.mktemp("old") / "demo"
    write_demo(root, 2, 1)
    return root


def by_pillow(images: Tensor, size: tuple[int, int], resample: str) -> Tensor:
    """What `vivit_train.transforms.resize` does within a level: uint8 [N, 3, H, W]."""
    kind = Image.Resampling[resample.upper()]
    frames = (Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images)
    resized = np.stack([np.asarray(frame.resize(size[::-1], kind)) for frame in frames])
    return torch.from_numpy(resized).permute(0, 3, 1, 2)  # [N, H, W, 3] -> [N, 3, H, W]


@pytest.fixture(scope="module")
def old(demo: Path) -> SimpleNamespace:
    """The old run, resumed to its end: its folder, and how often each checkpoint was read."""
    run = shutil.copytree(OLD_RUN, demo.with_name("old_run"))
    loads: Counter[str] = Counter()
    checksums: Counter[str] = Counter()
    load, damage = torch.load, resume.damage

    def counted(file: Any, *args: Any, **kwargs: Any) -> Any:
        loads[Path(getattr(file, "name", file)).name] += 1
        return load(file, *args, **kwargs)

    def compared(path: Path) -> str | None:
        checksums[path.name] += 1
        return damage(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", counted)
        patch.setattr(resume, "damage", compared)
        patch.setattr(processor, "resize", by_pillow)  # which that version reproduced
        words = [f"ckpt_path={run / 'checkpoints/last.ckpt'}", f"data.root={demo}"]
        with pytest.warns(UserWarning, match=r"best\.ckpt.* is not there"):
            train(resumed(words))
    return SimpleNamespace(run=run, loads=loads, checksums=checksums)


@pytest.fixture(scope="module")
def content(old: SimpleNamespace) -> dict[str, Any]:
    """Its last checkpoint, which this version has written."""
    return torch.load(old.run / "checkpoints/last.ckpt", weights_only=True)


def test_an_old_run_ends_with_the_weights_of_one_that_was_never_stopped(
    content: dict[str, Any],
) -> None:
    """To the bit where it was recorded; another processor rounds in another way."""
    assert content["global_step"] == 12
    assert (content["position"]["epoch"], content["position"]["videos_done"]) == (3, 0)
    for name, expected in load_file(OLD_RUN / "expected.safetensors").items():
        part, _, key = name.partition("/")
        # The gradient of the key's bias is 0 but for rounding, of which AdamW makes steps.
        if not key.endswith("qkv.bias"):
            torch.testing.assert_close(content[part][key], expected, atol=1e-6, rtol=0)
    begun = torch.load(OLD_RUN / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    moved = begun["model.head.weight"] - content["state_dict"]["model.head.weight"]
    assert moved.abs().mean() > 1e-4  # other videos would show


def test_a_resumed_run_reads_its_checkpoint_once_to_check_and_once_to_load(
    old: SimpleNamespace,
) -> None:
    """Beside the pass over the checksums; the test then loads the best one."""
    assert old.checksums == {"last.ckpt": 1}
    assert old.loads == {"last.ckpt": 2, "best.ckpt": 1}


def test_the_other_processes_compare_no_checksums(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resume, "damage", lambda path: pytest.fail(f"reads all of {path}"))
    monkeypatch.setenv("RANK", "1")
    resumed([f"ckpt_path={OLD_RUN / 'checkpoints/last.ckpt'}"])


def test_a_checkpoint_holds_the_keys_that_are_named(content: dict[str, Any]) -> None:
    named = set(CheckpointContent.__annotations__)
    assert set(content) == named - {"MixedPrecision"}  # only of 16-mixed, on a GPU
    assert set(content["hyper_parameters"]) == set(HyperParameters.__annotations__)


class TestReading:
    def test_what_training_resumes_from(self) -> None:
        begun = read_begun(OLD_RUN / "checkpoints/last.ckpt")
        assert begun.run_dir == OLD_RUN
        assert begun.global_step == 6
        assert begun.position["videos_done"] == 8
        assert begun.metrics["rows"] == 6
        assert begun.class_names == list(CLASS_NAMES)
        assert begun.config["run_dir"] == "old_run"
        assert begun.splits is not None
        assert begun.splits["val"]["rows"] == 8

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("epoch", None), ("global_step", "x"), ("global_step", True), ("loops", [1]),
            ("callbacks", {1: 2}), ("optimizer_states", {}), ("lr_schedulers", [3]),
            ("position", {"epoch": "x"}), ("metrics_csv", 3), ("metrics_csv", {"rows": "x"}),
            ("metrics_csv", {}), ("splits", {"train": 3}), ("splits", {"train": {}, "val": {}}),
            ("given_up", [1]), ("training_weights", 3),
            ("loops", {"fit_loop": {"epoch_progress": {"total": {"ready": []}}}}),
        ],
    )  # fmt: skip
    def test_entries_of_other_types(self, tmp_path: Path, name: str, value: Any) -> None:
        content = torch.load(OLD_RUN / "checkpoints/last.ckpt", weights_only=True)
        torch.save(content | {name: value}, tmp_path / "last.ckpt")
        with pytest.raises(UserError, match=f"training resumes from: {name} is missing, of"):
            read_begun(tmp_path / "last.ckpt")

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(("position", {number: value})
              for number in ("videos_per_batch", "videos_per_step", "videos_per_epoch")
              for value in (0, -4, 7)),
            ("position", {"epoch": -1}), ("position", {"videos_done": -4}),
            ("position", {"videos_done": 3}), ("position", {"videos_done": 10**12}),
            ("position", {"in_batches": {"accumulate_grad_batches": 0}}),
            ("metrics_csv", {"rows": -1}), ("metrics_csv", {"next": {}}),
            ("metrics_csv", {"next": {"step": "x"}}),
            ("given_up", {"a.mp4": "xy"}), ("given_up", {"a.mp4": ["x", "y"]}),
        ],
    )  # fmt: skip
    def test_numbers_that_no_run_writes(
        self, tmp_path: Path, name: str, value: dict[str, Any]
    ) -> None:
        content = torch.load(OLD_RUN / "checkpoints/last.ckpt", weights_only=True)
        torch.save(content | {name: content[name] | value}, tmp_path / "last.ckpt")
        with pytest.raises(UserError, match=f"from: {name} is .* or has numbers that no run"):
            read_begun(tmp_path / "last.ckpt")

    @pytest.mark.parametrize("count", ["global_step", "loops"])
    def test_counts_below_zero(self, tmp_path: Path, count: str) -> None:
        content = torch.load(OLD_RUN / "checkpoints/last.ckpt", weights_only=True)
        counts = {"global_step": -1, "loops": {"fit_loop": {"current": {"ready": -1}}}}
        torch.save(content | {count: counts[count]}, tmp_path / "last.ckpt")
        with pytest.raises(UserError, match=f"from: {count} is .* or has numbers that no run"):
            read_begun(tmp_path / "last.ckpt")

    @pytest.mark.parametrize("group", ["trainer", "data", "model", "optim", "callbacks"])
    def test_a_configuration_with_a_part_of_another_type(self, tmp_path: Path, group: str) -> None:
        content = torch.load(OLD_RUN / "checkpoints/last.ckpt", weights_only=True)
        content["hyper_parameters"]["config"][group] = 1.5
        torch.save(content, tmp_path / "last.ckpt")
        with pytest.raises(UserError, match=f"not a run's configuration, .*: .*{group}"):
            read_begun(tmp_path / "last.ckpt")

    def test_of_a_version_that_did_not_say_where_it_stands(self, tmp_path: Path) -> None:
        content = torch.load(OLD_RUN / "checkpoints/last.ckpt", weights_only=True)
        del content["metrics_csv"]
        torch.save(content, tmp_path / "last.ckpt")
        with pytest.raises(UserError, match="does not hold the position in its training"):
            read_begun(tmp_path / "last.ckpt")


class TestChecking:
    @pytest.fixture
    def begun(self) -> Begun:
        return read_begun(OLD_RUN / "checkpoints/last.ckpt")

    @pytest.fixture
    def config(self, demo: Path) -> dict[str, Any]:
        config: Any = OmegaConf.to_container(OmegaConf.load(OLD_RUN / "config.yaml"))
        return config | {"data": config["data"] | {"root": str(demo)}, "allow_other_videos": False}

    @pytest.fixture
    def data(self, config: dict[str, Any]) -> VideoDataModule:
        data = build_data(config)
        data.setup()
        return data

    def test_the_runs_own(self, begun: Begun, config: dict, data: VideoDataModule) -> None:
        check_resumable(begun, config, data)

    def test_other_classes_are_named(
        self, begun: Begun, config: dict, data: VideoDataModule
    ) -> None:
        data.class_names = [*CLASS_NAMES[1:], "juggling"]
        with pytest.raises(UserError) as caught:
            check_resumable(begun, config, data)
        message = str(caught.value)
        assert f"data set has: {', '.join(sorted([CLASS_NAMES[0], 'juggling']))}. Resume" in message
        assert "model.pretrained" in message

    def test_another_order(self, begun: Begun, config: dict, data: VideoDataModule) -> None:
        data.class_names = list(reversed(CLASS_NAMES))
        with pytest.raises(UserError, match="the same names in another order"):
            check_resumable(begun, config, data)

    def test_other_settings_than_the_checkpoints(
        self, begun: Begun, config: dict, data: VideoDataModule
    ) -> None:
        """As where config.yaml was changed by hand."""
        config["optim"] = {**config["optim"], "layer_decay": 0.5, "lr": 0.5}
        config["model"] = {**config["model"], "of_another_version": 1}
        with pytest.raises(UserError, match=r"last\.ckpt cannot .*layer_decay: 1\.0 -> 0\.5"):
            check_resumable(begun, config, data)
