"""The folder that `load` takes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from tests.export.classifiers import NAMES, POOLING, build, noise
from vivit_train import load
from vivit_train.errors import UserError
from vivit_train.export import export
from vivit_train.export.clips import demo_clips
from vivit_train.model.vivit import ViViT
from vivit_train.model.weights.checkpoint import read_exported
from vivit_train.transforms.processor import Processor
from vivit_train.video.sampling import Sampling


@pytest.mark.parametrize("attention", POOLING)
def test_the_very_same_classifier(tmp_path: Path, attention: str) -> None:
    processor = Processor(crop_size=16, do_normalize=True, image_mean=(0.1, 0.2, 0.3))
    classifier = build(processor, attention=attention, pooling=POOLING[attention])
    classifier.sampling = Sampling(8, frame_stride=3)
    classifier.multi_label = attention == "factorised_encoder"
    report = export(classifier, "safetensors", tmp_path / "x", demo_clips(classifier))
    assert (report.reader, report.difference) == ("vivit-train", 0)
    back = load(tmp_path / "x")
    assert back.model.config == classifier.model.config
    assert back.processor.settings() == processor.settings()
    assert back.class_names == NAMES
    assert back.multi_label == classifier.multi_label
    assert back.config == classifier.config
    assert (back.sampling, back.eval_views) == (Sampling(8, frame_stride=3), (2, 1))
    assert not back.training
    frames = noise(2, 8, 40, 50, 3)
    assert torch.equal(back(frames), classifier(frames))
    described = json.loads((tmp_path / "x" / "vivit_train.json").read_text())
    with safe_open(tmp_path / "x" / "model.safetensors", "pt") as file:
        told = json.loads(file.metadata()["vivit_train"])
        for name in ("sampling", "multi_label"):
            assert told[name] == described[name]
    modes = {path.stat().st_mode for path in (tmp_path / "x").iterdir()}
    (tmp_path / "plain").touch()
    assert modes == {(tmp_path / "plain").stat().st_mode}
    assert ViViT(**described["model"]).config == classifier.model.config


def test_other_arguments(tmp_path: Path) -> None:
    export(build(), "safetensors", tmp_path / "x", demo_clips(build()))
    assert load(tmp_path / "x", image_size=32).processor.crop_size == (32, 32)


def test_without_a_configuration(tmp_path: Path) -> None:
    classifier = build()
    classifier.config = None
    export(classifier, "safetensors", tmp_path / "x", demo_clips(classifier))
    assert load(tmp_path / "x").config is None


class TestReadExported:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        export(build(), "safetensors", tmp_path / "x", demo_clips(build()))
        return tmp_path / "x"

    def change(self, folder: Path, **values: Any) -> None:
        path = folder / "vivit_train.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    def test_weights(self, folder: Path) -> None:
        weights = read_exported(folder)
        assert (weights.format, weights.class_names) == ("vivit_train", NAMES)
        assert weights.origin == f"vivit-train export {folder}"
        assert weights.state.keys() == build().model.state_dict().keys()

    def test_a_graph(self, folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model.pt2")
        with pytest.raises(UserError, match=r"x has no model\.safetensors: .*graph to run, not a"):
            read_exported(folder)

    def test_another_version(self, folder: Path) -> None:
        self.change(folder, format_version=2)
        with pytest.raises(
            UserError, match="has format_version 2, this version .* reads 1: export"
        ):
            read_exported(folder)
        self.change(folder, format_version=1, model={"num_classes": 5, "flux": 1})
        with pytest.raises(UserError, match=r"by another version .*: this one has no model\.flux"):
            read_exported(folder)

    def test_incomplete(self, folder: Path) -> None:
        self.change(folder, processor=None, class_names="zumba")
        message = r"vivit_train\.json is incomplete: it has no class_names, processor"
        with pytest.raises(UserError, match=message):
            read_exported(folder)

    def test_names_that_do_not_fit(self, folder: Path) -> None:
        self.change(folder, class_names=["zumba"])
        with pytest.raises(UserError, match="is inconsistent: its model has 5 classes, .* names 1"):
            read_exported(folder)

    def test_broken(self, folder: Path) -> None:
        (folder / "vivit_train.json").write_text("{")
        with pytest.raises(UserError, match="is not readable as JSON"):
            read_exported(folder)
