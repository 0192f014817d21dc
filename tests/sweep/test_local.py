"""Where the trials of a sweep run."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.sweep_program import signal_once_begun
from vivit_train.errors import UserError
from vivit_train.runs.trial import Trial, trials_of
from vivit_train.sweep.local import LocalLauncher, error_line
from vivit_train.sweep.slurm import SlurmLauncher


class TestLocalLauncher:
    def test_trials_at_a_time_share_the_gpus(self, run, home, monkeypatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3,GPU-5,7")
        words = ("seed=1,2,3,4", "optim.lr=0.5", "optim.weight_decay=0.3")
        assert run(*words, "hydra.launcher.n_jobs=2") == 0
        used = [(home / f / "gpus").read_text() for f in "0123"]
        assert set(used) == {"0,3", "GPU-5,7"}
        assert used[0] != used[1]

    def test_inside_a_slurm_job_trials_start_their_own_processes(self, run, home, monkeypatch):
        """Lightning takes a job of another name for one whose processes srun starts."""
        monkeypatch.setenv("SLURM_JOB_NAME", "sweep")
        assert run("seed=1,2", "optim.lr=0.5") == 0
        assert (home / "1/job_name").read_text() == "interactive"

    def test_one_at_a_time_has_all(self, run, home) -> None:
        assert run("seed=1,2", "optim.lr=0.5") == 0
        assert (home / "1/gpus").read_text() == "all"

    def test_no_more_trials_than_gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
        with pytest.raises(UserError, match="n_jobs=3, but there are 2 GPUs"):
            LocalLauncher(n_jobs=3)

    def test_trials_end_with_a_sweep_that_is_killed(self, run, home: Path) -> None:
        """They are told to stop, and save."""
        words = ["-m", "seed=15", "optim.lr=0.5", f"hydra.sweep.dir='{home}'"]
        code = f"from vivit_train.sweep.command import sweep; sweep({words!r})"
        program = sys.argv[0]  # what `run` has put in place
        code = f"import sys; sys.argv = [{program!r}]; {code}"
        parent = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY)
        begun, deadline = home / "0/metrics.csv", time.monotonic() + 60
        while not begun.is_file() and time.monotonic() < deadline:
            time.sleep(0.01)
        parent.kill()
        assert parent.wait() == -signal.SIGKILL
        while not (home / "0/saved").is_file() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (home / "0/saved").is_file()

    @pytest.mark.parametrize(
        ("log", "line"),
        [
            ("a\nerror: no room\nbye\n", "no room (exit code 3)"),
            ("a.OutOfMemoryError: CUDA\n", "a.OutOfMemoryError: CUDA (exit code 3)"),
            ("going\nstopped by SIGTERM\n\n", "stopped by SIGTERM (exit code 3)"),
            ("", "said nothing (exit code 3)"),
        ],
    )  # fmt: skip
    def test_error_line(self, log: str, line: str, tmp_path: Path) -> None:
        path = tmp_path / "log.txt"
        path.write_text("error: of an earlier call\n" + log)
        assert error_line(path, 3, begin=26) == line


SBATCH = """
import os, re, subprocess, sys
wrap = next(word for word in sys.argv if word.startswith("--wrap="))[len("--wrap="):]
log = next(word for word in sys.argv if word.startswith("--output="))[len("--output="):]
with open(os.path.join(os.path.dirname(__file__), "asked"), "a") as file:
    print(*sys.argv[1:], sep="\\n", file=file)
print("4711;cluster", flush=True)
env = os.environ | {"SLURM_JOB_ID": "4711"}
with open(log, "a") as out:
    sys.exit(subprocess.call(["sh", "-c", wrap], env=env, stdout=out, stderr=out))
"""


class TestSlurmLauncher:
    """With stand-ins for sbatch, srun and scancel: this machine is no cluster."""

    @pytest.fixture
    def cluster(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        texts = {
            "sbatch": f"#!{sys.executable}\n{SBATCH}",
            "srun": '#!/bin/sh\ncd "$(dirname "$0")"\necho "$MODULE" > module\necho $$ > pid\n'
            'exec "$@"\n',
            "scancel": '#!/bin/sh\ncd "$(dirname "$0")"\necho "$@" > cancelled\nkill $(cat pid)\n',
        }
        for name, text in texts.items():
            (folder / name).write_text(text)
            (folder / name).chmod(stat.S_IRWXU)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return folder

    def test_a_job_per_trial(self, cluster: Path, run, home: Path) -> None:
        words = ("seed=1,13", "optim.lr=0.5", "trainer.devices=4", "trainer.num_nodes=2")
        words += ("trainer.accelerator=gpu", "hydra/launcher=slurm", "hydra.launcher.n_jobs=1")
        words += ("+hydra.launcher.sbatch={partition: gpu, exclusive: true}",)
        assert run(*words, "hydra.launcher.setup='export MODULE=cuda'") == 1
        assert (home / "0/results.json").is_file()
        assert trials_of(home)[1].error == "ValueError: unlucky (exit code 1)"
        assert (cluster / "module").read_text() == "cuda\n"
        asked = (cluster / "asked").read_text().splitlines()
        for option in (
            "--wait", "--requeue", "--signal=USR1@120", "--nodes=2", "--ntasks-per-node=4",
            "--gpus-per-node=4", "--partition=gpu", "--exclusive", "--dependency=singleton",
            f"--job-name=vivit-{home}/0", "--open-mode=append",
        ):  # fmt: skip
            assert asked.count(option) >= 1, option

    def test_stopping_cancels_the_job(self, cluster: Path, run, home: Path) -> None:
        signal_once_begun(home, signal.SIGINT)
        words = ("seed=15", "optim.lr=0.5", "trainer.devices=1", "hydra/launcher=slurm")
        assert run(*words) == 128 + signal.SIGINT
        assert (cluster / "cancelled").read_text() == "4711\n"
        assert (home / "0/saved").is_file()

    def test_no_gpus_on_a_cpu(self, cluster: Path, home: Path) -> None:
        trial = Trial(home / "0", ["trainer.accelerator=cpu", "trainer.devices=2"], [])
        command = SlurmLauncher(1, 60, {}, "").command(trial)
        assert "--ntasks-per-node=2" in command
        assert "--signal=USR1@60" in command
        assert not any(word.startswith("--gpus") for word in command)
        assert command[-1].startswith(f"--wrap=srun {sys.executable} -u ")

    def test_needs_a_number_of_devices(self, cluster: Path, home: Path) -> None:
        with pytest.raises(UserError, match="trainer.devices=auto: with hydra/launcher=slurm"):
            SlurmLauncher(1, 60, {}, "").command(Trial(home / "0", [], []))

    def test_needs_a_cluster(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "")
        with pytest.raises(UserError, match="there is no sbatch on this machine"):
            SlurmLauncher(1, 60, {}, "")

    def test_needs_time_to_save(self) -> None:
        with pytest.raises(UserError, match="signal_seconds must be 1 or more, got 0"):
            SlurmLauncher(1, 0, {}, "")
