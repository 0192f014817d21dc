"""Optuna chooses the values of a sweep."""

import contextlib
import re
import signal
import sqlite3
import sys
from pathlib import Path

import pytest

from tests.sweep_program import scores, signal_once_begun, starts
from vivit_train.config import parse_overrides
from vivit_train.errors import UserError
from vivit_train.runs.trial import Trial, trials_of
from vivit_train.sweep.search import OptunaSearch

OPTUNA = ("hydra/sweeper=optuna", "optim.lr=interval(0.0,1.0)")


def test_finds_the_best_and_goes_on(run, home: Path) -> None:
    assert run(*OPTUNA, "seed=1", "hydra.sweeper.n_trials=3") == 0
    assert run(*OPTUNA, "seed=1", "hydra.sweeper.n_trials=3") == 0
    assert len(trials_of(home)) == 3
    assert run(*OPTUNA, "seed=1", "hydra.sweeper.n_trials=6") == 0
    rates = [float(starts(home / str(i))[0]["optim.lr"]) for i in range(6)]
    assert len(set(rates)) == 6  # a repeated call proposes nothing that it proposed before
    assert all(0 <= rate <= 1 for rate in rates)
    best = min(rates, key=lambda rate: abs(rate - 0.5))
    assert float(scores(home)[0]["optim.lr"]) == best

    import optuna

    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{home}/optuna.db")
    assert study.best_params == {"optim.lr": best}


