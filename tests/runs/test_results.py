"""What results.json says."""

import os
from types import SimpleNamespace

import torch

from vivit_train.build import build_data, build_module
from vivit_train.config import compose_config, to_plain
from vivit_train.metrics import VideoAccuracy
from vivit_train.runs.results import headline, results_of


def test_results(small: tuple[str, ...]) -> None:
    config = to_plain(compose_config(small))
    data = build_data(config)
    data.setup("test")
    module = build_module(config, data)
    accuracy = VideoAccuracy(8, 16)
    rows = torch.arange(12)  # four are left out
    labels = torch.tensor(data.records["test"].labels.astype("int64"))[:12]
    logits = 3.0 * torch.nn.functional.one_hot(labels, 8)
    logits[:3] = -logits[:3]
    decoded = torch.ones(12, dtype=torch.bool)
    decoded[[4, 5]] = False
    accuracy.update(logits, labels, rows, decoded)
    object.__setattr__(module, "accuracy", accuracy)
    trainer = SimpleNamespace(
        lightning_module=module,
        precision="32-true",
        world_size=1,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    results = results_of(trainer, data, config)
    paths = [data.records["test"].relative_path(row) for row in (4, 5)]
    assert results["undecodable"] == paths
    assert results["top1"] == 7 / 12
    assert "loss" not in results
    assert (results["num_videos"], results["num_videos_scored"]) == (16, 12)
    scored = data.records["test"].subset(range(12))  # a score of other videos does not compare
    assert results["split_fingerprint"] == scored.fingerprint(data.class_names)
    shown = headline(results)
    assert (shown["num_videos"], shown["num_videos_scored"]) == (16, 12)
    assert results["checked"] is None
    assert results["hardware"].endswith(f"CPU, {os.cpu_count()} cores")
    assert (results["data"], results["split"], results["num_classes"]) == ("demo", "val", 8)
    assert (results["views"], results["devices"], results["seed"]) == ([2, 1], 1, 0)
