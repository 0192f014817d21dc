"""What a sweep is made of: what searches for trials, what starts them, and one that runs."""

from typing import Protocol

from vivit_train.runs.trial import Trial


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
