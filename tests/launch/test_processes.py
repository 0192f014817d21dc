"""What a run makes of the processes that a launcher has started."""

import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest
from lightning.pytorch.strategies.launchers import subprocess_script

from vivit_train.errors import UserError
from vivit_train.io.terminal import is_rank_zero
from vivit_train.launch import processes
from vivit_train.launch.processes import devices_of_launcher, launched_from
from vivit_train.launch.stop_watch import StopWatch

SLURM = {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "train", "SLURM_STEP_ID": "0"}
TORCHRUN = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1", "RANK": "1"}


class TestLauncher:
    """What a run makes of the environment of torchrun, a SLURM job, mpirun."""

    @pytest.fixture(autouse=True)
    def no_cluster(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ours = ("SLURM_", "RANK", "LOCAL_", "WORLD_SIZE", "OMPI_", "PMI_", "GROUP_", "NODE_")
        for name in [name for name in os.environ if name.startswith(ours)]:
            monkeypatch.delenv(name)

    @pytest.mark.parametrize(
        ("env", "devices", "num_nodes", "used"),
        [
            ({}, 8, 1, 8),
            ({}, "auto", 1, "auto"),
            ({"WORLD_SIZE": "4"}, "auto", 1, "auto"),  # of another program
            (SLURM, 2, 1, 2),
            (SLURM, 1, 2, 1),
            (SLURM, [0, 3], 1, [0, 3]),
            (SLURM, "auto", 1, 2),
            (SLURM, -1, 2, 1),
            (SLURM | {"SLURM_NNODES": "2"}, "auto", 2, 1),
            (SLURM | {"SLURM_JOB_NAME": "interactive"}, 8, 1, 8),
            (SLURM | {"SLURM_JOB_NAME": "bash"}, 8, 1, 8),
            ({"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train"}, 1, 1, 1),
            (TORCHRUN, "auto", 1, 2),
            (TORCHRUN, 2, 1, 2),
            (TORCHRUN | {"WORLD_SIZE": "4"}, "auto", 2, 2),
            # One task per machine, which is a torchrun.
            (TORCHRUN | SLURM | {"WORLD_SIZE": "4"}, 2, 2, 2),
            # A child of Lightning's own launcher.
            ({"WORLD_SIZE": "4", "LOCAL_RANK": "1"}, "auto", 2, 2),
            ({"OMPI_COMM_WORLD_SIZE": "1"}, 8, 1, 8),
        ],
    )
    def test_processes_that_fit(self, env, devices, num_nodes, used, monkeypatch) -> None:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        assert devices_of_launcher({"devices": devices, "num_nodes": num_nodes}) == used

    @pytest.mark.parametrize(
        ("env", "devices", "message"),
        [
            (
                SLURM | {"SLURM_NTASKS": "1", "SLURM_NNODES": "1"},
                2,
                "trainer.devices=2 trainer.num_nodes=2 needs 4 processes, 2 on each machine; this "
                "SLURM job has 1, 1 on each. Use sbatch --nodes=2 --ntasks-per-node=2, or set "
                "trainer.devices=1 trainer.num_nodes=1",
            ),
            (SLURM, 2, "SLURM job has 2, 1 on each"),
            (SLURM | {"SLURM_NTASKS": "4", "SLURM_NNODES": "1"}, 2, "job has 4, 4 on each"),
            (
                {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "x"},
                2,
                "trainer.devices=2 trainer.num_nodes=2 in a SLURM job: start it as `srun python",
            ),
            (
                TORCHRUN,
                1,
                "torchrun has 2, 2 on each. Use torchrun --nnodes=2 --nproc-per-node=1, or set "
                "trainer.devices=2 trainer.num_nodes=1",
            ),
            (TORCHRUN, "auto", "needs 4 processes, 2 on each machine; torchrun has 2, 2 on each"),
            ({"OMPI_COMM_WORLD_SIZE": "2"}, 1, "mpirun has started 2 processes"),
            ({"PMI_SIZE": "2"}, "auto", "mpirun has started 2 processes"),
        ],
    )
    def test_processes_that_do_not(self, env, devices, message, monkeypatch) -> None:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UserError) as caught:
            devices_of_launcher({"devices": devices, "num_nodes": 2})
        assert message in str(caught.value)

    def test_ranks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from lightning.fabric.plugins.environments import SLURMEnvironment

        for name, value in SLURM.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "2")
        for rank in "01":
            monkeypatch.setenv("SLURM_PROCID", rank)
            assert SLURMEnvironment.detect()
            assert is_rank_zero() is (SLURMEnvironment().global_rank() == 0)
        monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
        assert not SLURMEnvironment.detect()


def test_a_run_of_one_process_tells_its_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are others, one of them may be the cause, and some seconds are for it to end."""
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: pytest.fail("waits"))
    monkeypatch.setattr(processes, "time", clock)
    with pytest.raises(ZeroDivisionError), launched_from(StopWatch()):
        _ = 1 / 0


@pytest.mark.parametrize("succeeds", [True, False])
def test_a_child_that_ends_too_slowly_is_no_lost_process(
    succeeds: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen on an overloaded machine: a run that was done ended with exit code 75."""
    exits: list[int] = []
    monkeypatch.setattr(processes.os, "_exit", exits.append)
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.2)
    before = threading.active_count()
    with suppress(OSError), launched_from(StopWatch()):
        child = subprocess.Popen(["sleep", "60"])
        subprocess_script._launch_process_observer([child])
        assert threading.active_count() > before
        if not succeeds:
            raise OSError("disk full")
    assert child.returncode == -signal.SIGKILL
    for _ in range(50):
        if threading.active_count() == before:
            break
        time.sleep(0.1)
    assert threading.active_count() == before
    assert not exits
    assert "process 1" not in capsys.readouterr().err


def test_a_child_that_is_lost_ends_a_run_that_waits_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exits: list[int] = []
    monkeypatch.setattr(processes.os, "_exit", exits.append)
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.2)
    with launched_from(StopWatch()):
        subprocess_script._launch_process_observer([subprocess.Popen(["false"])])
        for _ in range(50):
            if exits:
                break
            time.sleep(0.1)
    assert exits == [75]
    assert "process 1 of this run" in capsys.readouterr().err