def test_a_study_that_is_locked(run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, and while trials run; a file that is no study."""
    monkeypatch.setattr("vivit_train.sweep.search.LOCKED_SECONDS", 0.1)
    words = (*OPTUNA, "seed=1", "hydra.sweeper.n_trials=2")
    home.mkdir()
    database = home / "optuna.db"
    with contextlib.closing(sqlite3.connect(database)) as other:
        other.execute("BEGIN EXCLUSIVE")
        said = f"the study {database} cannot be used: database is locked. If another"
        with pytest.raises(UserError, match=re.escape(said)):
            run(*words)
        other.rollback()
        done = OptunaSearch.done

        def locked(self: OptunaSearch, trial: Trial) -> None:
            other.execute("BEGIN EXCLUSIVE")
            done(self, trial)

        with monkeypatch.context() as patch:
            patch.setattr(OptunaSearch, "done", locked)
            with pytest.raises(UserError, match=re.escape(said)):
                run(*words)
        other.rollback()
    assert run(*words) == 0
    assert [len(starts(home / name)) for name in "01"] == [1, 1]
    database.write_bytes(b"not a database")
    with pytest.raises(UserError, match="cannot be used: file is not a database"):
        run(*words)


def test_a_failed_trial_counts_and_the_search_goes_on(run, home: Path) -> None:
    assert run(*OPTUNA, "seed=13", "hydra.sweeper.n_trials=3") == 1
    assert len(trials_of(home)) == 3
    assert run(*OPTUNA, "seed=13", "hydra.sweeper.n_trials=3") == 0  # nothing is left to do


def test_a_stopped_trial_goes_on_with_its_values(run, home: Path) -> None:

    signal_once_begun(home, signal.SIGTERM)
    words = (*OPTUNA, "seed=15", "hydra.sweeper.n_trials=1")
    assert run(*words) == 128 + signal.SIGTERM
    assert run(*words) == 0
    first, second = starts(home / "0")
    assert first == second


def test_prunes_what_lags_behind(run, home: Path) -> None:
    """Five of the median's warm-up, then one that validates at 0.01 and would hang."""
    words = ("hydra/sweeper=optuna", "optim.lr=interval(0.4,0.6)", "hydra.sweeper.prune=true")
    assert run(*words, "seed=1,2", "optim.weight_decay=0.2", "hydra.sweeper.n_trials=5") == 0
    import optuna

    storage = f"sqlite:///{home}/optuna.db"
    study = optuna.load_study(study_name="sweep", storage=storage)
    assert all(len(trial.intermediate_values) == 1 for trial in study.trials)
    from vivit_train.sweep.search import OptunaSearch

    settings = dict(n_trials=6, metric="top1", direction="maximize", sampler="tpe", seed=0)
    parsed = parse_overrides(
        ["optim.lr=interval(0.4,0.6)", "seed=1,2", "optim.weight_decay=0.2"], sweeps=True
    )
    search = OptunaSearch(home, parsed, prune=True, **settings)
    trial = search.next()
    trial.folder.mkdir()
    assert not search.should_stop(trial)  # no validation yet
    (trial.folder / "metrics.csv").write_text("epoch,step,val/top1\n0,7,0.0")
    assert not search.should_stop(trial)  # half a line, of 0.09 maybe
    (trial.folder / "metrics.csv").write_text("epoch,step,val/top1\n0,7,0.01\n")
    assert search.should_stop(trial)
    trial.pruned = True
    search.done(trial)
    assert search.study.trials[5].state == optuna.trial.TrialState.PRUNED
    assert search.next() is None


@pytest.mark.parametrize(("direction", "prunes"), [("maximize", False), ("minimize", True)])
def test_pruning_goes_by_the_metric_in_its_direction(
    home: Path, direction: str, prunes: bool
) -> None:
    """The newest is best in the metric that was chosen, and worst in val/top1."""
    from vivit_train.sweep.search import OptunaSearch

    settings = dict(n_trials=9, sampler="random", seed=0, prune=True, direction=direction)
    (interval,) = parse_overrides([OPTUNA[1]], sweeps=True)
    search = OptunaSearch(home, [interval], metric="mean_class_accuracy", **settings)
    for number in range(6):
        trial = search.next()
        trial.folder.mkdir()
        (trial.folder / "metrics.csv").write_text(
            f"epoch,step,val/top1,val/mean_class_accuracy\n0,7,{1 - 0.1 * number},{0.1 * number}\n"
        )
        stops = search.should_stop(trial)
        (trial.folder / "results.json").write_text('{"mean_class_accuracy": 0.5}')
        search.done(trial)
    assert stops is prunes


def test_a_trial_that_ended_while_the_sweep_was_dead_is_not_started_again(home: Path) -> None:
    import optuna

    from vivit_train.sweep.search import OptunaSearch

    settings = dict(n_trials=5, sampler="random", seed=0, prune=False, direction="maximize")
    (interval,) = parse_overrides([OPTUNA[1]], sweeps=True)
    search = OptunaSearch(home, [interval], metric="top1", **settings)
    finished, failed, pruned, begun = (search.next() for _ in range(4))
    failed.error, pruned.pruned = "unlucky", True
    for trial in (finished, failed, pruned, begun):
        trial.folder.mkdir()
        trial.save()
    (finished.folder / "results.json").write_text('{"top1": 0.25}')
    search = OptunaSearch(home, [interval], metric="top1", **settings)
    assert [search.next().number for _ in range(2)] == [begun.number, 4]
    assert search.next() is None
    state = optuna.trial.TrialState
    expected = [state.COMPLETE, state.FAIL, state.PRUNED, state.RUNNING, state.RUNNING]
    assert [trial.state for trial in search.study.trials] == expected
    assert search.study.trials[0].value == 0.25


def test_an_unknown_metric_is_told_before_the_first_trial(run, home: Path) -> None:
    with pytest.raises(UserError, match="metric=val_top is not a score"):
        run(*OPTUNA, "seed=1", "hydra.sweeper.metric=val_top")
    assert not list(home.glob("*/starts"))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("optim.lr=interval(0.1,1.0)", "FloatDistribution(high=1.0, log=False, low=0.1"),
        ("optim.lr=tag(log,interval(1e-5,1e-3))", "FloatDistribution(high=0.001, log=True"),
        (
            "model.num_layers=int(interval(2,8))",
            "IntDistribution(high=8, log=False, low=2, step=1)",
        ),
        ("model.num_layers=range(2,9,3)", "IntDistribution(high=8, log=False, low=2, step=3)"),
        ("model.image_size=16,[16,32]", "CategoricalDistribution(choices=('16', '[16,32]'))"),
    ],
)
def test_hydras_syntax(word: str, expected: str) -> None:
    from vivit_train.sweep.search import distribution

    assert str(distribution(parse_overrides([word], sweeps=True)[0])).startswith(expected)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=1"], "nothing to search; give an interval or choices"),
        ([OPTUNA[1], "hydra.sweeper.direction=up"], "direction=up: expected maximize or minimize"),
        ([OPTUNA[1], "hydra.sweeper.sampler=grid"], "sampler=grid: expected tpe or random"),
        (["optim.lr=interval(1.0,0.5)"], "from a number to a larger one"),
        (["optim.lr=tag(log,interval(0.0,0.5))"], "both are above 0"),
        (
            [OPTUNA[1], "hydra.sweeper.metric=f1"],
            "metric=f1 is not a score of results.json: top1, top5, map, micro_map, mean_class_",
        ),
    ],
)
def test_mistakes(words: list[str], message: str, run) -> None:
    with pytest.raises(UserError, match=message):
        run(OPTUNA[0], "seed=1", *words)


def test_a_folder_holds_one_search(run, home: Path) -> None:
    run(*OPTUNA, "seed=1", "hydra.sweeper.n_trials=1")
    with pytest.raises(UserError, match="another fixed: seed=1, now seed=2"):
        run(*OPTUNA, "seed=2", "hydra.sweeper.n_trials=2")
    with pytest.raises(UserError, match="holds a search with another space"):
        run(OPTUNA[0], "optim.lr=interval(0.0,0.5)", "seed=1")


def test_without_optuna(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "vivit_train.sweep.search", raising=False)
    with pytest.raises(UserError, match=r"pip install 'vivit-train\[sweep\]'"):
        run(*OPTUNA, "seed=1")
