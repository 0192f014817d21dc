"""The pages docs/extending.md and docs/python.md do what they say, with small sizes."""

import csv
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.conftest import REPOSITORY
from tests.faults import same_run
from train import train
from vivit_train import Folder
from vivit_train.config import command_line, compose_config, use_config_dir
from vivit_train.errors import UserError
from vivit_train.runs.resume import resumed


def code_of(page: str, language: str) -> list[str]:
    text = (REPOSITORY / f"docs/{page}.md").read_text()
    blocks = re.split(r"^```", text, flags=re.MULTILINE)[1::2]
    parts = (block.partition("\n") for block in blocks)
    return [code for name, _, code in parts if re.fullmatch(language, name)]


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the page, with each of its files."""
    folder = tmp_path_factory.mktemp("mine")
    for code in code_of("extending", "(?:python|yaml)"):
        path = folder / code.splitlines()[0].removeprefix("# ")
        path.parent.mkdir(exist_ok=True)
        path.write_text(code)
        assert len(code.splitlines()) < 30
    use_config_dir(str(folder))
    yield folder
    use_config_dir(None)


@pytest.fixture(scope="module")
def cameras(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of the demo as those of two cameras, and of one that is not asked for."""
    root = tmp_path_factory.mktemp("cameras")
    for clip in sorted(demo_root.glob("*/*/*.mp4")):
        split, name, number = clip.relative_to(demo_root).with_suffix("").parts
        for camera in ("north", "east"):
            place = root / split / f"{camera}_{name.replace('_', '-')}_{number}.mp4"
            place.parent.mkdir(exist_ok=True)
            place.symlink_to(clip)
    return root


