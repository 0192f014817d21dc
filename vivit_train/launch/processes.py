"""Processes of a run: which one this is, how children start, and what becomes of them."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from vivit_train.config.folders import program
from vivit_train.errors import ProcessLost, UserError
from vivit_train.io.layout import STARTING_FILE
from vivit_train.io.terminal import is_rank_zero, say
from vivit_train.launch.entry import PROCESS_LOST
from vivit_train.launch.stop_watch import StopWatch

# How long processes wait for one that is gone or stuck; above any checkpoint's writing.
COLLECTIVE_TIMEOUT_SECONDS = 600
# How long the others get to end by themselves once one has.
GRACE_SECONDS = 20.0

# What Lightning's launcher and seeding leave in the environment of the process.
_LAUNCH_VARIABLES = (
    "MASTER_ADDR",
    "MASTER_PORT",
    "NODE_RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "PL_GLOBAL_SEED",
    "PL_SEED_WORKERS",
)
_PARENT = "VIVIT_TRAIN_PARENT"  # in a child's environment: the process that started it
QUIET_HYDRA = (
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
)


def devices_of_launcher(trainer: Mapping[str, Any]) -> Any:
    """``trainer.devices`` for the processes that torchrun or srun has started.

    Lightning leaves the processes to such a launcher, and takes its own settings for their number:
    where these differ it trains several runs, or waits for processes that nobody starts.

    Args:
        trainer: Its ``devices`` and ``num_nodes``.

    Returns:
        The devices as given; for ``auto`` under a launcher its processes per machine.

    Raises:
        UserError: If the launcher has started another number of processes than the run has.
    """
    env, nodes = os.environ, trainer["num_nodes"]
    # Not the job of an interactive shell (salloc, srun --pty bash): the run starts its processes.
    is_job = "SLURM_NTASKS" in env and env.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    if "WORLD_SIZE" in env and "LOCAL_RANK" in env:
        launcher, started = "torchrun", int(env["WORLD_SIZE"])
        local = int(env.get("LOCAL_WORLD_SIZE", started // nodes))
        advice = "torchrun --nnodes={nodes} --nproc-per-node={local}"
    elif is_job:
        launcher, started = "this SLURM job", int(env["SLURM_NTASKS"])
        local = started // int(env.get("SLURM_NNODES", nodes))
        advice = "sbatch --nodes={nodes} --ntasks-per-node={local}"
    else:
        launcher = "mpirun"
        started = max(int(env.get(name, 1)) for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"))
        if started == 1:
            return trainer["devices"]
        raise UserError(
            f"mpirun has started {started} processes, which would each train a run of its own: "
            "start them with torchrun or srun"
        )
    devices = local if trainer["devices"] in ("auto", -1) else trainer["devices"]
    count = devices if isinstance(devices, int) else len(devices)
    run = f"trainer.devices={devices} trainer.num_nodes={nodes}"
    if started != count * nodes or local != count:
        raise UserError(
            f"{run} needs {count * nodes} processes, {count} on each machine; {launcher} has "
            f"{started}, {local} on each. Use {advice.format(nodes=nodes, local=count)}, or set "
            f"trainer.devices={max(local, 1)} trainer.num_nodes={started // max(local, 1)}"
        )
    if is_job and launcher != "torchrun" and count * nodes > 1 and "SLURM_STEP_ID" not in env:
        raise UserError(f"{run} in a SLURM job: start it as `srun {program()} ...`")
    return devices


@contextmanager
def launched_from(
    watch: StopWatch, run_dir: Path | None = None, config: Mapping[str, Any] | None = None
) -> Iterator[None]:
    """Within, Lightning's launcher starts the other ranks on the run's own configuration.

    Its own way repeats the command line: a sweep would start the whole sweep again in each
    child, and `${now:}` would name another folder. Afterwards the process group and the children
    are gone and the environment as before, so that the next run of a sweep starts from nothing.

    Args:
        watch: Answers signals within.
        run_dir: The run's folder; the configuration lies there for the other ranks meanwhile.
            ``None``: they are started by the command line of this process.
        config: The run's, resolved.

    Raises:
        ProcessLost: If the run fails because one of its processes is gone.
    """
    import torch.distributed
    from lightning.pytorch.strategies.launchers import subprocess_script

    children = watch.children
    ended = threading.Event()  # this process has found out by itself how the run ended

    def command() -> list[str]:
        assert run_dir is not None
        OmegaConf.save(dict(config or {}), run_dir / STARTING_FILE)
        words = [sys.executable, os.path.abspath(sys.argv[0])]
        name = STARTING_FILE.removesuffix(".yaml")
        words += ["--config-path", str(run_dir.resolve()), "--config-name", name]
        return [*words, *QUIET_HYDRA]

    def observe(child_processes: list[subprocess.Popen]) -> None:
        children.extend(child_processes)
        # For where this process waits in a collective for a child that is gone.
        threading.Thread(target=_end_with_children, args=(children, ended), daemon=True).start()

    ours: dict[str, Any] = {"_launch_process_observer": observe}
    if run_dir is not None:
        # The first where Hydra has not composed the configuration, as in a resumed run.
        ours["_basic_subprocess_cmd"] = command
        ours["_hydra_subprocess_cmd"] = lambda local_rank: (command(), os.getcwd())
    stock = {name: getattr(subprocess_script, name) for name in ours}
    parent = watch.parent = _parent()
    watch.speaks = is_rank_zero()
    before = {name: os.environ.get(name) for name in (*_LAUNCH_VARIABLES, _PARENT)}
    end_with_parent()
    for name, function in ours.items():
        setattr(subprocess_script, name, function)
    os.environ[_PARENT] = str(os.getpid())
    grace = 0.0
    with watch:
        try:
            yield
            grace = GRACE_SECONDS
        except SystemExit as end:  # of all processes at the same step
            if end.code == 1 and watch.received == signal.SIGINT:  # Lightning's, before training
                raise KeyboardInterrupt from None
            grace = GRACE_SECONDS
            raise
        except Exception as error:
            lost = None if isinstance(error, UserError | OSError) else _lost(children, parent, 3.0)
            if lost is not None:
                raise ProcessLost(lost) from error
            raise
        finally:
            ended.set()
            _end(children, grace)
            if children and run_dir is not None:
                (run_dir / STARTING_FILE).unlink(missing_ok=True)
            for name, function in stock.items():
                setattr(subprocess_script, name, function)
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _lost(
    children: list[subprocess.Popen], parent: int | None = None, seconds: float = 0.0
) -> str | None:
    """Says which child has failed, or that the parent is gone, if that happens within seconds."""
    if parent is None and not children:
        return None  # a run of one process does not wait to tell its error
    deadline = time.monotonic() + seconds
    while True:
        if parent is not None and os.getppid() != parent:
            return (
                f"process 0 of this run (pid {parent}) is gone, and the others cannot continue "
                "without it. Resume from the last checkpoint with ckpt_path=last"
            )
        for rank, child in enumerate(children, start=1):
            code = child.poll()
            if code:
                how = (
                    f"was killed by {signal.Signals(-code).name}"
                    if code < 0
                    else f"ended with exit code {code} (what it said is above)"
                )
                return (
                    f"process {rank} of this run (pid {child.pid}) {how}, and the others cannot "
                    "continue without it. Resume from the last checkpoint with ckpt_path=last"
                )
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.1)


def _end_with_children(children: list[subprocess.Popen], ended: threading.Event) -> None:
    told = None
    while told is None and any(child.poll() is None for child in children):
        if ended.wait(0.5):
            return  # and a child that is killed for ending too slowly is no loss
        told = _lost(children)
    told = told or _lost(children)
    # Time for this process to find out, or to end for the same reason.
    if told and not ended.wait(GRACE_SECONDS):
        say(f"error: {told}", file=sys.stderr)
        _end(children, 0.0)
        os._exit(PROCESS_LOST)


def _end(children: list[subprocess.Popen], seconds: float) -> None:
    """Waits for the children and kills those that are left, also if the wait is interrupted."""
    deadline = time.monotonic() + seconds
    try:
        for child in children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, deadline - time.monotonic()))
    finally:
        for child in children:
            child.kill()  # nothing where it has ended
            child.wait()


def _parent() -> int | None:
    """The process that started this one, if this one is a child of a run."""
    parent = os.environ.get(_PARENT)
    if parent is None or os.environ.get("LOCAL_RANK", "0") == "0":
        return None
    return int(parent)


def end_with_parent() -> None:
    """Ends this process, if it is a child of a run, soon after the one that started it."""
    parent = _parent()
    if parent is None:
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        time.sleep(GRACE_SECONDS)  # its own end in peace, if it finds out by itself
        os._exit(PROCESS_LOST)

    threading.Thread(target=watch, daemon=True).start()
