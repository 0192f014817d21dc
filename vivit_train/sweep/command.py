"""The command of a sweep: `train.py -m`, from its words to the table of its trials."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from vivit_train.config import compose_config, parse_overrides, program
from vivit_train.config.compose import compose_options
from vivit_train.config.keys import in_words, misfits
from vivit_train.config.words import as_written
from vivit_train.errors import UserError
from vivit_train.io.layout import LOG_FILE, SWEEP_PICTURE, SWEEP_TABLE
from vivit_train.io.terminal import say
from vivit_train.runs.folders import names_the_moment, owned
from vivit_train.runs.trial import Trial, trials_of
from vivit_train.sweep.grid import Grid
from vivit_train.sweep.local import LocalLauncher
from vivit_train.sweep.runner import Sweep
from vivit_train.sweep.slurm import SlurmLauncher

if TYPE_CHECKING:
    from vivit_train.sweep.search import OptunaSearch

_FLAGS = ("-m", "--multirun")
# What a sweep sets for each trial.
_OF_THE_SWEEP = ("run_dir", "ckpt_path")
_LAUNCHED = ("TORCHELASTIC_RUN_ID", "LOCAL_RANK")


def is_sweep(words: Sequence[str]) -> bool:
    """Whether a command line asks for a sweep that `sweep` runs.

    One with a plugin of Hydra's, e.g. ``hydra/launcher=joblib``, is Hydra's own affair.

    Raises:
        UserError: If settings of a sweep are there without ``-m``, which would mean nothing.
    """
    if not any(word in _FLAGS for word in words):
        for word in words:
            if word.startswith(
                ("hydra/sweeper", "hydra/launcher", "hydra.sweep", "hydra.launcher")
            ):
                raise UserError(f"{word} is for sweeps: add -m")
        return False
    settings = compose_hydra([word for word in words if word not in _FLAGS])
    return "_target_" not in settings.launcher and "_target_" not in settings.sweeper


def compose_hydra(words: Sequence[str]) -> DictConfig:
    """Hydra's own part of the configuration: ``sweep``, ``sweeper`` and ``launcher``."""
    own = as_written([word for word in words if word.lstrip("+").startswith("hydra")])
    hydra = compose_options(own, hydras=True).hydra
    parts = {name: OmegaConf.to_container(hydra[name]) for name in ("launcher", "sweeper")}
    for key, value, told in misfits({"hydra": parts}):
        raise UserError(f"{key}={in_words(value)}: {told}")
    return hydra


def sweep(arguments: Sequence[str]) -> int:
    """Runs ``python train.py -m ...``: all trials, then the table.

    Args:
        arguments: The words of the command line, some with several values.

    Returns:
        The exit code: 0; 1 if a trial failed; 128 + the signal that stopped the sweep.

    Raises:
        UserError: For what would fail in every trial.
    """
    given = [word for word in arguments if word not in _FLAGS]
    settings = compose_hydra(given)
    words = [f"{key}={value}" for key, value in settings.sweeper.params.items()]
    words += [word for word in given if not word.lstrip("+").startswith("hydra")]
    # The last word for a key counts, as without a sweep.
    overrides = list({o.key_or_group: o for o in parse_overrides(words, sweeps=True)}.values())
    check(overrides)
    is_new = names_the_moment(settings.sweep, "dir")
    with owned(Path(str(settings.sweep.dir)), "hydra.sweep.dir", is_new) as home:
        launchers = {"local": LocalLauncher, "slurm": SlurmLauncher}
        chosen: dict[str, Any] = dict(settings.launcher)
        launcher = launchers[chosen.pop("name")](**chosen)
        running = Sweep(build_search(home, overrides, settings.sweeper), launcher)
        failed = running.run()
        return report(home, failed, running.received)


def check(overrides: Sequence[Override]) -> None:
    """Refuses what cannot be swept before anything starts."""
    for override in overrides:
        if override.key_or_group in _OF_THE_SWEEP:
            raise UserError(
                f"{override.key_or_group}={override.value()}: each trial of a sweep has a numbered "
                "folder in the sweep's, hydra.sweep.dir=FOLDER, and resumes from its own checkpoint"
            )
    compose_config([override.input_line or "" for override in overrides], sweeps=True)
    if any(name in os.environ for name in _LAUNCHED):
        raise UserError(
            f"a sweep starts the processes of its trials itself: run {program()} -m without "
            "torchrun, with trainer.devices=N"
        )


def build_search(
    home: Path, overrides: Sequence[Override], sweeper: DictConfig
) -> "Grid | OptunaSearch":
    """The search that ``hydra/sweeper`` chooses."""
    if "n_trials" not in sweeper:
        return Grid(home, overrides)
    from vivit_train.sweep.search import OptunaSearch

    return OptunaSearch(home, overrides, **{str(k): v for k, v in sweeper.items() if k != "params"})


def report(home: Path, failed: Sequence[Trial], received: int) -> int:
    """Prints and writes the table of the sweep, then what failed. Returns the exit code."""
    from vivit_train.runs.comparison import Comparison, read_runs

    if trials_of(home):
        comparison = Comparison(read_runs([home]))
        comparison.print()
        comparison.write_csv(home / SWEEP_TABLE)
        comparison.write_png(home / SWEEP_PICTURE)
    for trial in failed:
        say(
            f"error: trial {trial.number} ({shlex.join(trial.varied)}): {trial.error}; see "
            f"{trial.folder / LOG_FILE}",
            file=sys.stderr,
        )
    if failed or received:
        say(
            f"to continue, repeat the command with hydra.sweep.dir={shlex.quote(str(home))}",
            file=sys.stderr,
        )
    say(home)
    return 128 + received if received else int(bool(failed))
