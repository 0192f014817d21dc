"""What is asked of SLURM, by its commands."""

import os
import subprocess
import sys

from vivit_train.io.terminal import say

COMMAND_SECONDS = 60.0  # a controller that does not answer must hold nothing up


def this_job() -> str | None:
    """The SLURM job that this process is part of, with its task in an array of jobs."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def requeue(job: str) -> str:
    """Puts a job back into the queue. Returns what became of it."""
    failure = _failure_of("scontrol", "requeue", job)
    return f"could not be queued again: {failure}" if failure else "is queued again"


def cancel(job: str) -> None:
    """Has a job end: SLURM sends it SIGTERM."""
    if failure := _failure_of("scancel", job):
        say(f"warning: SLURM job {job} could not be cancelled: {failure}", file=sys.stderr)


def _failure_of(*command: str) -> str | None:
    """Runs a command of SLURM's. Returns why it failed."""
    try:
        done = subprocess.run(command, check=False, timeout=COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        return f"{command[0]} has not answered for {COMMAND_SECONDS:.0f} s"
    except OSError as error:  # e.g. in a container without SLURM's commands
        return f"{command[0]}: {error.strerror}"
    return f"{command[0]} ended with exit code {done.returncode}" if done.returncode else None
