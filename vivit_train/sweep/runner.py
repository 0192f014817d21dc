"""Running the trials of a sweep, several at a time, until all are done or a signal comes."""

import shlex
import signal
import time
from typing import TYPE_CHECKING, Any

from vivit_train.io.terminal import say
from vivit_train.launch.stop_watch import STOPPING, leave_terminal
from vivit_train.runs.trial import Trial

if TYPE_CHECKING:
    from vivit_train.sweep.grid import Grid
    from vivit_train.sweep.local import LocalJob, LocalLauncher
    from vivit_train.sweep.search import OptunaSearch
    from vivit_train.sweep.slurm import SlurmLauncher

POLL_SECONDS = 0.2


class Sweep:
    """Runs what a search proposes where a launcher says, whatever becomes of single trials.

    Signals that stop a run are passed on to the trials, which save; no more are then started.
    """

    def __init__(
        self, search: "Grid | OptunaSearch", launcher: "LocalLauncher | SlurmLauncher"
    ) -> None:
        self.search = search
        self.launcher = launcher
        self.received = 0
        self._untold: list[int] = []
        self._running: dict[int, tuple[Trial, LocalJob]] = {}

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
            for _, job in self._running.values():  # of a sweep that cannot continue
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
            return None  # unfinished: the same command resumes it
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
