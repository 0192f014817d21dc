"""The checkpoint that a run goes on from: found and looked over before torch is imported."""

import os
import shlex
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from vivit_train.config import complete_config, override_config, to_plain
from vivit_train.errors import UserError
from vivit_train.launch import is_rank_zero

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"


def resume_command(checkpoint: Path) -> str:
    """The command that goes on from a checkpoint."""
    return f"python train.py ckpt_path={shlex.quote(str(checkpoint))}"


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint file, or ``None`` if it is whole.

    `torch.save` writes a zip archive with a CRC-32 of each tensor, which `torch.load` does not
    compare: it would train on from a flipped bit. Reads the whole file (1.5 GB/s from memory).
    """
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            name = archive.testzip()
    except Exception as error:  # what a damaged header leads to is not documented
        return f"{type(error).__name__}: {error}"
    return None if name is None else f"the checksum of its part {name} does not match"


def check_whole(checkpoint: Path) -> None:
    """Refuses a damaged checkpoint.

    Raises:
        UserError: Naming the file, and the command with another checkpoint of the run.
    """
    reason = damage(checkpoint)
    if reason is None:
        return
    others = [checkpoint.with_name(name) for name in (LAST, PREVIOUS, BEST)]
    whole = [o for o in others if o != checkpoint and o.is_file() and damage(o) is None]
    advice = f"Go on from another: {resume_command(whole[0])}" if whole else "The run has no other"
    raise UserError(f"the checkpoint {checkpoint} is damaged ({reason}). {advice}")


def newest_whole(run_dir: Path) -> Path | None:
    """The newest checkpoint of a run that is whole; says so loudly where it is not the last.

    Returns:
        Its path, or ``None`` where the run has no checkpoint at all.

    Raises:
        UserError: If all that there are are damaged.
    """
    damaged: list[str] = []
    for name in (LAST, PREVIOUS, BEST):
        path = run_dir / "checkpoints" / name
        if not path.is_file():
            continue
        reason = damage(path)
        if reason is None:
            if damaged:
                told = "; ".join(damaged)
                print(f"warning: DAMAGED CHECKPOINT {told}. Going on from {path}", file=sys.stderr)
            return path
        damaged.append(f"{path} ({reason})")
    if damaged:
        raise UserError(
            f"every checkpoint of the run is damaged: {'; '.join(damaged)}. Start again in "
            "another run_dir, or remove them"
        )
    return None


def find_last(run_dir: Path) -> Path:
    """The checkpoint that ``ckpt_path=last`` means.

    Raises:
        UserError: If there is none, listing what there is.
    """
    checkpoint = newest_whole(run_dir)
    if checkpoint is not None:
        return checkpoint
    folder = run_dir / "checkpoints"
    there = next((path for path in (folder, run_dir) if path.is_dir()), None)
    names = sorted(path.name for path in there.iterdir()) if there else []
    held = f"{there} holds {', '.join(names) or 'nothing'}" if there else "it does not exist"
    raise UserError(
        f"ckpt_path=last: the run {run_dir} has no checkpoint to go on from: {held}. "
        "ckpt_path=auto starts the run where there is none"
    )


def resumed(config: DictConfig) -> DictConfig:
    """The configuration of the run that a checkpoint belongs to, with this call's overrides."""
    words = HydraConfig.get().overrides.task
    overrides = [word for word in words if not word.startswith("ckpt_path=")]
    if config.ckpt_path == "last":
        check_run_dir_is_given(config)
        overrides = [word for word in overrides if not word.startswith("run_dir=")]
        checkpoint = find_last(Path(config.run_dir).expanduser()).resolve()
    else:
        checkpoint = Path(config.ckpt_path).expanduser().resolve()
    saved = checkpoint.parent.parent / "config.yaml"
    if not checkpoint.is_file() or not saved.is_file():
        raise UserError(
            f"ckpt_path={config.ckpt_path}: expected RUN/checkpoints/last.ckpt of a run, with "
            f"RUN/config.yaml beside; {'no such file' if not checkpoint.is_file() else saved}"
        )
    if config.ckpt_path != "last" and is_rank_zero():
        check_whole(checkpoint)
    base = OmegaConf.load(saved)
    assert isinstance(base, DictConfig)
    base.run_dir = str(checkpoint.parent.parent)
    base.ckpt_path = str(checkpoint)
    return override_config(complete_config(base), overrides)


def begun_or_new(config: DictConfig) -> None:
    """``ckpt_path=auto``: the command that starts a run is also the one that goes on with it."""
    check_run_dir_is_given(config)
    run_dir = Path(config.run_dir).expanduser()
    checkpoint = newest_whole(run_dir)
    config.ckpt_path = None if checkpoint is None else str(checkpoint.resolve())
    saved = run_dir / "config.yaml"
    if checkpoint is not None and saved.is_file() and is_rank_zero():
        before = OmegaConf.load(saved)
        assert isinstance(before, DictConfig)
        changes = differences(to_plain(complete_config(before)), to_plain(config))
        changes = [c for c in changes if not c.startswith(("ckpt_path:", "run_dir:"))]
        if changes:
            print(
                f"warning: {run_dir} was started with other values: {'; '.join(changes)}",
                file=sys.stderr,
            )


def check_run_dir_is_given(config: DictConfig) -> None:
    """Refuses to look for a checkpoint in a folder that is named after the present moment."""
    if not any(word.startswith("run_dir=") for word in HydraConfig.get().overrides.task):
        raise UserError(
            f"ckpt_path={config.ckpt_path} means the newest checkpoint in run_dir, and without "
            "run_dir=FOLDER every call has a new one: give the run's folder"
        )


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two configurations, e.g. ``optim.lr: 0.1 -> 0.2``."""
    found = []
    for name in [*before, *(name for name in now if name not in before)]:
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{prefix}{name}.")
        elif old != new:
            found.append(f"{prefix}{name}: {old} -> {new}")
    return found


def remove_stale_temporaries(run_dir: Path) -> None:
    """Removes what processes that were killed while writing have left (``*.tmp-PID``)."""
    for path in [*run_dir.glob("*.tmp-*"), *run_dir.glob("checkpoints/*.tmp-*")]:
        pid = path.name.rpartition("-")[2]
        if pid.isdigit() and not _is_alive(int(pid)):
            path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
