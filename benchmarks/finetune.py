"""Fine-tuning beside training from scratch: steps until a new set of classes is known.

    python train.py run_dir=runs/demo                          # eight directions of motion, minutes
    python benchmarks/finetune.py --pretrained runs/demo       # four new motions, 20 clips each

Writes a folder of clips whose classes the pretrained model has never seen (swinging along four
lines, where the demo drifts; no single frame tells which), then runs `experiment=finetune
data=folder` twice with the same settings, once with model.pretrained and once without, and reads
from each run's metrics.csv when the validation first reached the target.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measure import Arguments, write_report
from rich.console import Console
from rich.table import Table

from vivit_train.data.demo_clips import draw_on_path
from vivit_train.model.weights import resolve_checkpoint
from vivit_train.video.write import write_video

# Of a model this small. A mirror makes each of the slanting lines the other.
SETTINGS = (
    "optim.lr=2e-3",
    "trainer.max_epochs=60",
    "trainer.check_val_every_n_epoch=5",
    "augment.flip_labels=[[swinging_along_falling_line,swinging_along_rising_line]]",
)
REPOSITORY = Path(__file__).parents[1]
NUM_FRAMES, HEIGHT, WIDTH = 32, 56, 72
# Class -> the axis along which the object swings, (x, y) with y down.
MOTIONS = {
    "swinging_sideways": (1, 0),
    "swinging_up_and_down": (0, 1),
    "swinging_along_falling_line": (0.7, 0.7),
    "swinging_along_rising_line": (0.7, -0.7),
}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "clips"
        write_clips(root, {"train": args.clips_per_class, "val": args.val_clips_per_class})
        starts = {
            "scratch": [],
            "pretrained": [f"model.pretrained={resolve_checkpoint(args.pretrained)}"],
        }
        results = [
            {
                "start": name,
                **run(Path(folder) / name, root, [*words, *args.overrides], args.target),
            }
            for name, words in starts.items()
        ]
    report = {
        "settings": {
            "clips_per_class": args.clips_per_class,
            "val_clips_per_class": args.val_clips_per_class,
            "target": args.target,
            "overrides": [*SETTINGS, *args.overrides],
        },
        "results": results,
    }
    print_report(report)
    write_report(report, args.output)
    return report


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Arguments(__doc__, "finetune")
    parser.add_argument("--pretrained", required=True, help="a run of the demo, or its checkpoint")
    parser.add_argument("--clips-per-class", type=int, default=20, help="to train on")
    parser.add_argument("--val-clips-per-class", type=int, default=40, help="to score")
    parser.add_argument("--target", type=float, default=0.9, help="top-1 to reach")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of both runs")
    return parser.parse(argv)


def write_clips(root: Path, clips_per_class: dict[str, int], seed: int = 0) -> None:
    """``root/<split>/<class>/<number>.mp4``, each drawn from (seed, split, class, number)."""
    for split, (role, count) in enumerate(clips_per_class.items()):
        for label, name in enumerate(MOTIONS):
            (root / role / name).mkdir(parents=True)
            for number in range(count):
                rng = np.random.default_rng((seed, split, label, number))
                frames = draw_on_path(path_of(name, rng), rng, HEIGHT, WIDTH)
                write_video(root / role / name / f"{number:03d}.mp4", frames)


def path_of(motion: str, rng: np.random.Generator) -> np.ndarray:
    """Where the object is in each frame: float [T, 2], (x, y)."""
    # Where a crop of the middle shows it: the object stays about its place.
    size = np.array([WIDTH, HEIGHT])
    centre, reach = rng.uniform(0.35 * size, 0.65 * size), rng.uniform(8, 14)
    turns = np.arange(NUM_FRAMES) / rng.uniform(16, 24) + rng.uniform()
    return centre + reach * np.cos(2 * np.pi * turns)[:, None] * np.array(MOTIONS[motion])


def run(folder: Path, root: Path, overrides: Sequence[str], target: float) -> dict[str, Any]:
    """One training run, and when its validation reached the target."""
    command = [sys.executable, "train.py", "experiment=finetune", "data=folder"]
    words = ["model=vivit_demo", f"data.root={root}", "data.frame_stride=1", "data.batch_size=16"]
    words += ["data.eval_views=[2,1]", f"run_dir={folder}", *SETTINGS, *overrides]
    subprocess.run([*command, *words], cwd=REPOSITORY, check=True)
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val/top1"]]
    curve = [(int(row["step"]) + 1, float(row["val/top1"])) for row in rows]
    reached = next((step for step, top1 in curve if top1 >= target), None)
    results = json.loads((folder / "results.json").read_text())
    return {
        "steps_to_target": reached,
        "steps": curve[-1][0],
        "best_val_top1": max(top1 for _, top1 in curve),
        "test_top1": results["top1"],
        "num_videos": results["num_videos"],
        "curve": curve,
    }


def print_report(report: dict[str, Any]) -> None:
    target = report["settings"]["target"]
    table = Table(box=None, pad_edge=False)
    for column in ("start", f"steps to {target:g}", "steps", "best val top-1", "test top-1"):
        table.add_column(column, justify="left" if column == "start" else "right")
    for line in report["results"]:
        table.add_row(
            line["start"],
            str(line["steps_to_target"] or "not reached"),
            str(line["steps"]),
            f"{line['best_val_top1']:.3f}",
            f"{line['test_top1']:.3f}",
        )
    Console(markup=False, highlight=False).print(table)


if __name__ == "__main__":
    main()
