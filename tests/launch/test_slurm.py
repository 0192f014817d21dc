"""What is asked of SLURM; stopping a run tests how its job is queued again."""

import subprocess

import pytest

from vivit_train.launch import slurm


def test_a_controller_that_does_not_answer_holds_nothing_up(monkeypatch, capsys) -> None:
    def hang(command: tuple[str, ...], check: bool, timeout: float) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    slurm.cancel("7")
    told = "warning: SLURM job 7 could not be cancelled: scancel has not answered for 60 s\n"
    assert capsys.readouterr().err == told
    assert slurm.requeue("7").endswith("queued again: scontrol has not answered for 60 s")


@pytest.mark.parametrize(
    ("env", "job"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "7"}, "7"),
        ({"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}, "7_2"),
    ],
)
def test_this_job(env: dict[str, str], job: str | None, monkeypatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert slurm.this_job() == job
