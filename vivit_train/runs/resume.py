"""The checkpoint that a run resumes from: found and checked before torch is imported."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from vivit_train.config import (
    complete_config,
    config_dir_words,
    override_config,
    parse_overrides,
    read_saved,
    to_plain,
    word_of,
)
from vivit_train.config.changes import check_changes, differences, values
from vivit_train.config.folders import program
from vivit_train.config.saved import check_extra, extra_targets, is_foreign
from vivit_train.config.words import Call, in_shell
from vivit_train.errors import UserError
from vivit_train.io.files import user_path
from vivit_train.io.foreign import damage
from vivit_train.io.layout import BEST, CHECKPOINTS, CONFIG_FILE, LAST, PREVIOUS, run_of
from vivit_train.io.terminal import is_rank_zero, said_if_long, say
from vivit_train.recipe.preset import keep_begun


def resume_command(checkpoint: Path) -> str:
    """The command that resumes from a checkpoint."""
    words = [word_of("ckpt_path", str(checkpoint))]
    saved = run_of(checkpoint) / CONFIG_FILE
    # Only the user's own command may name a class outside of the package.
    if saved.is_file():
        config = read_saved(saved)
        if is_foreign(config.data._target_):
            words.append(f"data._target_={config.data._target_}")
        words += [f"{key}={target}" for key, target in extra_targets(config)]
    where = map(shlex.quote, config_dir_words())  # in which classes of the user's may lie
    return " ".join([program(), *where, in_shell(words)])


def check_whole(checkpoint: Path) -> None:
    """Refuses a damaged checkpoint.

    Raises:
        UserError: Naming the file, and the command with another checkpoint of the run.
    """
    with said_if_long(f"comparing the checksums of {checkpoint}"):
        reason = damage(checkpoint)
    if reason is None:
        return
    others = [checkpoint.with_name(name) for name in (LAST, PREVIOUS, BEST)]
    whole = [o for o in others if o != checkpoint and o.is_file() and damage(o) is None]
    advice = f"Resume from another: {resume_command(whole[0])}" if whole else "The run has no other"
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
        path = run_dir / CHECKPOINTS / name
        if not path.is_file():
            continue
        with said_if_long(f"comparing the checksums of {path}"):
            reason = damage(path)
        if reason is None:
            if damaged:
                told = "; ".join(damaged)
                say(f"warning: DAMAGED CHECKPOINT {told}. Resuming from {path}", file=sys.stderr)
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
    folder = run_dir / CHECKPOINTS
    there = next((path for path in (folder, run_dir) if path.is_dir()), None)
    names = sorted(path.name for path in there.iterdir()) if there else []
    held = f"{there} holds {', '.join(names) or 'nothing'}" if there else "it does not exist"
    raise UserError(
        f"ckpt_path=last: the run {run_dir} has no checkpoint to resume from: {held}. "
        "ckpt_path=auto starts the run where there is none"
    )


def resumes(call: Call) -> bool:
    """Whether a call of ``train.py`` resumes from a checkpoint that it names.

    Raises:
        UserError: If it has flags, which are about new runs.
    """
    given = {o.key_or_group: o.value() for o in parse_overrides(call.words, call.is_sweep)}
    if given.get("ckpt_path") in (None, "auto"):
        return False
    if call.flags:
        raise UserError(
            f"{' '.join(call.flags)} is about new runs; the configuration of the run that "
            "ckpt_path names is config.yaml in its folder"
        )
    return True


def resumed(words: Sequence[str]) -> DictConfig:
    """The configuration of the run that a checkpoint belongs to, with this call's overrides.

    The overrides are looked up in the run's own configuration, which may have other keys than
    the default one. What they change is printed.

    Args:
        words: ``key=value`` words of the command line, with ``ckpt_path``.

    Raises:
        UserError: If there is no such run, or it cannot be resumed with these overrides.
    """
    given = {o.key_or_group: o for o in parse_overrides(words)}
    ckpt_path = str(given["ckpt_path"].value())
    overrides = [o.input_line or "" for key, o in given.items() if key != "ckpt_path"]
    if ckpt_path == "last":
        if "run_dir" not in given:
            raise _needs_run_dir(ckpt_path)
        overrides.remove(given["run_dir"].input_line or "")
        run_dir = user_path(str(given["run_dir"].value()))
        checkpoint = Path(os.path.realpath(find_last(run_dir)))
    else:
        checkpoint = Path(os.path.realpath(os.path.expanduser(ckpt_path)))
    saved = run_of(checkpoint) / CONFIG_FILE
    if not checkpoint.is_file() or not saved.is_file():
        raise UserError(
            f"ckpt_path={ckpt_path}: expected RUN/checkpoints/last.ckpt of a run, with "
            f"RUN/config.yaml beside; {'no such file' if not checkpoint.is_file() else saved}"
        )
    if ckpt_path != "last" and is_rank_zero():
        check_whole(checkpoint)
    base = read_saved(saved)
    base.run_dir = str(saved.parent)
    base.ckpt_path = str(checkpoint)
    base.allow_other_videos = False  # is said anew each time
    base = complete_config(base)
    config = override_config(base, overrides)
    check_extra(config, dict(values({key: o.value() for key, o in given.items()})))
    changes = differences(to_plain(base), to_plain(config))
    check_changes(changes, f"the run {saved.parent}")
    if changes and is_rank_zero():
        say(f"changed from here on: {'; '.join(changes.values())}")
    return config


def begun_or_new(config: DictConfig) -> None:
    """``ckpt_path=auto``: the command that starts a run is also the one that resumes it.

    Raises:
        UserError: If there is a run that cannot be resumed with these values.
    """
    if not any(word.startswith("run_dir=") for word in HydraConfig.get().overrides.task):
        raise _needs_run_dir("auto")
    run_dir = user_path(config.run_dir)
    checkpoint = newest_whole(run_dir)
    config.ckpt_path = None if checkpoint is None else os.path.realpath(checkpoint)
    saved = run_dir / CONFIG_FILE
    if checkpoint is not None and saved.is_file():
        before = complete_config(read_saved(saved))
        keep_begun(config, before)
        changes = differences(to_plain(before), to_plain(config))
        check_changes(changes, f"the run {run_dir}")
        if changes and is_rank_zero():
            say(
                f"warning: {run_dir} was started with other values: {'; '.join(changes.values())}",
                file=sys.stderr,
            )


def _needs_run_dir(ckpt_path: str) -> UserError:
    """Of a search for a checkpoint in a folder that is named after the present moment."""
    return UserError(
        f"ckpt_path={ckpt_path} means the newest checkpoint in run_dir, and without "
        "run_dir=FOLDER every call has a new one: give the run's folder"
    )
