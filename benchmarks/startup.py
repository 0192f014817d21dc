"""Seconds from a command to its answer: help, a typo, the first step; and what is imported.

    python benchmarks/startup.py                                 # some minutes
    python benchmarks/startup.py --repeats 1 --cases help typo

Each time is that of a fresh process, with the files in the page cache: the commands take turns, and
the first round is not counted. The first step of a run is seen in its metrics.csv, which has a row
as soon as a step is done with `trainer.log_every_n_steps=1`; the run is then killed. Imports are
those of one more such run, by `python -X importtime`: each package's own, without what it imports
in turn, before the first step.
"""

import argparse
import collections
import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from measure import Arguments, head, write_report
from rich.console import Console
from rich.table import Table

from vivit_train.runs.metrics_csv import read_metrics

ROOT = Path(__file__).parents[1]
CASES = {
    "import": "import vivit_train",
    "help": "train.py --help",
    "vivit": "vivit --help",
    "typo": "train.py modle=vivit_b",
    "step": "train.py, its first step",
    "resume": "train.py ckpt_path=..., its first step",
    "write": "train.py, its first step, writing the clips",
}
PACKAGES_SHOWN = 12
POLL_SECONDS = 0.01


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder), args.overrides)
        if set(args.cases) & {"step", "resume"}:
            runs.prepare()
        seconds: dict[str, list[float]] = {case: [] for case in args.cases}
        for round_ in range(args.repeats + 1):
            for case in args.cases if round_ % 2 else reversed(args.cases):
                print(f"round {round_} of {args.repeats}: {case}", file=sys.stderr, flush=True)
                seconds[case].append(getattr(runs, f"run_{case}")())
        imports = runs.imports() if "step" in args.cases else {}
    settings = {"repeats": args.repeats, "overrides": args.overrides}
    packages = ("torch", "lightning", "torchmetrics", "hydra-core", "vivit-train")
    report = {
        **head(settings, "cpu", *packages),
        "results": {
            case: {"seconds": times[1:], "median": statistics.median(times[1:])}
            for case, times in seconds.items()
        },
        "import_seconds": imports,
    }
    print_report(report)
    write_report(report, args.output)
    return report


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Arguments(__doc__, "startup")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=5, help="rounds after the warm-up")
    parser.add_argument("--overrides", nargs="*", default=[], help="of the runs that train")
    return parser.parse(argv)


class Runs:
    """The commands, each a process from its start to what is waited for; all in seconds.

    Args:
        folder: Where the runs write.
        overrides: Of the runs that train.
    """

    def __init__(self, folder: Path, overrides: Sequence[str]) -> None:
        self.folder, self.overrides = folder, list(overrides)
        self.demo, self.run_dir = folder / "demo", folder / "run"

    def prepare(self) -> None:
        """The demo's clips, and a run of one step to resume."""
        short = (
            "trainer.max_steps=1",
            "optim.warmup_epochs=0",
            "trainer.limit_val_batches=1",
            "trainer.limit_test_batches=1",
        )
        finish(self._train("data=demo", f"data.root={self.demo}", *short))

    def run_import(self) -> float:
        """The package alone."""
        return finish(["-c", "import vivit_train"])

    def run_help(self) -> float:
        """The help of training."""
        return finish(["train.py", "--help"])

    def run_vivit(self) -> float:
        """The help of the other commands."""
        return finish(["-m", "vivit_train", "--help"])

    def run_typo(self) -> float:
        """The answer to a key that does not exist."""
        return finish(["train.py", "modle=vivit_b"], exit_code=1)

    def run_step(self) -> float:
        """A run on clips that are there."""
        return self._first_step(self._train("data=demo", f"data.root={self.demo}", new=True), 0)

    def run_write(self) -> float:
        """A run that writes its clips."""
        root = self.folder / "new_demo"
        shutil.rmtree(root, ignore_errors=True)
        return self._first_step(self._train("data=demo", f"data.root={root}", new=True), 0)

    def run_resume(self) -> float:
        """A run from its checkpoint: the step after those that it has done."""
        copy = self.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.run_dir, copy)
        words = [f"ckpt_path={copy}/checkpoints/last.ckpt", "trainer.max_steps=100"]
        return self._first_step(["train.py", *words], 1, copy)

    def imports(self) -> dict[str, float]:
        """Seconds of each top-level package's own modules, the longest first."""
        log = self.folder / "imports.txt"
        words = ["-X", "importtime", *self._train("data=demo", f"data.root={self.demo}", new=True)]
        self._first_step(words, 0, stderr=log)
        return own_seconds(log)

    def _train(self, *words: str, new: bool = False) -> list[str]:
        if new:
            shutil.rmtree(self.folder / "new", ignore_errors=True)
        run_dir = self.folder / "new" if new else self.run_dir
        words = (*words, f"run_dir={run_dir}", "trainer.log_every_n_steps=1", *self.overrides)
        return ["train.py", *words]

    def _first_step(
        self, words: list[str], step: int, run_dir: Path | None = None, stderr: Path | None = None
    ) -> float:
        metrics = (run_dir or self.folder / "new") / "metrics.csv"
        return until(words, lambda: has_step(metrics, step), stderr)


def finish(words: Sequence[str], exit_code: int = 0) -> float:
    """Seconds until a Python program ends, with the exit code that it should have."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    if done.returncode != exit_code:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
    return seconds


def until(words: Sequence[str], arrived: Callable[[], bool], stderr: Path | None) -> float:
    """Seconds until something is there that a Python program makes; the program is then killed."""
    with tempfile.TemporaryFile() as output, open(stderr or os.devnull, "w") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            stdout=output,
            stderr=errors if stderr else output,
            start_new_session=True,
        )
        try:
            while not arrived():
                if process.poll() is not None:
                    output.seek(0)
                    raise SystemExit(f"{' '.join(words)} ended:\n{output.read().decode()}")
                time.sleep(POLL_SECONDS)
            return time.perf_counter() - start
        finally:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.killpg(process.pid, signal.SIGKILL)  # its workers too
            process.wait()


def has_step(metrics: Path, step: int) -> bool:
    """Whether a run's metrics.csv has a whole row of a step, counted from 0."""
    rows = read_metrics(metrics)
    return any("train/loss" in row.scores and row.step >= step for row in rows)


def own_seconds(log: Path) -> dict[str, float]:
    """What `python -X importtime` wrote, added up by top-level package."""
    microseconds: collections.Counter[str] = collections.Counter()
    for line in log.read_text().splitlines():
        prefix, _, columns = line.partition("import time:")
        own, _, rest = columns.partition("|")
        if not prefix and own.strip().isdigit():
            microseconds[rest.rpartition("|")[2].strip().split(".")[0]] += int(own)
    return {package: count / 1e6 for package, count in microseconds.most_common()}


def print_report(report: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("command")
    table.add_column("seconds", justify="right")
    for case, result in report["results"].items():
        table.add_row(CASES[case], f"{result['median']:.2f}")
    console = Console(markup=False, highlight=False)
    console.print(f"{report['hardware']['cpu']}; medians of {report['settings']['repeats']}\n")
    console.print(table)
    imports = list(report["import_seconds"].items())
    if imports:
        shown = ", ".join(f"{name} {seconds:.2f}" for name, seconds in imports[:PACKAGES_SHOWN])
        total = sum(seconds for _, seconds in imports)
        console.print(f"\nimports before the first step {total:.1f} s, of which {shown}")


if __name__ == "__main__":
    main()
