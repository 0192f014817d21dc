"""A sweep: trials with different overrides, each a process of its own in a numbered folder."""

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Protocol

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vivit_train.config import CONFIG_DIR, check_keys, parse_overrides, word_of
from vivit_train.config.keys import in_words, misfits
from vivit_train.config.words import as_written
from vivit_train.errors import UserError
from vivit_train.files import write_whole
from vivit_train.folders import names_the_moment, owned
from vivit_train.foreign import is_of, read_json
from vivit_train.stop_watch import STOPPING, leave_terminal
from vivit_train.terminal import say

POLL_SECONDS = 0.2
_FLAGS = ("-m", "--multirun")
# What a sweep sets for each trial.
_OF_THE_SWEEP = ("run_dir", "ckpt_path")
_LAUNCHED = ("TORCHELASTIC_RUN_ID", "LOCAL_RANK")


@dataclass
class Trial:
    """One run of a sweep; ``trial.json`` in its folder says what it is.

    Attributes:
        folder: The run's folder.
        overrides: All its ``key=value`` words.
        varied: Those of them that the sweep chose.
        error: Why it failed, in a line.
        pruned: Whether the search gave it up.
    """

    folder: Path
    overrides: list[str]
    varied: list[str]
    error: str | None = None
    pruned: bool = False

    @property
    def number(self) -> int:
        """Its number in the sweep."""
        return int(self.folder.name)

    @property
    def is_finished(self) -> bool:
        """Whether it has a score."""
        return (self.folder / "results.json").is_file()

    def command(self) -> list[str]:
        """The command that starts it, or goes on with it where it has a checkpoint."""
        words = [sys.executable, "-u", os.path.abspath(sys.argv[0]), *self.overrides]
        return [*words, word_of("run_dir", str(self.folder)), "ckpt_path=auto"]

    def save(self) -> None:
        """Writes ``trial.json``."""
        values = {k: v for k, v in asdict(self).items() if k != "folder"}
        write_whole(self.folder / "trial.json", json.dumps(values, indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "Trial":
        """Reads ``trial.json``.

        Raises:
            UserError: If it is not what `save` writes.
        """
        values = read_json(folder / "trial.json")
        types = {k: kind for k, kind in cls.__annotations__.items() if k != "folder"}
        are_whole = values.keys() <= types.keys() and {"overrides", "varied"} <= values.keys()
        if not are_whole or not all(is_of(value, types[k]) for k, value in values.items()):
            raise UserError(f"{folder / 'trial.json'} is not what a sweep writes")
        return cls(folder, **values)


class Job(Protocol):
    """A trial that runs."""

    def poll(self) -> str | None:
        """``None`` while it runs; then what its failure says, empty if it succeeded."""

    def stop(self, number: int) -> None:
        """Passes a signal on."""


class Launcher(Protocol):
    """Where trials run."""

    n_jobs: int

    def start(self, trial: Trial, slot: int) -> Job:
        """Starts a trial.

        Args:
            trial: What to run.
            slot: 0 to ``n_jobs`` - 1; no other trial that runs has the same.
        """


class Search(Protocol):
    """What trials there are."""

    def next(self) -> Trial | None:
        """The next trial to run; ``None`` if there is none for now."""

    def should_stop(self, trial: Trial) -> bool:
        """Whether a running trial is not worth going on with."""

    def done(self, trial: Trial) -> None:
        """Takes the outcome of a trial that finished or failed."""


class Grid:
    """Every combination of the values given.

    A trial is known by its overrides: one that has finished in this sweep's folder is not run
    again, one that has begun goes on, and new combinations get new folders.

    Args:
        home: The sweep's folder.
        overrides: The command line's, parsed.

    Raises:
        UserError: If an override is an interval, which has no number of values.
    """

    def __init__(self, home: Path, overrides: Sequence[Override]) -> None:
        known = {frozenset(trial.overrides): trial for trial in trials_of(home)}
        number = max((trial.number for trial in known.values()), default=-1) + 1
        self.trials: list[Trial] = []
        for overrides_, varied in combinations(overrides):
            trial = known.get(frozenset(overrides_))
            if trial is None:
                trial = Trial(home / str(number), overrides_, varied)
                number += 1
            self.trials.append(trial)
        self._left = iter([trial for trial in self.trials if not trial.is_finished])

    def next(self) -> Trial | None:
        """The next that has not finished."""
        return next(self._left, None)

    def should_stop(self, trial: Trial) -> bool:
        """Never: a grid is complete."""
        return False

    def done(self, trial: Trial) -> None:
        """Nothing: the others do not depend on it."""


def combinations(overrides: Sequence[Override]) -> Iterator[tuple[list[str], list[str]]]:
    """All words, and those that vary, of each trial of a grid; the last key varies fastest."""
    choices = []
    for override in overrides:
        if not override.is_sweep_override():
            choices.append([override.input_line or ""])
        elif override.is_discrete_sweep():
            key = override.get_key_element()
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            raise UserError(
                f"{override.input_line}: a grid needs a list of values, e.g. "
                f"{override.key_or_group}=0.1,0.2; to search an interval add hydra/sweeper=optuna"
            )
    for words in product(*choices):
        varied = [w for w, override in zip(words, overrides) if override.is_sweep_override()]
        yield list(words), varied


def trials_of(home: Path) -> list[Trial]:
    """The trials of a sweep's folder, by number."""
    found = [Trial.read(path.parent) for path in home.glob("*/trial.json")]
    return sorted(found, key=lambda trial: trial.number)


class Sweep:
    """Runs what a search proposes where a launcher says, whatever becomes of single trials.

    Signals that stop a run are passed on to the trials, which save; no more are then started.

    Args:
        search: Proposes the trials.
        launcher: Runs them.
    """

    def __init__(self, search: Search, launcher: Launcher) -> None:
        self.search = search
        self.launcher = launcher
        self.received = 0
        self._untold: list[int] = []
        self._running: dict[int, tuple[Trial, Job]] = {}

    def run(self) -> list[Trial]:
        """Runs all trials. Returns those that failed in this call."""
        before = {number: signal.signal(number, self._take_down) for number in STOPPING}
        failed = []
        try:
            while self._fill() or self._running:
                self._pass_on()
                for slot in list(self._running):
                    trial = self._look_after(slot)
                    if trial is not None and trial.error is not None:
                        failed.append(trial)
                time.sleep(POLL_SECONDS)
            self._pass_on()
        finally:
            for _, job in self._running.values():  # of a sweep that cannot go on
                job.stop(signal.SIGTERM)
            for number, handler in before.items():
                signal.signal(number, handler)
        return failed

    def _fill(self) -> bool:
        """Starts trials while there is room. Returns whether it started any."""
        began = False
        for slot in range(self.launcher.n_jobs):
            if slot in self._running or self.received or self._untold:
                continue
            trial = self.search.next()
            if trial is None:
                break
            trial.error = None
            trial.save()
            say(f"trial {trial.number}: {shlex.join(trial.varied)}")
            job = self.launcher.start(trial, slot)
            self._running[slot] = trial, job
            began = True
        return began

    def _look_after(self, slot: int) -> Trial | None:
        """Returns the trial if it has ended."""
        trial, job = self._running[slot]
        failure = job.poll()
        if failure is None:
            if not trial.pruned and not self.received and self.search.should_stop(trial):
                trial.pruned = True
                job.stop(signal.SIGTERM)
            return None
        del self._running[slot]
        if trial.is_finished:
            trial.pruned = False  # it was faster than the signal
            outcome = "finished"
        elif self.received:
            say(f"trial {trial.number}: stopped")
            return None  # unfinished: the same command goes on with it
        elif trial.pruned:
            outcome = "pruned"
        else:
            trial.error = failure or "ended without results.json"
            outcome = f"failed: {trial.error}"
        trial.save()
        say(f"trial {trial.number}: {outcome}")
        self.search.done(trial)
        return trial

    def _take_down(self, number: int, frame: Any) -> None:
        """Of a signal; what is to be done may take time, and is not done between instructions."""
        if number == signal.SIGHUP:
            leave_terminal()
        self._untold.append(number)

    def _pass_on(self) -> None:
        while self._untold:
            self.received = self._untold.pop(0)
            for _, job in self._running.values():
                job.stop(self.received)


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
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            hydra = compose("train", own, return_hydra_config=True).hydra
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(" ".join(str(error).split())) from None
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
    arguments = [word for word in arguments if word not in _FLAGS]
    settings = compose_hydra(arguments)
    words = [f"{key}={value}" for key, value in settings.sweeper.params.items()]
    words += [word for word in arguments if not word.lstrip("+").startswith("hydra")]
    # The last word for a key counts, as without a sweep.
    overrides = list({o.key_or_group: o for o in parse_overrides(words, sweeps=True)}.values())
    check(overrides)
    is_new = names_the_moment(settings.sweep, "dir")
    with owned(Path(str(settings.sweep.dir)), "hydra.sweep.dir", is_new) as home:
        running = Sweep(build_search(home, overrides, settings), build_launcher(settings))
        failed = running.run()
        return report(home, failed, running.received)


def check(overrides: Sequence[Override]) -> None:
    """Refuses what cannot be swept before anything starts."""
    for override in overrides:
        if override.key_or_group in _OF_THE_SWEEP:
            raise UserError(
                f"{override.key_or_group}={override.value()}: each trial of a sweep has a numbered "
                "folder in the sweep's, hydra.sweep.dir=FOLDER, and goes on from its own checkpoint"
            )
    check_keys([override.input_line or "" for override in overrides], sweeps=True)
    if any(name in os.environ for name in _LAUNCHED):
        raise UserError(
            "a sweep starts the processes of its trials itself: run python train.py -m without "
            "torchrun, with trainer.devices=N"
        )


def build_search(home: Path, overrides: Sequence[Override], settings: DictConfig) -> Search:
    """The search that ``hydra/sweeper`` chooses."""
    if "n_trials" in settings.sweeper:
        from vivit_train.search import OptunaSearch

        arguments = {k: v for k, v in settings.sweeper.items() if k != "params"}
        return OptunaSearch(home, overrides, **arguments)
    return Grid(home, overrides)


def build_launcher(settings: DictConfig) -> Launcher:
    """The launcher that ``hydra/launcher`` chooses."""
    from vivit_train.launchers import LocalLauncher, SlurmLauncher

    arguments: dict[str, Any] = dict(settings.launcher)
    kind = {"local": LocalLauncher, "slurm": SlurmLauncher}[arguments.pop("name")]
    return kind(**arguments)


def report(home: Path, failed: Sequence[Trial], received: int) -> int:
    """Prints and writes the table of the sweep, then what failed. Returns the exit code."""
    from vivit_train.comparison import Comparison, read_runs

    if trials_of(home):
        comparison = Comparison(read_runs([home]))
        comparison.print()
        comparison.write_csv(home / "sweep.csv")
        comparison.write_png(home / "sweep.png")
    for trial in failed:
        say(
            f"error: trial {trial.number} ({shlex.join(trial.varied)}): {trial.error}; see "
            f"{trial.folder / 'log.txt'}",
            file=sys.stderr,
        )
    if failed or received:
        say(
            f"to go on, repeat the command with hydra.sweep.dir={shlex.quote(str(home))}",
            file=sys.stderr,
        )
    say(home)
    return 128 + received if received else int(bool(failed))