@pytest.fixture(scope="module")
def run(
    mine: Path, cameras: Path, small: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run by the page's command."""
    lines = [line for code in code_of("extending", "") for line in code.splitlines()]
    line = next(line for line in lines if "--config-dir" in line)
    call = command_line(shlex.split(line)[2:])
    sizes = [word for word in small if "_per_class" not in word and "data.root" not in word]
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    words = [word for word in call.words if "data.root" not in word]
    where = [f"data.root={cameras}", f"run_dir={run_dir}", "callbacks.every_n_train_steps=5"]
    own = ["logger.extra.csv._target_=lightning.pytorch.loggers.CSVLogger"]
    own += [f"logger.extra.csv.save_dir={run_dir}", "logger.extra.csv.name=mine"]
    optimiser = ["optim=torch", "optim.arguments.betas=[0.5,0.8]"]
    words_of_page = [w for line in lines if line.startswith("python ") for w in shlex.split(line)]
    optimiser += [word for word in words_of_page if word.startswith("optim.schedule")]
    own += [word for word in words_of_page if word.startswith("callbacks.extra.lr")]
    return train(compose_config([*words, *sizes, *where, *own, *optimiser]))


def test_parts_of_ones_own(run: Path) -> None:
    last = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    config = last["hyper_parameters"]["config"]
    assert (config["model"]["name"], config["data"]["cameras"]) == ("wide", ["north", "south"])
    assert config["callbacks"]["extra"]["spikes"]["factor"] == 3
    assert config["optim"]["_target_"] == "torch.optim.NAdam"
    # The schedule moves the first one against the rate, up to 0.95.
    betas = last["optimizer_states"][0]["param_groups"][0]["betas"]
    assert tuple(betas) == (pytest.approx(0.95, abs=0.01), 0.8)
    assert last["callbacks"]["Spikes"]["mean"] > 0
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/spikes"]]
    rates = [float(row["train/lr"]) for row in rows]
    assert len(rates) == last["global_step"] == 16  # of one camera
    # One cycle: up to the highest rate in three tenths of the steps, then down to nearly nothing.
    assert max(rates) == max(rates[3:6]) == pytest.approx(3e-3, rel=0.1)
    assert rates[-1] < rates[0] / 100
    assert float(rows[-1]["lr-NAdam/pg1"]) == pytest.approx(rates[-1], rel=1e-6)
    assert "train/loss" in (run / "mine/version_0/metrics.csv").read_text().splitlines()[0]
    assert "mlp_size: 32" in (run / "mine/version_0/hparams.yaml").read_text()


def test_resuming_is_exact_with_a_callback_of_ones_own(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    words = [f"ckpt_path={copy}/checkpoints/previous.ckpt", "logger.extra.csv=null"]
    words.append("data._target_=cameras.Cameras")
    words.append("callbacks.extra.lr._target_=lightning.pytorch.callbacks.LearningRateMonitor")
    with pytest.raises(UserError, match=r"callbacks\.extra\.spikes\._target_=spikes\.Spikes, a cl"):
        resumed(words)
    words.append("callbacks.extra.spikes._target_=spikes.Spikes")
    for word in ("optim.lr=0.5", "trainer.max_epochs=9"):
        with pytest.raises(UserError, match=rf"has the state of optim\.schedule.*{word[:6]}.* -> "):
            train(resumed([*words, word]))
    config = resumed(words)
    assert 0 < torch.load(config.ckpt_path, weights_only=True)["global_step"] < 16
    train(config)
    same_run(copy, run)
    states = [torch.load(r / "checkpoints/last.ckpt", weights_only=True) for r in (copy, run)]
    assert states[0]["callbacks"]["Spikes"] == states[1]["callbacks"]["Spikes"]
    (told,) = (line for line in capsys.readouterr().out.splitlines() if "keeps no state" in line)
    assert told.startswith("callbacks.extra.lr (LearningRateMonitor) ")


def test_resuming_is_exact_with_mlflow(
    small: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    words = [*small, "logger=mlflow", "callbacks.every_n_train_steps=5"]
    whole = train(compose_config([*words, f"run_dir={tmp_path}/whole"]))
    copy = shutil.copytree(whole, tmp_path / "copy")
    train(resumed([f"ckpt_path={copy}/checkpoints/previous.ckpt"]))
    same_run(copy, whole)
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("vivit-train")
    (only,) = client.search_runs([experiment.experiment_id])
    assert only.data.params["optim.layer_decay"] == "0.8"
    steps = [metric.step for metric in client.get_metric_history(only.info.run_id, "train/loss")]
    assert sorted(set(steps)) == list(range(16))


@pytest.mark.parametrize("preset", ["fast", "overfit"])
def test_debug_presets(preset: str, small: tuple[str, ...], tmp_path: Path) -> None:
    """Of a run with all that they turn off, on 32 clips; see docs/configuration.md."""
    given = {word.partition("=")[0] for word in small}
    text = (REPOSITORY / f"configs/debug/{preset}.yaml").read_text()
    keys = leaves(yaml.safe_load(text))
    words = [word for word in small if word.partition("=")[0] not in keys]
    assert len(words) < len(given)
    length = ["trainer.max_epochs=20"] if preset == "overfit" else []
    words += ["augment.mix_min_videos=0", f"debug={preset}", f"run_dir={tmp_path}/run", *length]
    run = train(compose_config(words))
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    if preset == "fast":
        assert len(losses) == 3
        assert [row["step"] for row in rows if row["test/top1"]] == ["3"]
        return
    assert len(losses) == 2  # of 20 steps, each an epoch
    assert losses[1] < losses[0]
    assert not any(row.get("val/top1") for row in rows)


def leaves(part: dict[str, Any], prefix: str = "") -> set[str]:
    """The keys that a file of configs/ sets."""
    return {
        key
        for name, value in part.items()
        for key in (
            leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}"]
        )
    }


TINY = (
    "image_size=16, num_frames=4, tubelet_size=(2, 8, 8), hidden_size=16, num_layers=1, "
    "num_heads=2, mlp_size=32"
)


def test_a_plain_trainer(demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, sizes = code_of("python", "python")
    assert len([line for line in code.splitlines() if line]) < 30
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(sizes.replace("/data/mine", str(demo_root)), names)
    assert names["data"].augment.repeats == 2
    processor = names["Processor"](crop_size=16)
    names = {"processor": processor}
    settings = f'root="{demo_root}", clip_frames=4, num_workers=0, processor=processor'
    for old, new in (
        ('root="/data/mine"', settings),
        ("num_classes=num_classes", f"num_classes=num_classes, {TINY}"),
        ("max_epochs=10", "max_epochs=1, accelerator='cpu', enable_progress_bar=False"),
    ):
        assert old in code
        code = code.replace(old, new)
    exec(code, names)
    assert names["trainer"].global_step == 4  # 32 clips / 8
    assert 0 <= names["trainer"].callback_metrics["val/top1"] <= 1


def test_a_folder_has_usable_defaults(demo_root: Path) -> None:
    data = Folder(root=str(demo_root))
    data.setup()
    assert (data.name, data.sampling.clip_frames, data.sampling.frame_stride) == ("folder", 32, 2)
    assert data.processor.crop_size == (224, 224)
    assert (data.batch_size, len(data.class_names)) == (8, 8)
