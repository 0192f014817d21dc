"""A sweep whose values Optuna chooses; its study lies in the sweep's folder."""

import functools
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    RangeSweep,
    Transformer,
)

from vivit_train.errors import UserError
from vivit_train.io.layout import METRICS_FILE, RESULTS_FILE, STUDY_FILE
from vivit_train.runs.comparison import SCORES
from vivit_train.runs.metrics_csv import read_metrics
from vivit_train.runs.trial import Trial, trials_of

try:
    import optuna
except ModuleNotFoundError:
    raise UserError("hydra/sweeper=optuna needs Optuna: pip install 'vivit-train[sweep]'") from None
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

# Scores of results.json; each has its like in the validation. Of several heads (EPIC-Kitchens) each
# has two of its own, such as verb_top1.
METRICS = (*SCORES, "<head>_top1", "<head>_top5")
T = TypeVar("T")
LOCKED_SECONDS = 20.0  # how long another program may keep optuna.db locked
_SAMPLERS = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}


def _names_the_study(method: Callable[..., T]) -> Callable[..., T]:
    """For methods of `OptunaSearch`: errors of the database become a `UserError`."""

    @functools.wraps(method)
    def wrapped(self: "OptunaSearch", *args: Any, **kwargs: Any) -> T:
        try:
            return method(self, *args, **kwargs)
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            database = error if isinstance(error, SQLAlchemyError) else error.__cause__
            reason = getattr(database, "orig", database)
            raise UserError(
                f"the study {self.home / STUDY_FILE} cannot be used: {reason}. If another "
                "program has it open, close that; then repeat the command with "
                f"hydra.sweep.dir={shlex.quote(str(self.home))}"
            ) from None

    return wrapped


