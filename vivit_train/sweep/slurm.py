"""Trials as jobs of a SLURM cluster."""

import os
import re
import shlex
import shutil
import signal
from collections.abc import Mapping
from typing import Any

from vivit_train.config import compose_config, to_plain
from vivit_train.errors import UserError
from vivit_train.io.layout import LOG_FILE
from vivit_train.launch import slurm
from vivit_train.runs.trial import Trial
from vivit_train.sweep.local import LocalJob


class SlurmJob(LocalJob):
    """A trial in the queue: ``sbatch --wait`` ends when the job does, with its exit code."""

    def stop(self, number: int) -> None:
        """Cancels the job: SLURM sends SIGTERM, and the run saves."""
        # The first line that `sbatch --parsable` prints: JOB or JOB;CLUSTER.
        with self.log.open("rb") as log:
            log.seek(self.begin)
            match = re.match(rb"(\d+)(;\S+)?\n", log.read(256))
        if match:
            slurm.cancel(match[1].decode())
        else:  # not submitted yet
            super().stop(signal.SIGTERM)


class SlurmLauncher:
    """Trials as jobs of a SLURM cluster; the sweep waits for them, e.g. on the login node.

    A sweep that is killed leaves its jobs in the queue. The same command waits for them anew: jobs
    of the same trial never run at the same time.

    Args:
        n_jobs: Jobs in the queue at a time.
        signal_seconds: How long before its end a job gets the signal to save and to queue again.
        sbatch: Long options of sbatch by name; ``true`` for those without a value.
        setup: Shell command before the run.

    Raises:
        UserError: If there is no SLURM here, or ``signal_seconds`` is less than 1.
    """

    def __init__(
        self, n_jobs: int, signal_seconds: int, sbatch: Mapping[str, Any], setup: str
    ) -> None:
        if signal_seconds < 1:
            raise UserError(
                f"hydra.launcher.signal_seconds must be 1 or more, got {signal_seconds}"
            )
        if shutil.which("sbatch") is None:
            raise UserError(
                "hydra/launcher=slurm: there is no sbatch on this machine; start the sweep on the "
                "login node of a SLURM cluster, or without hydra/launcher"
            )
        self.n_jobs = n_jobs
        self.signal_seconds = signal_seconds
        self.options = dict(sbatch)
        self.setup = setup

    def start(self, trial: Trial, slot: int) -> SlurmJob:
        """See `LocalLauncher`; the slot means nothing here."""
        return SlurmJob(trial, self.command(trial), dict(os.environ))

    def command(self, trial: Trial) -> list[str]:
        """The command that submits a trial and waits for it.

        Raises:
            UserError: If ``trainer.devices`` is not a number.
        """
        trainer = to_plain(compose_config(trial.overrides))["trainer"]
        devices = trainer["devices"]
        if not isinstance(devices, int) or devices < 1:
            raise UserError(
                f"trainer.devices={devices}: with hydra/launcher=slurm it must be the number of "
                "GPUs per node, e.g. trainer.devices=4"
            )
        log = trial.folder.resolve() / LOG_FILE
        options: dict[str, Any] = {
            "job-name": f"vivit-{trial.folder.resolve()}",
            "dependency": "singleton",
            "nodes": trainer["num_nodes"],
            "ntasks-per-node": devices,
            "gpus-per-node": None if trainer["accelerator"] == "cpu" else devices,
            "signal": f"USR1@{self.signal_seconds}",
            "requeue": True,
            "open-mode": "append",
            "output": str(log),
            **self.options,
        }
        words = [
            f"--{name}" if value is True else f"--{name}={value}"
            for name, value in options.items()
            if value not in (None, False)
        ]
        script = " && ".join(filter(None, [self.setup, f"srun {shlex.join(trial.command())}"]))
        return ["sbatch", "--parsable", "--wait", *words, f"--wrap={script}"]
