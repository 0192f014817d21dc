"""A data set whose videos may hang or kill the decoder: training and evaluation continue."""

import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import IO, Any

from torch.utils.data import Dataset

from vivit_train.data.dataset import Sample
from vivit_train.errors import ProcessLost
from vivit_train.video.decode import DecodeError, DecoderLost
from vivit_train.video.guard import CAN_GUARD, Failure, Guard
from vivit_train.video.watch import Source, watched

# How often a video is tried that hangs or kills its decoder, each time in a new process. The
# storage may have paused, or memory run short: the last time no other worker decodes beside it.
TRIES = 3


class GuardedDataset(Dataset[Sample]):
    """Samples of another data set, each made in a process that may be lost.

    A sample is a function of its key and of the files alone: nothing that one sample met is
    remembered for the next, so it does not matter which worker makes it. Where a video hangs or
    kills the process at each of `TRIES` times, it is a broken video like any other to the data
    set, which says so in the sample (`Sample.given_up`); who trains may then put its row into
    the keys that follow, for all workers alike (`Key.given_up`).

    Args:
        dataset: A `TrainDataset` or `EvalDataset`.
        timeout: Seconds that a video may go without a step forward (`go_on`); ``None``: no
            limit, and no other process.
        refused: Videos that are never opened, and why.
    """

    def __init__(
        self, dataset: Any, timeout: float | None, refused: Mapping[Source, str] | None = None
    ) -> None:
        self.dataset = dataset
        self._guard: Guard[tuple[Any, dict[Source, str]], Sample] | None = None
        self._sample = partial(_sample, dataset, dict(refused or {}))
        if timeout is not None and CAN_GUARD:
            self._guard = Guard(self._sample, timeout)
            self._turns = tempfile.TemporaryFile()  # noqa: SIM115

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Any) -> Sample:
        """The sample of a key.

        Raises:
            ProcessLost: If the process is lost for another reason than a video.
        """
        if self._guard is None:
            return self._sample((key, {}))
        losses: Counter[Source | None] = Counter()
        lost: dict[Source, str] = {}
        alone = False
        while True:
            try:
                with _turn(self._turns, alone):
                    return self._guard((key, lost))
            except Failure as failure:
                at, reason = failure.at, failure.reason
                losses[at] += 1
                alone = losses[at] == TRIES - 1
                if losses[at] < TRIES:
                    name = at[0] if at else f"sample {key}"
                    warnings.warn(f"{name}: {reason}; trying again", stacklevel=1)
                elif at is None or at in lost:
                    raise ProcessLost(f"{reason}, {TRIES} times, at sample {key}") from None
                else:
                    lost[at] = f"{reason}, {TRIES} times"


@contextmanager
def _turn(file: IO[bytes], alone: bool) -> Iterator[None]:
    """Within, other forks with the same file decode as well, or with ``alone`` none of them."""
    import fcntl  # Windows has none

    fcntl.lockf(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
    try:
        yield
    finally:
        fcntl.lockf(file, fcntl.LOCK_UN)


def _sample(
    dataset: Any,
    refused: Mapping[Source, str],
    call: tuple[Any, Mapping[Source, str]],
) -> Sample:
    """The sample of a key, without the videos that have been lost over it."""
    key, lost = call

    def refuse(source: Source | None) -> None:
        if source is not None and source in refused:
            raise DecodeError(source[0], refused[source])
        if source is not None and source in lost:
            raise DecoderLost(source[0], lost[source])

    with watched(refuse):
        start, cpu_start = time.perf_counter(), time.process_time()
        sample = dataset[key]
        sample.clip_seconds = time.perf_counter() - start
        sample.decode_seconds = time.process_time() - cpu_start
        return sample
