"""What LoRA trained as a small folder, and a run that is used from another folder than its own."""

import argparse
import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.export.classifiers import build, noise
from train import train
from vivit_train import load
from vivit_train.commands import evaluate
from vivit_train.config import compose_config
from vivit_train.errors import UserError
from vivit_train.export import export
from vivit_train.export.clips import demo_clips


@pytest.fixture(scope="module")
def run(
    finished_run: Path,
    demo_root: Path,
    small: tuple[str, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A run with LoRA that was started in a folder of its own, all of its paths relative."""
    home = tmp_path_factory.mktemp("home")
    (home / "clips").symlink_to(demo_root)
    shutil.copy(finished_run / "checkpoints/best.ckpt", home / "base.ckpt")
    words = [word for word in small if "data.root" not in word and "max_epochs" not in word]
    words += ["data=demo", "data.root=clips", "model.pretrained=base.ckpt", "optim.lora_rank=2"]
    with contextlib.chdir(home):
        train(compose_config([*words, "trainer.max_epochs=1", "optim.lr=0.01", "run_dir=run"]))
    return home / "run"


@pytest.fixture
def folder(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run exported from somewhere else."""
    monkeypatch.chdir(tmp_path)
    classifier = load(run)
    report = export(classifier, "lora", tmp_path / "x", demo_clips(classifier))
    assert (report.reader, report.difference) == ("vivit-train", 0)
    return tmp_path / "x"


def test_only_what_was_trained_is_written(folder: Path, run: Path) -> None:
    held = load_file(folder / "model.safetensors")
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    matrices = {
        f"encoder.blocks.{block}.{layer}.lora_{side}"
        for block in range(2) for layer in layers for side in "ab"
    }  # fmt: skip
    assert held.keys() == matrices | {"head.weight", "head.bias"}
    ours, theirs = load(folder), load(run)
    frames = noise(2, 4, 40, 50, 3)
    assert torch.equal(ours(frames), theirs(frames))
    assert not torch.equal(ours(frames), load(run.parent / "base.ckpt")(frames))
    assert (ours.class_names, ours.sampling) == (theirs.class_names, theirs.sampling)
    told = json.loads((folder / "vivit_train.json").read_text())["base"]
    assert told["source"] == str(run.parent / "base.ckpt")
    again = folder.with_name("again")  # an export of the export
    export(ours, "lora", again, demo_clips(ours))
    for name in ("model.safetensors", "vivit_train.json"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_the_scores_from_another_folder(
    folder: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Relative paths of a run count from where it was started."""
    results = json.loads((run / "results.json").read_text())
    for source in (run, folder):
        output = folder.with_name(f"scores_of_{source.name}")
        arguments = argparse.Namespace(
            checkpoint=str(source), overrides=["data.num_workers=0"], output=output
        )
        assert evaluate.run(arguments) == 0
        ours = json.loads((output / "results.json").read_text())
        for name in ("top1", "top5", "mean_class_accuracy", "num_videos", "split_fingerprint"):
            assert ours[name] == results[name], name
        there = run.parent / "clips"
        told = f"data.root=clips is not here: {there}, seen from where the run was started"
        assert told in capsys.readouterr().out


def test_what_the_other_weights_do_not_have_is_written(folder: Path, run: Path) -> None:
    """Positions of another grid."""
    larger = load(run, image_size=32)
    export(larger, "lora", folder.with_name("larger"), demo_clips(larger))
    held = load_file(folder.with_name("larger") / "model.safetensors")
    assert "encoder.pos_embed" in held
    frames = noise(1, 4, 40, 50, 3)
    assert torch.equal(load(folder.with_name("larger"))(frames), larger(frames))


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ({"source": "/nowhere.ckpt"}, r"beside the weights /nowhere\.ckpt, which cannot be read: "),
        ({"sha256": "0"}, r"base\.ckpt, and these are others by now: .* name their place as base"),
        ({"source": "x"}, "beside the weights x, .* they are of --format lora themselves"),
        ({"sha256": 3}, r"base=.* does not name the weights .* expected their source and sha256"),
        ({"more": "x"}, "does not name the weights that LoRA was trained beside"),
    ],
)
def test_other_weights_that_are_not_there(folder: Path, base: dict[str, Any], message: str) -> None:
    path = folder / "vivit_train.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"base": told["base"] | base}))
    with pytest.raises(UserError, match=message):
        load(folder)


def test_a_folder_without_a_head(folder: Path) -> None:
    held = load_file(folder / "model.safetensors")
    save_file({"head.bias": held["head.bias"]}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"incomplete: its model\.safetensors has no head\.weight"):
        load(folder)


def test_weights_that_have_been_replaced(run: Path, tmp_path: Path) -> None:
    classifier = load(run)
    export(build(), "safetensors", tmp_path / "other", demo_clips(build()))
    assert classifier.config is not None
    classifier.config["model"]["pretrained"] = str(tmp_path / "other")
    with pytest.raises(UserError, match="other, which the run started from, are others by now"):
        export(classifier, "lora", tmp_path / "x", demo_clips(classifier))
    assert not (tmp_path / "x").exists()


def test_a_model_without_lora(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--format lora is for a run that was trained with optim"):
        export(build(), "lora", tmp_path / "x", demo_clips(build()))
