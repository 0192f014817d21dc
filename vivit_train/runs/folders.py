"""Folders that results are written to: names that do not collide, one process at a time in each."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from vivit_train.errors import UserError
from vivit_train.io.files import user_path
from vivit_train.io.layout import (
    CHECKPOINTS,
    CONFIG_FILE,
    LOCK_FILE,
    METRICS_FILE,
    RESULTS_FILE,
    run_of,
)
from vivit_train.io.terminal import is_rank_zero, say
from vivit_train.launch.entry import PROCESS_LOST

if TYPE_CHECKING:
    from filelock import LeaseCompromise, SoftFileLease

# The owner of a folder touches the lock file this often.
HEARTBEAT_SECONDS = 5.0
# An owner that has not done so for this long is taken for dead. On the machine where the owner
# ran, its end is known at once.
LEASE_SECONDS = 120.0
# What a run writes, by which its folder is known.
_OF_A_RUN = (CONFIG_FILE, METRICS_FILE, RESULTS_FILE, CHECKPOINTS)
_TEMPORARY = re.compile(r".+\.\w+\.tmp-\d+", re.DOTALL)  # see `vivit_train.io.files`


def names_the_moment(config: DictConfig, key: str) -> bool:
    """Whether a folder's name is made of the time of the call, as the default names are."""
    as_written: Any = OmegaConf.to_container(config, resolve=False)
    return "${now:" in str(as_written[key])


def new_folder(path: Path) -> Path:
    """Makes a folder that no other process has made, also on another machine.

    Args:
        path: The name that it gets if it is free; else ``_2``, ``_3`` and so on is added to it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        folder = path if number == 1 else path.with_name(f"{path.name}_{number}")
        try:
            folder.mkdir()  # of two processes one succeeds
        except FileExistsError:
            continue
        return folder
    raise AssertionError


@contextmanager
def run_folder(config: DictConfig, begun: bool) -> Iterator[None]:
    """Keeps the folder of a run for this process while it is within.

    Only rank 0 does: it alone writes. ``config.run_dir`` becomes the folder's name.

    Args:
        config: Of the run.
        begun: Whether the folder may hold a run that has no checkpoint yet, which starts again.

    Raises:
        UserError: If the folder cannot be written to, is in use, or holds another run.
    """
    if not is_rank_zero():
        yield
        return
    is_new = config.ckpt_path is None and names_the_moment(config, "run_dir")
    with owned(Path(str(config.run_dir)), "run_dir", is_new) as folder:
        config.run_dir = str(folder)
        checkpoint = None if config.ckpt_path is None else Path(config.ckpt_path)
        if checkpoint is None or run_of(checkpoint.resolve()) != folder.resolve():
            check_unused(folder, begun)
        remove_temporaries(folder)
        yield


def check_unused(folder: Path, begun: bool) -> None:
    """Refuses to write a new run over another.

    Args:
        folder: Where the new run would write.
        begun: Whether a run without a checkpoint and without results may be there.

    Raises:
        UserError: Naming what the folder holds.
    """
    if begun:
        held = [*sorted(folder.glob(f"{CHECKPOINTS}/*.ckpt")), folder / RESULTS_FILE]
    else:
        held = [folder / name for name in _OF_A_RUN]
    names = [str(path.relative_to(folder)) for path in held if path.exists()]
    if names:
        raise UserError(
            f"run_dir={folder} holds a run already ({', '.join(names)}). Resume that run with "
            f"run_dir={folder} ckpt_path=auto, or give this one another folder"
        )


def remove_temporaries(folder: Path) -> None:
    """Removes what killed processes have left half written (``*.tmp-PID``) in a run's folder.

    The folder must be `owned`: then whatever is there is of a process that has ended. The numbers
    tell nothing, as they may be of another machine.
    """
    for path in [*folder.glob("*.tmp-*"), *folder.glob(f"{CHECKPOINTS}/*.tmp-*")]:
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


@contextmanager
def owned(path: Path, key: str, is_new: bool = False) -> Iterator[Path]:
    """Makes a folder and keeps it for this process while it is within.

    The lock is a file in the folder that names its owner and that the owner touches. The lock of
    an owner that is dead is taken over: at once on the owner's machine, and from another machine
    after `LEASE_SECONDS`. A process whose lock was taken over, e.g. because it was suspended for
    longer, ends itself.

    Args:
        path: The folder.
        key: What the user calls it, for messages.
        is_new: Whether the folder gets another name where it exists.

    Raises:
        UserError: If it cannot be written, or another process owns it.
    """
    from filelock import SoftFileLease

    path = user_path(path)
    existed = not is_new and os.path.isdir(path)
    try:
        folder = new_folder(path) if is_new else path
        folder.mkdir(parents=True, exist_ok=True)
        lock = SoftFileLease(
            folder / LOCK_FILE,
            lease_duration=LEASE_SECONDS,
            heartbeat_interval=HEARTBEAT_SECONDS,
            on_compromise=_lost,
        )
        _acquire(lock, f"{key}={folder}")
    except OSError as error:
        raise UserError(
            f"{key}={path} cannot be written to: {error.filename or path}: {error.strerror}"
        ) from None
    try:
        yield folder
    finally:
        lock.release()
        if not existed:
            with suppress(OSError):  # not empty: something came of it
                folder.rmdir()


def _acquire(lock: "SoftFileLease", folder: str) -> None:
    """Waits until the owner, if there is one, shows that it lives or has not for long enough."""
    from filelock import Timeout

    touched: list[int] = []  # when the owner did so; by the file's time, as clocks differ

    def lives() -> bool:
        with suppress(FileNotFoundError):  # it is released at this moment
            touched.append(os.stat(lock.lock_file).st_mtime_ns)
            if len(touched) == 1:
                say(
                    f"{folder} is in use by {_owner(lock)}: waiting for a sign of life, at most "
                    f"{LEASE_SECONDS:.0f} s",
                    file=sys.stderr,
                )
        return len(set(touched)) > 1

    for attempt in (1, 2):
        try:
            lock.acquire(
                timeout=LEASE_SECONDS + 2 * HEARTBEAT_SECONDS,
                poll_interval=HEARTBEAT_SECONDS / 10,
                cancel_check=lives,
            )
            return
        except Timeout:
            if attempt == 2 or lives():
                raise UserError(
                    f"{folder} is in use by {_owner(lock)}: wait for its end, or give this one "
                    "another folder"
                ) from None
        lock.force_break()  # a power cut has left the file empty: it says nothing of its owner


def _owner(lock: "SoftFileLease") -> str:
    owner = lock.owner
    return "another process" if owner is None else f"process {owner.pid} on {owner.hostname}"


def _lost(compromise: "LeaseCompromise") -> None:
    """Ends this process at once: whatever it writes now would mix with another's."""
    say(
        f"error: {Path(compromise.lock_file).parent} no longer belongs to this process "
        f"({compromise.reason.replace('-', ' ')}): the process ends without saving",
        file=sys.stderr,
    )
    os._exit(PROCESS_LOST)
