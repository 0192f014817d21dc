"""Every combination of the values that a sweep was given."""

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from hydra.core.override_parser.types import Override

from vivit_train.errors import UserError
from vivit_train.runs.trial import Trial, trials_of


class Grid:
    """Every combination of the values given.

    A trial is known by its overrides: one that has finished in this sweep's folder is not run
    again, one that has begun is resumed, and new combinations get new folders.

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
        """The next to run, one that has not finished; ``None`` if there is none for now."""
        return next(self._left, None)

    def should_stop(self, trial: Trial) -> bool:
        """Whether a running trial is not worth continuing: never, a grid is complete."""
        return False

    def done(self, trial: Trial) -> None:
        """Takes the outcome of a trial: the others do not depend on it."""


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
