"""How a run is stopped from outside: all processes at the same step, saved, with an exit code."""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from vivit_train.io.terminal import say
from vivit_train.launch import slurm
from vivit_train.launch.processes import COLLECTIVE_TIMEOUT_SECONDS
from vivit_train.launch.stop_watch import STOPPING, StopWatch
from vivit_train.runs.resume import resume_command


class Stopped(SystemExit):
    """Ends a run that a signal stopped; its exit code is 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)

    def report(self, checkpoint: Path) -> None:
        """Says how to resume; on a SLURM cluster SIGUSR1 puts the job back into the queue."""
        if checkpoint.is_file():
            how = f"resume with: {resume_command(checkpoint)}"
        else:  # an evaluation, or a run before its first step
            how = "nothing was saved"
        say(f"stopped by {self.signal.name}; {how}", file=sys.stderr)
        job = slurm.this_job()
        if self.signal is signal.SIGUSR1 and job is not None:
            say(f"SLURM job {job} {slurm.requeue(job)}", file=sys.stderr)


class StopSignals(Checkpoint):
    """At a signal of `STOPPING` ends the run after the step at hand, or inside validation.

    A handler only takes the signal down. After every optimiser step, and before every batch of an
    evaluation, the processes agree on whether any of them has one, so that none waits for another
    that is gone, and `Stopped` is raised in all of them; `Checkpoints` then saves. Steps with
    gradients still being accumulated are finished first: no checkpoint holds gradients. The
    `StopWatch` ends the run at once at a Ctrl-C after that, or if it does not come so far.

    Lightning's own handlers save within the handler, between any two instructions, and broadcast
    there, which blocks for good where only some processes get the signal. They are not installed.

    It counts as a checkpoint callback, which Lightning calls after all others.

    Args:
        watch: Is told of the run's progress.
    """

    def __init__(self, watch: StopWatch) -> None:
        self.watch = watch
        self.received = 0
        self._before: dict[int, Any] = {}
        self._group: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Turns Lightning's own signal handling off."""
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        # It costs a broadcast and a wait for the device in every step.
        loop: Any = trainer.fit_loop.epoch_loop
        loop._broadcast_sigterm_tensor = lambda: None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens from here on: before, there is nothing to save."""
        self._listen(trainer)

    on_test_start = on_train_start

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Stops after an optimiser step.

        Where validation comes next, it is stopped there: a checkpoint of this moment would skip
        that validation.

        Raises:
            Stopped: If any process was told to.
        """
        if not trainer.fit_loop._should_accumulate() and not validates_next(trainer):
            self._stop_if_told()
        else:
            self.watch.note_progress()

    def on_validation_batch_start(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Stops inside validation and inside the test.

        Raises:
            Stopped: If any process was told to.
        """
        if not trainer.sanity_checking:
            self._stop_if_told()

    on_test_batch_start = on_validation_batch_start

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, error: Any) -> None:
        """Hands the signals back, and ends the workers: left to the exit, they take a minute."""
        self._unlisten()
        for loader in (trainer.train_dataloader, trainer.val_dataloaders, trainer.test_dataloaders):
            iterator: Any = getattr(loader, "_iterator", None)  # of workers that persist
            if hasattr(iterator, "_shutdown_workers"):
                iterator._shutdown_workers()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hands the signals back."""
        self._unlisten()

    def on_save_checkpoint(self, *_: Any) -> None:
        """Leaves time to write: all processes come here, and wait for rank 0."""
        self.watch.note_progress(COLLECTIVE_TIMEOUT_SECONDS)

    def _stop_if_told(self) -> None:
        self.watch.note_progress()
        number = torch.tensor(self.received)
        if self._group is not None:
            dist.all_reduce(number, dist.ReduceOp.MAX, group=self._group)
        if number:
            raise Stopped(int(number))

    def _listen(self, trainer: Trainer) -> None:
        self.watch.note_progress()
        if trainer.world_size > 1:
            # On the CPU: agreeing does not wait for a device.
            self._group = dist.new_group(backend="gloo")
        for number in STOPPING:
            # A run in the background is started with SIGINT ignored, and keeps ignoring it.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._take_down)
        self.watch.listens = True

    def _unlisten(self) -> None:
        self.watch.listens = False
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
        self._group = None

    def _take_down(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number


def validates_next(trainer: Trainer) -> bool:
    """Whether a validation follows the training batch that just ended."""
    loop = trainer.fit_loop
    assert loop._data_fetcher is not None
    return loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
