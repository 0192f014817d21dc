import json
import os
from pathlib import Path

import torch
from omegaconf import OmegaConf

from vivit_train.config import compose_config, to_plain
from vivit_train.runs.run_dir import versions, write_config, write_results


def test_the_configuration_comes_back(tmp_path: Path) -> None:
    plain = to_plain(compose_config(["model.image_size=[16,24]", "name='é: #1'", "run_dir=runs/a"]))
    write_config(tmp_path / "new" / "run", plain)
    assert os.listdir(tmp_path / "new" / "run") == ["config.yaml"]
    saved = OmegaConf.load(tmp_path / "new" / "run" / "config.yaml")
    assert OmegaConf.to_container(saved) == plain
    write_config(tmp_path / "new" / "run", {"seed": 1})
    assert (tmp_path / "new" / "run" / "config.yaml").read_text() == "seed: 1\n"


def test_results(tmp_path: Path) -> None:
    results = {"top1": 1 / 3, "undecodable": ["train/größe.mp4"], "views": [4, 3]}
    write_results(tmp_path / "run", results)
    text = (tmp_path / "run" / "results.json").read_text(encoding="utf-8")
    assert json.loads(text) == results
    assert "größe" in text
    assert text.endswith("}\n")
    assert os.listdir(tmp_path / "run") == ["results.json"]


def test_versions() -> None:
    found = versions()
    assert found["torch"] == torch.__version__
    assert {"vivit_train", "python", "torchvision", "lightning", "av"} < set(found)
    assert all(isinstance(version, str) and version for version in found.values())