class OptunaSearch:
    """Proposes trials, learns from their scores, and continues where an earlier call stopped.

    A trial that fails counts as one of the ``n_trials``, and the search continues.

    Args:
        home: The sweep's folder, which holds the study: ``optuna.db``.
        overrides: The command line's, parsed.
        n_trials: Trials in all, those of earlier calls included.
        metric: The score of results.json to optimise, one of `METRICS`. Pruning goes by the
            validation's, ``val/<metric>``.
        direction: ``maximize`` or ``minimize``.
        sampler: ``tpe`` or ``random``.
        seed: Of the sampler.
        prune: Whether to stop trials whose validation lags behind the median.

    Raises:
        UserError: If there is no such score, nothing to search, or the folder holds another search.
    """

    @_names_the_study
    def __init__(
        self,
        home: Path,
        overrides: Sequence[Override],
        n_trials: int,
        metric: str,
        direction: str,
        sampler: str,
        seed: int,
        prune: bool,
    ) -> None:
        if metric not in SCORES and not metric.endswith(("_top1", "_top5")):
            raise UserError(
                f"hydra.sweeper.metric={metric} is not a score of results.json: "
                f"{', '.join(METRICS)}"
            )
        varied = [o for o in overrides if o.is_sweep_override()]
        self.space = {o.get_key_element(): distribution(o) for o in varied}
        if not self.space:
            raise UserError(
                "hydra/sweeper=optuna: nothing to search; give an interval or choices, e.g. "
                '"optim.lr=tag(log,interval(1e-5,1e-3))"'
            )
        self.home = home
        self.fixed = [o.input_line or "" for o in overrides if not o.is_sweep_override()]
        self.n_trials = n_trials
        self.metric = metric
        self.prune = prune
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        home.mkdir(parents=True, exist_ok=True)
        self.study = optuna.create_study(
            storage=optuna.storages.RDBStorage(
                f"sqlite:///{(home / STUDY_FILE).resolve()}",
                engine_kwargs={"connect_args": {"timeout": LOCKED_SECONDS}},
            ),
            study_name="sweep",
            load_if_exists=True,
            direction=optuna.study.StudyDirection[direction.upper()],
            pruner=optuna.pruners.MedianPruner(),
        )
        self._check_same({"fixed": sorted(self.fixed), "metric": metric, "space": self.space})
        # Another seed than the earlier calls had: from the same one come the same proposals.
        self.study.sampler = _SAMPLERS[sampler](seed=seed + len(self.study.trials))
        self._left: list[Trial] = []
        self._take_up([t.number for t in self.study.trials if t.state == TrialState.RUNNING])
        self._asked: dict[int, optuna.Trial] = {}  # of this call: only those can be pruned
        self._reported: dict[int, int] = {}  # validations that Optuna knows of

    def _take_up(self, begun: Sequence[int]) -> None:
        """Sorts out the trials whose outcome an earlier call, which was killed, did not hear."""
        known = {trial.number: trial for trial in trials_of(self.home)}
        for number in begun:
            trial = known.get(number)
            if trial is None:  # proposed, but not started
                self.study.tell(number, state=TrialState.FAIL)
            elif trial.is_finished or trial.pruned or trial.error is not None:
                self.done(trial)
            else:
                self._left.append(trial)

    @_names_the_study
    def next(self) -> Trial | None:
        """A trial that was begun, then proposals."""
        if self._left:
            return self._left.pop(0)
        if len(self.study.get_trials(deepcopy=False)) >= self.n_trials:
            return None
        asked = self.study.ask(self.space)
        self._asked[asked.number] = asked
        varied = [f"{key}={value}" for key, value in asked.params.items()]
        return Trial(self.home / str(asked.number), [*self.fixed, *varied], varied)

    @_names_the_study
    def should_stop(self, trial: Trial) -> bool:
        """Tells Optuna the newest validation score; whether it lags behind the median."""
        asked = self._asked.get(trial.number)
        if not self.prune or asked is None:
            return False
        name = f"val/{self.metric}"
        validated = [r for r in read_metrics(trial.folder / METRICS_FILE) if name in r.scores]
        new = validated[self._reported.get(trial.number, 0) :]
        self._reported[trial.number] = len(validated)
        for row in new:
            asked.report(row.scores[name], row.step)
        return bool(new and asked.should_prune())

    @_names_the_study
    def done(self, trial: Trial) -> None:
        """Tells Optuna the outcome.

        Raises:
            UserError: If results.json has no such score.
        """
        if not trial.is_finished:
            state = TrialState.PRUNED if trial.pruned else TrialState.FAIL
            self.study.tell(trial.number, state=state)
        else:
            results = json.loads((trial.folder / RESULTS_FILE).read_text(encoding="utf-8"))
            if not isinstance(results.get(self.metric), int | float):
                numbers = [k for k, v in results.items() if isinstance(v, float)]
                raise UserError(
                    f"hydra.sweeper.metric={self.metric} is not a score of results.json: "
                    f"{', '.join(numbers)}"
                )
            self.study.tell(trial.number, results[self.metric])

    def _check_same(self, settings: dict[str, Any]) -> None:
        """One folder is one search: scores of different ones do not compare."""
        for name, value in settings.items():
            text = shlex.join(value) if isinstance(value, list) else str(value)
            before = self.study.user_attrs.get(name)
            if before is None:
                self.study.set_user_attr(name, text)
            elif before != text:
                raise UserError(
                    f"{self.home} holds a search with another {name}: {before}, now {text}. Repeat "
                    "its command, or give another hydra.sweep.dir"
                )


def distribution(override: Override) -> BaseDistribution:
    """What Optuna draws a value from, for an override in Hydra's syntax.

    ``a,b,c`` is a choice; ``interval(0.1,1)`` a float, ``tag(log,interval(...))`` on a logarithmic
    scale; ``range(0,8,2)`` and ``int(interval(1,8))`` are integers, the second with both ends.
    """
    value = override.value()
    if isinstance(value, ChoiceSweep):
        # As words of the command line, so that lists and quoted strings are values as well.
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    if isinstance(value, RangeSweep):
        values: list[Any] = list(override.sweep_iterator(transformer=Transformer.identity))
        if all(isinstance(v, int) for v in values) and not value.shuffle:
            return IntDistribution(values[0], values[-1], step=int(value.step))
        return CategoricalDistribution(values)
    assert isinstance(value, IntervalSweep)
    assert value.start is not None
    assert value.end is not None
    log = "log" in value.tags
    if value.start >= value.end or (log and value.start <= 0):
        raise UserError(
            f"{override.input_line}: an interval goes from a number to a larger one, and with "
            "tag(log,...) both are above 0"
        )
    if isinstance(value.start, int) and isinstance(value.end, int):
        return IntDistribution(value.start, value.end, log=log)
    return FloatDistribution(value.start, value.end, log=log)
