"""The parts of `gpu.py` that are runs of `train.py`: processes of their own with a time limit."""

import csv
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gpu_steps import Bench, Row
from loader import write_videos
from measure import allocated, ratio

ROOT = Path(__file__).parents[1]
CLASSES = "ab"
# Reports of clips per second that are not counted: they have compilation and the first batches.
WARMUP_REPORTS = 2

# What has been started and has not ended.
RUNNING: set["Run"] = set()


class Scale(NamedTuple):
    """How much is run.

    Attributes:
        seconds: Of a video.
        videos: Of the set; they are listed again and again.
        workers: Decoding processes of a run that is timed.
        steps: Of a run that is timed.
        every: Steps between reports of it.
        limit: Seconds of one run, from its start to its end.
        short_steps: Of a run that is not timed.
        settings: Of every run.
        short: Of runs that are not timed: fewer layers and smaller batches.
    """

    seconds: float
    videos: int
    workers: int
    steps: int
    every: int
    limit: float
    short_steps: int
    settings: tuple[str, ...]
    short: tuple[str, ...]


FULL = Scale(
    seconds=3,
    videos=3,
    workers=16,
    steps=80,
    every=10,
    limit=75,
    short_steps=120,
    settings=("model=vivit_b", "model.compile=true"),
    short=("model.num_layers=2", "data.batch_size=4", "data.num_workers=4"),
)
# On a CPU, to try the script: everything is small.
SMALL = Scale(
    seconds=1,
    videos=1,
    workers=1,
    steps=6,
    every=2,
    limit=900,
    short_steps=6,
    settings=("model=vivit_demo", "trainer.accelerator=cpu", "model.num_layers=1"),
    short=("data.batch_size=2", "data.num_workers=1"),
)


def train(bench: Bench) -> Iterator[Row]:
    """Clips per second of `train.py` beside our bare compiled step's."""
    scale = scale_of(bench)
    for batch in bench.batches:
        run = Run(bench, f"train_{batch}", timed_settings(scale, batch))
        row = run.to_its_end()
        rate = clips_per_second(run.metrics())
        bare = bench.step_clips_per_second.get(batch)
        bench.train_clips_per_second[batch] = rate
        yield {"batch": batch, "clips_per_second": rate, "share_of_step": ratio(rate, bare)} | row


def deterministic(bench: Bench) -> Iterator[Row]:
    """What `trainer.deterministic=true` costs, and whether it gives the same bits."""
    scale = scale_of(bench)
    settings = (
        *scale.short,
        f"trainer.max_steps={scale.short_steps}",
        f"callbacks.every_n_train_steps={scale.short_steps // 3}",
        "trainer.deterministic=true",
    )
    runs = {name: Run(bench, f"bits_{name}", settings) for name in ("first", "second", "killed")}
    for run in runs.values():
        run.start()
    was_killed = runs["killed"].kill_after_checkpoint()
    ends = {name: runs[name].end() for name in ("first", "second")}
    if was_killed:
        ends["killed"] = Run(bench, "bits_killed", (*settings, "ckpt_path=auto")).to_its_end()
    for name in ("second", "killed"):
        found: Row = {"compared": "the same run twice" if name == "second" else "killed, resumed"}
        found |= {"rc": [ends[each]["rc"] for each in ("first", name) if each in ends]}
        if name == "killed" and not was_killed:
            yield found | {"left_out": "the run ended before it could be killed"}
            continue
        paths = [runs[each].folder / "checkpoints" / "last.ckpt" for each in ("first", name)]
        if all(path.exists() for path in paths):
            found |= differences(*(state_of(path) for path in paths))
        else:
            found |= {"left_out": ends[name]["last_line"]}
        yield found
    batch = bench.batches[0]
    if bench.train_clips_per_second.get(batch) is None:
        list(train(replace(bench, batches=(batch,))))
    run = Run(bench, "exact", (*timed_settings(scale, batch), "trainer.deterministic=true"))
    row = run.to_its_end()
    rate, usual = clips_per_second(run.metrics()), bench.train_clips_per_second[batch]
    yield {"batch": batch, "clips_per_second": rate, "share_of_usual": ratio(rate, usual)} | row


def nccl(bench: Bench) -> Iterator[Row]:
    """The two ways to train on several GPUs, with one: they run, and the loss is finite."""
    scale = scale_of(bench)
    runs = {}
    for strategy in ("ddp", "fsdp"):
        settings = (*scale.short, f"trainer.max_steps={scale.every}", "trainer.devices=1")
        settings += (f"trainer.strategy={strategy}", f"trainer.log_every_n_steps={scale.every}")
        runs[strategy] = Run(bench, f"nccl_{strategy}", settings)
        runs[strategy].start()
    for strategy, run in runs.items():
        row = run.end()
        losses = [float(line["train/loss"]) for line in run.metrics() if line.get("train/loss")]
        yield {"strategy": strategy, "loss": losses[-1] if losses else None} | row


