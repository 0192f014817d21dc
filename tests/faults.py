"""A training in a process of its own, to be killed, stopped and starved.

The process is a fork of a server that has imported what is heavy, which saves the seconds of a
fresh interpreter. What comes after is as for a user: arguments, working directory, output, signals
and exit code are its own, and the program runs as the main module. It does not test that imports
are late, nor what an environment variable does that is read at an import.
"""

import csv
import functools
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY, measure_small_matrices
from vivit_train.__main__ import main

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.faults", "train", "vivit_train.build", "av"])
measure_small_matrices()  # in the server too, which imports this module

Fault = Callable[[], None]


def _run(program: str, words: list[str], log: Path, fault: Fault | None) -> None:
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(REPOSITORY)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [program, *words]
    if fault is not None:
        fault()
    runpy.run_path(program, run_name="__main__")


class Training:
    """``python train.py WORDS`` under way.

    Args:
        words: The command line.
        log: Where what it prints is added.
        fault: Called in the process before it starts, to break something there.
        program: The file that is run, in place of train.py.
    """

    def __init__(
        self, words: list[str], log: Path, fault: Fault | None = None, program: str = "train.py"
    ) -> None:
        self.log = log
        arguments = (program, words, log, fault)
        self.process: BaseProcess = SERVER.Process(target=_run, args=arguments)
        self.process.start()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait_for(self, happened: Callable[[], bool], timeout: float = 120) -> bool:
        """Whether something happened before the process ended."""
        deadline = time.monotonic() + timeout
        while self.process.is_alive() and time.monotonic() < deadline:
            if happened():
                return True
            time.sleep(0.001)
        return happened()

    def end(self, timeout: float = 180) -> int:
        """Exit code; minus the signal that killed it."""
        self.process.join(timeout)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"still running after {timeout} s:\n{self.said()}")
        assert self.process.exitcode is not None
        return self.process.exitcode

    def said(self) -> str:
        return self.log.read_text()


def _as_rank(rank: int, processes: int, port: int, fault: Fault | None) -> None:
    """Makes this process one of those that torchrun starts."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes), GROUP_RANK="0",
        LOCAL_WORLD_SIZE=str(processes), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        TORCHELASTIC_RUN_ID="x",
    )  # fmt: skip
    if fault is not None and rank == 1:
        fault()


def torchrun(
    words: list[str],
    log: Path,
    processes: int,
    fault: Fault | None = None,
    program: str = "train.py",
) -> list[Training]:
    """The processes of `Training` that torchrun would start, of which the second has the fault."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        Training(
            words,
            log.with_suffix(f".log{rank}"),
            functools.partial(_as_rank, rank, processes, port, fault),
            program,
        )
        for rank in range(processes)
    ]


def vivit_on(
    devices: int, words: list[str], log: Path, command: Callable[..., subprocess.CompletedProcess]
) -> None:
    """A command of ``vivit`` on one, two or three processes, which must succeed.

    Two are interpreters, of which the first starts the other; three are as torchrun starts them.
    """
    strategy = [] if devices == 1 else ["trainer.strategy=ddp"]
    words = [*words, f"trainer.devices={devices}", *strategy]
    if devices == 1:
        with pytest.raises(SystemExit, match="^0$"):
            main(words)
    elif devices == 2:
        done = command("-m", "vivit_train", *words)
        assert done.returncode == 0, done.stderr
    else:
        ranks = torchrun(words, log, devices, program="vivit_train/__main__.py")
        assert [rank.end() for rank in ranks] == [0] * devices, ranks[0].said()


def rows(run: Path) -> list[dict[str, str]]:
    """metrics.csv: what does not depend on the clock."""
    ours = ("epoch", "step", "train/loss", "train/top1", "train/lr", "val/", "test/")
    with (run / "metrics.csv").open(newline="") as file:
        return [
            {name: value for name, value in row.items() if name.startswith(ours)}
            for row in csv.DictReader(file)
        ]


def state(checkpoint: Path) -> dict:
    parts = ("state_dict", "training_weights", "optimizer_states", "lr_schedulers", "position")
    content = torch.load(checkpoint, weights_only=True)
    return {part: content[part] for part in parts if part in content}


def identical(ours, theirs) -> bool:
    """Whether nested values are the same to the bit."""
    if isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(identical(ours[k], theirs[k]) for k in theirs)
    if isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(map(identical, ours, theirs))
    return torch.equal(ours, theirs) if isinstance(theirs, torch.Tensor) else ours == theirs


def same_run(ours: Path, theirs: Path) -> None:
    """Asserts that two runs made the same weights, scores, rates and rows."""
    assert rows(ours) == rows(theirs)
    for name in ("last.ckpt", "best.ckpt"):
        found, expected = (state(run / "checkpoints" / name) for run in (ours, theirs))
        assert identical(found, expected), name
