"""Folders of runs as a training leaves them, written without training."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from vivit_train.config import compose_config, to_plain
from vivit_train.io.terminal import csv_text
from vivit_train.runs.scores import class_table

NASTY = [
    "</script><script>document.title='taken'</script>",
    "=cmd|' /C calc'!A0",
    "\"quoted\" & 'quoted'",
    "<img src=x onerror=alert(1)>",
    "emoji \U0001f3c4\u200d\u2640\ufe0f",
    "\u202eright to left\u202c",
    "\u05d0\u05d1\u05d2",
    "line\nend \x1b[2J",
]


def write_run(
    folder: Path,
    names: Sequence[str] = ("up", "down", "left"),
    videos: int = 60,
    right: float = 0.8,
    words: Sequence[str] = (),
) -> np.ndarray:
    """Writes the files of a finished run; returns its pairs of true and predicted classes."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    labels = rng.integers(len(names), size=videos)
    near = (labels + rng.integers(1, 4, size=videos)) % len(names)
    guesses = np.where(rng.random(videos) < right, labels, near)
    config = to_plain(compose_config([*words, f"run_dir={folder}"]))
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    results = {
        "top1": float((labels == guesses).mean()),
        "mean_class_accuracy": 0.5,
        "macro_f1": 0.5,
        "num_videos": videos,
        "num_videos_scored": videos,
        "undecodable": [f"val/{names[0]}/broken.mp4"],
        "views": [2, 1],
        "split": "val",
        "test_is_validation": True,
        "split_fingerprint": "0123456789abcdef",
        "given_up": {f"train/{names[0]}/hangs.mp4": "it hung"},
        "devices": 1,
        "seed": 0,
        "precision": "32-true",
        "versions": {"vivit_train": "0.1.0"},
        "checkpoint": "checkpoints/best.ckpt",
    }
    (folder / "results.json").write_text(json.dumps(results))
    _write(folder / "classes.csv", class_table(labels[:, None], guesses[:, None], names))
    _write(
        folder / "predictions.csv",
        [
            {
                "video": f"val/{names[a]}/{i:05}.mp4",
                "class": names[a],
                "predicted": names[b],
                "correct": int(a == b),
            }
            for i, (a, b) in enumerate(zip(labels, guesses))
        ],
    )
    steps = range(9, 500, 10)
    train = [
        {
            "epoch": s // 100,
            "step": s,
            "train/loss": 2 / (1 + s / 100) + 0.3 * rng.random(),
            "train/top1": min(1, s / 400 + 0.2 * rng.random()),
            "train/lr": 1e-3 * (1 - s / 500),
            "train/grad_norm": 1 + rng.random(),
            "train/clips_per_second": 50 + rng.random(),
            "train/data_wait": 0.02 * rng.random(),
        }
        for s in steps
    ]
    val = [
        {"epoch": e, "step": 100 * e + 99, "val/loss": 2 / (2 + e), "val/top1": e / 6}
        for e in range(5)
    ]
    rows = sorted(train + val, key=lambda row: row["step"])
    columns = list(dict.fromkeys(key for row in rows for key in row))
    _write(folder / "metrics.csv", [{c: row.get(c, "") for c in columns} for row in rows])
    return np.stack([labels, guesses], axis=1)


def _write(path: Path, rows: list[dict]) -> None:
    path.write_text(csv_text(list(rows[0]), rows), encoding="utf-8", newline="")
