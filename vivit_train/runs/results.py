"""What results.json says of a test: scores, and what they were measured on."""

import json
import os
import platform
from typing import Any

import torch
from lightning import Trainer

from vivit_train.class_names import shorten
from vivit_train.data.datamodule import VideoDataModule
from vivit_train.errors import UserError
from vivit_train.io.terminal import say
from vivit_train.module import VivitModule
from vivit_train.runs.comparison import SCORES
from vivit_train.runs.run_dir import versions


def results_of(trainer: Trainer, data: VideoDataModule, config: dict[str, Any]) -> dict[str, Any]:
    """What results.json says, after `trainer.test`; without scores where there was no test.

    ``num_videos_scored`` is less than ``num_videos`` where ``trainer.limit_test_batches`` leaves
    videos out. The fingerprint is that of the videos that were scored.

    Raises:
        UserError: If the logits of a video are not finite.
    """
    module = trainer.lightning_module
    assert isinstance(module, VivitModule)
    records, accuracy = data.records["test"], module.accuracy
    scores: dict[str, float] = {}
    rows: list[int] = []
    undecodable: list[int] = []
    non_finite: list[int] = []
    if accuracy is not None:
        scores = {k: v for k, v in accuracy.compute().items() if k != "loss"}
        with accuracy.sync_context():  # sums over processes within
            scores |= accuracy.details()
            rows = accuracy.seen.nonzero()[:, 0].tolist()
            undecodable = accuracy.undecodable.nonzero()[:, 0].tolist()
            non_finite = accuracy.non_finite.nonzero()[:, 0].tolist()
    if non_finite:
        raise UserError(
            f"the logits of {len(non_finite)} of {len(rows)} videos are NaN or infinite, so there "
            f"is no score: {shorten([records.name(row) for row in non_finite])}. The weights "
            "diverged in training, or numbers overflow in trainer.precision="
            f"{trainer.precision}: try 32-true"
        )
    return {
        **scores,
        "num_videos": len(records),
        "num_videos_scored": len(rows),
        "undecodable": [records.name(row) for row in undecodable],
        "views": list(data.eval_views),
        "split": data.splits["test"],
        "test_is_validation": data.tests_on_validation,
        "split_fingerprint": records.fingerprint(data.class_names, rows) if rows else None,
        "given_up": {name: reason for name, (_, reason) in data.given_up.items()},
        "checked": data.verdicts.counts(records, data.sampling),
        "data": data.name,
        **({"multi_label": True} if data.multi_label else {}),
        "num_classes": len(data.class_names),
        "precision": str(trainer.precision),
        "attention_kernel": module.kernel_used,
        "seed": config["seed"],
        "devices": trainer.world_size,
        "hardware": hardware(trainer.strategy.root_device),
        "versions": versions(),
    }


def hardware(device: torch.device) -> str:
    """What a run computed on: the GPU's name, or the CPU and its cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()} CPU, {os.cpu_count()} cores"


def headline(results: dict[str, Any]) -> dict[str, Any]:
    """The scores of results.json that are worth a line on the screen."""
    main = [*SCORES, "num_videos"]
    if results["num_videos_scored"] < results["num_videos"]:
        main.append("num_videos_scored")
    per_head = [name for name in results if name.endswith(("_top1", "_top5"))]
    return {name: results[name] for name in (*main, *per_head) if name in results}


def say_scores(results: dict[str, Any]) -> None:
    """Prints the line of scores with which a run and an evaluation end."""
    say(f"results {json.dumps(headline(results))}")
