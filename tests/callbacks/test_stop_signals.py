"""What a run that is told to stop says, and how its SLURM job is queued again."""

import os
import signal
import stat
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from vivit_train.callbacks.stop_signals import Stopped, StopSignals
from vivit_train.launch.stop_watch import StopWatch

LAST = Path("a run/last.ckpt")
GO_ON = "resume with: python train.py ckpt_path='a run/last.ckpt'\n"


@pytest.fixture(autouse=True)
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.py").symlink_to(REPOSITORY / "train.py")  # as in a clone
    LAST.parent.mkdir()
    LAST.touch()


@pytest.fixture(autouse=True)
def no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for SLURM's command: it fails for job 13. Where it writes its arguments."""
    path = tmp_path / "bin" / "scontrol"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n[ "$2" != 13 ]\n')
    path.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "asked"


def test_the_first_signal_counts() -> None:
    stop = StopSignals(StopWatch())
    stop._take_down(signal.SIGTERM, None)
    stop._take_down(signal.SIGUSR1, None)
    with pytest.raises(Stopped) as caught:
        stop._stop_if_told()
    assert caught.value.code == 128 + signal.SIGTERM


def test_where_nothing_was_saved(capsys: pytest.CaptureFixture[str]) -> None:
    Stopped(signal.SIGTERM).report(Path("evaluations/checkpoints/last.ckpt"))
    assert capsys.readouterr().err == "stopped by SIGTERM; nothing was saved\n"


class TestRequeue:
    @pytest.mark.parametrize(
        ("env", "job"),
        [
            ({"SLURM_JOB_ID": "7"}, "7"),
            (
                {
                    "SLURM_JOB_ID": "9",
                    "SLURM_ARRAY_JOB_ID": "7",
                    "SLURM_ARRAY_TASK_ID": "2",
                },
                "7_2",
            ),
        ],
    )
    def test_the_job_is_queued_again(self, env, job, scontrol: Path, monkeypatch, capfd) -> None:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        Stopped(signal.SIGUSR1).report(LAST)
        assert scontrol.read_text() == f"requeue {job}\n"
        told = f"stopped by SIGUSR1; {GO_ON}SLURM job {job} is queued again\n"
        assert capfd.readouterr().err == told

    def test_only_by_the_signal_of_a_job(self, scontrol: Path, monkeypatch, capfd) -> None:
        Stopped(signal.SIGUSR1).report(LAST)  # in no job
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        Stopped(signal.SIGTERM).report(LAST)  # scancel
        assert not scontrol.exists()
        assert capfd.readouterr().err == f"stopped by SIGUSR1; {GO_ON}stopped by SIGTERM; {GO_ON}"

    def test_slurm_refuses(self, scontrol: Path, monkeypatch, capfd) -> None:
        monkeypatch.setenv("SLURM_JOB_ID", "13")
        Stopped(signal.SIGUSR1).report(LAST)
        told = "SLURM job 13 could not be queued again: scontrol ended with exit code 1\n"
        assert capfd.readouterr().err.endswith(told)

    def test_without_slurms_commands(self, monkeypatch, capfd) -> None:
        """As in a container."""
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setenv("PATH", "")
        Stopped(signal.SIGUSR1).report(LAST)
        told = "SLURM job 7 could not be queued again: scontrol: No such file or directory\n"
        assert capfd.readouterr().err.endswith(told)
