"""A program in place of train.py, for sweeps of it that take no time."""

import csv
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vivit_train.sweep.command import sweep

# In place of train.py: its score is 1 - |lr - 0.5|, and some seeds end badly.
PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path

words = dict(word.split("=", 1) for word in sys.argv[1:])
folder = Path(words["run_dir"].strip("'"))
assert words["ckpt_path"] == "auto"
with (folder / "starts").open("a") as file:
    print(json.dumps(words), file=file)
print("warming up")
if words["seed"] == "13":
    raise ValueError("unlucky")
if words["seed"] == "14":
    os.kill(os.getpid(), signal.SIGKILL)
if words["seed"] == "15" and len((folder / "starts").read_text().splitlines()) == 1:
    signal.signal(signal.SIGTERM, lambda *_: (folder / "saved").touch() or sys.exit(143))
    (folder / "metrics.csv").write_text("epoch,step,val/top1\\n0,7,0.01\\n")
    time.sleep(60)
lr = float(words["optim.lr"])
(folder / "metrics.csv").write_text(f"epoch,step,val/top1\\n0,7,{lr}\\n")
time.sleep(float(words.get("optim.weight_decay", 0)))
(folder / "gpus").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
(folder / "job_name").write_text(os.environ.get("SLURM_JOB_NAME", ""))
scores = dict.fromkeys(("top1", "top5", "mean_class_accuracy"), 1 - abs(lr - 0.5))
results = {**scores, "num_videos": 16, "split_fingerprint": "f"}
(folder / "results.json").write_text(json.dumps(results))
"""


Run = Callable[..., int]


def sweeping(home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Puts the program in place; what it returns runs a sweep of it in the folder ``home``."""
    path = home.parent / "program.py"
    path.write_text(PROGRAM)
    monkeypatch.setattr(sys, "argv", [str(path)])
    monkeypatch.setattr("vivit_train.sweep.runner.POLL_SECONDS", 0.02)
    for name in ("TORCHELASTIC_RUN_ID", "LOCAL_RANK", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return lambda *words: sweep(["-m", *words, f"hydra.sweep.dir='{home}'"])


def signal_once_begun(home: Path, number: int) -> None:
    """Sends this process a signal once the first trial has."""

    def send() -> None:
        while not (home / "0/metrics.csv").is_file():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=send).start()


def starts(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "starts").read_text().splitlines()]


def scores(home: Path) -> list[dict[str, str]]:
    with (home / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))
