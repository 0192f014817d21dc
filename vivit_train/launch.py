"""Processes of a run: how children start, how a run cleans up, how an error is told."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vivit_train.errors import UserError

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
QUIET_HYDRA = (
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
)


def is_rank_zero() -> bool:
    """Whether this process is the first of its run; known before anything heavy is imported."""
    return all(int(os.environ.get(name) or 0) == 0 for name in ("RANK", "LOCAL_RANK"))


@contextmanager
def launched_from(run_dir: Path) -> Iterator[None]:
    """Within, Lightning's launcher starts the other ranks on the run's own configuration.

    Its own way repeats the command line: a sweep would start the whole sweep again in each
    child, and `${now:}` would name another folder. Afterwards the process group is gone and the
    environment as before, so that the next run of a sweep starts from nothing.

    Args:
        run_dir: The run's folder, with its config.yaml.
    """
    import torch.distributed
    from lightning.pytorch.strategies.launchers import subprocess_script

    def command(local_rank: int) -> tuple[list[str], str]:
        words = [sys.executable, os.path.abspath(sys.argv[0])]
        words += ["--config-path", str(run_dir.resolve()), "--config-name", "config"]
        return [*words, *QUIET_HYDRA], os.getcwd()

    stock = subprocess_script._hydra_subprocess_cmd
    before = {name: os.environ.get(name) for name in _LAUNCH_VARIABLES}
    subprocess_script._hydra_subprocess_cmd = command
    try:
        yield
    finally:
        subprocess_script._hydra_subprocess_cmd = stock
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Ends the program with the message alone for what a user can mend."""
    try:
        yield
    except UserError as error:
        sys.exit(f"error: {error}")
    except Exception as error:
        # Lightning's own word for a wrong option; matched by name, as its import takes seconds.
        if type(error).__name__ == "MisconfigurationException":
            sys.exit(f"error: {error}")
        raise
