"""Trials as processes on this machine, each on devices of its own."""

import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vivit_train.errors import UserError
from vivit_train.io.layout import LOG_FILE
from vivit_train.runs.trial import Trial

# A line of Python's or of ours that says why a program ended.
_ERROR_LINE = re.compile(r"(error: |[\w.]*(Error|Exception|Lost|Interrupt)\b)")
# Looked up here: between fork and exec that might wait for a lock of another thread.
_PRCTL: Any = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
# Of the log's end, where the reason stands.
_TAIL_BYTES = 65536


class LocalJob:
    """A trial in a process of its own; what it prints goes to ``log.txt`` in its folder.

    If the sweep is killed, the trial is told to stop (on Linux): it saves and ends.

    Args:
        trial: What to run.
        command: The command that runs it.
        env: Its environment.
    """

    def __init__(self, trial: Trial, command: Sequence[str], env: dict[str, str]) -> None:
        self.log = trial.folder / LOG_FILE
        with self.log.open("ab") as log:
            self.begin = log.tell()  # what earlier calls said is before
            # In a session of its own: a Ctrl-C of the terminal arrives through the sweep, once.
            self.process = subprocess.Popen(
                command, env=env, stdout=log, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, start_new_session=True,
                preexec_fn=partial(stop_with_parent, os.getpid()) if _PRCTL else None,
            )  # fmt: skip

    def poll(self) -> str | None:
        """``None`` while it runs; then what its failure says, empty if it succeeded."""
        code = self.process.poll()
        if code is None:
            return None
        return "" if code == 0 else error_line(self.log, code, self.begin)

    def stop(self, number: int) -> None:
        """Passes a signal on."""
        if self.process.poll() is None:
            self.process.send_signal(number)


def stop_with_parent(parent: int) -> None:
    """For ``preexec_fn``: has the system send the child SIGTERM when its parent ends."""
    set_death_signal = 1
    _PRCTL(set_death_signal, signal.SIGTERM)
    if os.getppid() != parent:  # gone already
        os._exit(128 + signal.SIGTERM)


def error_line(log: Path, code: int, begin: int = 0) -> str:
    """The line of a log that says why its program failed.

    Args:
        log: What the program printed.
        code: Its exit code, negative for the signal that killed it.
        begin: Where in the file, in bytes, its output begins.
    """
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    with log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(begin, file.tell() - _TAIL_BYTES))
        lines = [line.rstrip() for line in file.read().decode(errors="replace").splitlines()]
    reasons = [line for line in lines if _ERROR_LINE.match(line)]
    reason = (reasons or [line for line in lines if line] or ["said nothing"])[-1]
    return f"{reason.removeprefix('error: ')} (exit code {code})"


class LocalLauncher:
    """Trials as processes on this machine.

    Args:
        n_jobs: Trials at a time. With several, each gets an equal share of the GPUs.

    Raises:
        UserError: If there are GPUs, but fewer than trials at a time.
    """

    def __init__(self, n_jobs: int) -> None:
        self.n_jobs = n_jobs
        self.gpus = visible_gpus() if n_jobs > 1 else []
        if self.gpus and len(self.gpus) < n_jobs:
            raise UserError(
                f"hydra.launcher.n_jobs={n_jobs}, but there are {len(self.gpus)} GPUs: at most one "
                "trial per GPU runs at a time"
            )

    def start(self, trial: Trial, slot: int) -> LocalJob:
        """Starts a trial.

        Args:
            trial: What to run.
            slot: 0 to ``n_jobs`` - 1; no other trial that runs has the same.
        """
        env = dict(os.environ)
        if "SLURM_JOB_NAME" in env:
            # Else Lightning takes the trial for a task of srun's, and starts no processes for it.
            env["SLURM_JOB_NAME"] = "interactive"
        if self.gpus:
            share = len(self.gpus) // self.n_jobs
            env["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus[slot * share : (slot + 1) * share])
        return LocalJob(trial, trial.command(), env)


def visible_gpus() -> list[str]:
    """The GPUs of this machine as ``CUDA_VISIBLE_DEVICES`` names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]
