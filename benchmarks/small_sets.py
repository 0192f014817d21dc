"""The documented fine-tuning command on small sets of many kinds, beside hand-picked settings.

    python train.py run_dir=runs/demo
    python benchmarks/small_sets.py --pretrained runs/demo   # hours on two cores
    python benchmarks/small_sets.py --pretrained runs/demo --sets lines speed --seed 1

Writes each set (`small_clips.py`; another seed draws other classes, numbers, rates and lengths)
and trains on it twice: with the README's words and nothing else, and with settings picked by who
knows how the set was made. Both see the same videos. Hand-picked settings are tried in the order of
`GRID` until one reaches 0.95; the best on the test videos counts. What is in the JSON file already
is not run again, so an interrupted benchmark goes on.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from measure import Arguments, cell, head, write_report
from small_clips import KINDS, SmallSet, draw_set, write_set

from vivit_train.model.weights import resolve_checkpoint

REPOSITORY = Path(__file__).parents[1]
BATCH = 16
# Steps in all, and the rest of the hand-picked settings; the set gives the others.
GRID = {
    "300 steps, lr 2e-3": (300, ["optim.lr=2e-3"]),
    "600 steps, lr 2e-3, crop": (600, ["optim.lr=2e-3", "augment=crop"]),
    "600 steps, lr 1e-3, no decay": (600, ["optim.lr=1e-3", "optim.layer_decay=1"]),
}
ENOUGH = 0.95


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    checkpoint = resolve_checkpoint(args.pretrained)
    report = read(args.output, args.seed)
    for name in args.sets:
        drawn = draw_set(name, args.seed)
        root = args.root / f"seed_{args.seed}" / name
        root.parent.mkdir(parents=True, exist_ok=True)
        write_set(drawn, root)
        for settings, words in trainings(drawn, args.settings, report["runs"]):
            run_dir = args.root / "runs" / f"{args.seed}_{name}_{settings}".replace(" ", "_")
            line = {"set": name, "settings": settings, "overrides": words}
            report["runs"].append(line | run(run_dir, root, checkpoint, words))
            write_report(report, args.output)
    print_table(report, args.sets)
    return report


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Arguments(__doc__, "small_sets_{seed}")
    parser.add_argument("--pretrained", required=True, help="a run of the demo, or its checkpoint")
    parser.add_argument("--seed", type=int, default=0, help="draws other sets of the same kinds")
    parser.add_argument("--sets", nargs="+", choices=KINDS, default=list(KINDS), metavar="SET")
    choices = ("documented", "hand-picked")
    parser.add_argument("--settings", nargs="+", choices=choices, default=choices)
    parser.add_argument("--root", type=Path, default=Path("runs/small_sets"), help="of all files")
    return parser.parse(argv)


def read(path: Path, seed: int) -> dict[str, Any]:
    """The report to go on with."""
    if path.exists():
        return json.loads(path.read_text())
    return {**head({"seed": seed}, "cpu", "torch"), "runs": []}


def trainings(
    drawn: SmallSet, settings: Sequence[str], runs: list[dict[str, Any]]
) -> Iterator[tuple[str, list[str]]]:
    """What is still to be run of a set: a name, and the words beyond the documented ones."""

    def found(name: str) -> float | None:
        scores = [r["top1"] for r in runs if (r["set"], r["settings"]) == (drawn.name, name)]
        return scores[0] if scores else None

    if "documented" in settings and found("documented") is None:
        yield "documented", []
    for name, (steps, words) in GRID.items() if "hand-picked" in settings else ():
        if max((found(other) or 0 for other in GRID), default=0) >= ENOUGH:
            return
        if found(name) is None:
            yield name, [*hand_picked(drawn, steps), *words]


def hand_picked(drawn: SmallSet, steps: int) -> list[str]:
    """What follows from how the set was made."""
    num_train = math.floor(0.8 * sum(drawn.clips))
    epochs = math.ceil(steps / math.ceil(num_train / BATCH))
    cover = drawn.kind.cover or drawn.seconds
    stride = max(1, round(drawn.rates[0] * cover / 16))
    time = f"data.frame_stride={stride}" if len(drawn.rates) == 1 else f"data.clip_seconds={cover}"
    rare = ["data.class_sampling=1"] if drawn.kind.rarest else []
    return [
        time,
        *rare,
        f"data.batch_size={BATCH}",
        f"trainer.max_epochs={epochs}",
        f"optim.warmup_epochs={epochs / 10:.1f}",
        "augment.horizontal_flip=0",
        f"trainer.check_val_every_n_epoch={epochs}",  # the last weights count
    ]


def run(folder: Path, root: Path, checkpoint: Path, words: Sequence[str]) -> dict[str, Any]:
    """One training run, as the README has it, with these words beside."""
    command = [sys.executable, "train.py", "experiment=finetune", "model=vivit_demo"]
    command += ["data=folder", f"data.root={root.absolute()}", f"model.pretrained={checkpoint}"]
    start = time.perf_counter()
    done = subprocess.run([*command, f"run_dir={folder.absolute()}", *words], cwd=REPOSITORY)
    seconds = time.perf_counter() - start
    if done.returncode:
        return {"top1": None, "seconds": seconds, "exit_code": done.returncode}
    results = json.loads((folder / "results.json").read_text())
    return {
        "top1": results["top1"],
        "mean_class_accuracy": results["mean_class_accuracy"],
        "num_videos": results["num_videos"],
        "seconds": seconds,
    }


def print_table(report: dict[str, Any], sets: Sequence[str]) -> None:
    """Markdown, as in docs/finetuning.md; a dash is what was not measured."""
    print("| set | classes | clips a class | frames/s | s | documented | hand-picked | minutes |")
    print("|---|---|---|---|---|---|---|---|")
    seed = report["settings"]["seed"]
    for name in sets:
        drawn = draw_set(name, seed)
        runs = [run for run in report["runs"] if run["set"] == name and run["top1"] is not None]
        documented = [run for run in runs if run["settings"] == "documented"]
        by_hand = [run["top1"] for run in runs if run["settings"] != "documented"]
        columns = [
            name,
            str(len(drawn.classes)),
            span(drawn.clips),
            span(drawn.rates),
            f"{drawn.seconds:.1f}",
            cell(documented[0]["top1"] if documented else None, "{:.2f}"),
            cell(max(by_hand, default=None), "{:.2f}"),
            cell(documented[0]["seconds"] / 60 if documented else None, "{:.1f}"),
        ]
        print(f"| {' | '.join(columns)} |")


def span(numbers: Sequence[int]) -> str:
    """``5 to 100``, or the one number that they all are."""
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


if __name__ == "__main__":
    main()