def scale_of(bench: Bench) -> Scale:
    return FULL if bench.is_full else SMALL


def timed_settings(scale: Scale, batch: int) -> tuple[str, ...]:
    """Of a run whose clips per second count."""
    return (
        f"data.batch_size={batch}",
        f"data.num_workers={scale.workers}",
        f"trainer.max_steps={scale.steps}",
        f"trainer.log_every_n_steps={scale.every}",
    )


class Run:
    """A run of `train.py` on generated videos, in a process group of its own.

    Args:
        bench: Gives the folder.
        name: Of the run's folder; one that is there already is gone on with.
        settings: Of `train.py`, after those that all runs have.
    """

    def __init__(self, bench: Bench, name: str, settings: tuple[str, ...]) -> None:
        allocated(bench.device)  # the run needs the memory that this process keeps
        scale = scale_of(bench)
        self.limit = scale.limit
        self.folder = bench.folder / name
        self.log = bench.folder / f"{name}.log"
        self.settings = (
            *scale.settings,
            "data=csv",
            f"data.root={make_set(bench.folder / 'set', scale)}",
            "trainer.limit_val_batches=1",
            "trainer.limit_test_batches=1",
            "data.eval_views=[1,1]",
            "trainer.enable_progress_bar=false",
            "optim.warmup_epochs=0",  # which would be longer than the run
            *settings,
            f"run_dir={self.folder}",
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.started = 0.0

    def start(self) -> None:
        """Starts it; `end` waits."""
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        print(f"train.py {' '.join(self.settings)}", file=sys.stderr, flush=True)
        self.started = time.perf_counter()
        RUNNING.add(self)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "train.py"), *self.settings],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=environment,
                start_new_session=True,
            )

    def end(self) -> Row:
        """Waits, no longer than the limit; says how it ended."""
        assert self.process is not None
        try:
            rc: int | None = self.process.wait(
                max(0.1, self.limit - (time.perf_counter() - self.started))
            )
        except subprocess.TimeoutExpired:
            rc = None
        finally:
            self.kill()
        lines = self.log.read_text(errors="replace").strip().splitlines() or [""]
        seconds = time.perf_counter() - self.started
        row: Row = {"rc": rc, "run_seconds": seconds, "last_line": lines[-1][:300]}
        if rc is None:
            row["left_out"] = f"over {self.limit:.0f} s"
        elif rc:
            row["left_out"] = "\n".join(lines[-15:])[-2000:]
        return row

    def to_its_end(self) -> Row:
        """Starts it and waits."""
        self.start()
        return self.end()

    def kill_after_checkpoint(self) -> bool:
        """Kills it as soon as it has saved; whether that was before its end."""
        assert self.process is not None
        checkpoint = self.folder / "checkpoints" / "last.ckpt"
        while self.process.poll() is None and not checkpoint.exists():
            if time.perf_counter() - self.started > self.limit:
                break
            time.sleep(0.02)
        was_running = self.process.poll() is None
        self.kill()
        return was_running and checkpoint.exists()

    def kill(self) -> None:
        """Ends what is left of it: the process and all that it started."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        RUNNING.discard(self)

    def metrics(self) -> list[dict[str, str]]:
        """The lines of its metrics.csv so far."""
        path = self.folder / "metrics.csv"
        if not path.exists():
            return []
        with path.open(newline="") as file:
            return list(csv.DictReader(file))


def kill_all() -> None:
    """Ends every run that goes on."""
    for run in list(RUNNING):
        run.kill()


def make_set(root: Path, scale: Scale) -> Path:
    """A few generated videos, listed often enough for the longest run; made once."""
    if not root.exists():
        (root / "videos").mkdir(parents=True)
        written = write_videos(root / "videos", scale.seconds, scale.videos)
        names = sorted(path.name for path in written.iterdir())
        for split, count in (("train", 4000), ("val", 32)):
            rows = [
                f"videos/{names[row % len(names)]},{CLASSES[row % len(CLASSES)]}\n"
                for row in range(count)
            ]
            (root / f"{split}.csv").write_text("".join(rows))
    return root


def clips_per_second(metrics: list[dict[str, str]]) -> float | None:
    """The median of a run's reports, without the first ones."""
    told = [line.get("train/clips_per_second") for line in metrics]
    rates = [float(rate) for rate in told if rate][WARMUP_REPORTS:]
    return statistics.median(rates) if rates else None


def state_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint."""
    return torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]


def differences(one: dict[str, Any], other: dict[str, Any]) -> Row:
    """How many tensors of two states differ, of how many, and by how much at most."""
    pairs = [(one[name], other[name]) for name in one]
    apart = [(a.double() - b.double()).abs().max().item() for a, b in pairs]
    return {
        "tensors": len(pairs),
        "tensors_that_differ": sum(not torch.equal(a, b) for a, b in pairs),
        "largest_difference": max(apart),
    }
