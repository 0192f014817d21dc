"""A data set whose videos may hang or kill the decoder: training and evaluation go on."""

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch.utils.data import Dataset

from vivit_train.data.dataset import Sample
from vivit_train.data.shards import before_reading
from vivit_train.video.decode import DecodeError, Source, before_opening
from vivit_train.video.guard import CAN_GUARD, Failure, Guard, Tell


class GuardedDataset(Dataset[Sample]):
    """Samples of another data set, each made in a process that may be lost.

    A video that hangs or kills this process is refused from then on, with the reason, and the
    sample is asked for again: to the data set it is a broken video like any other, with the same
    draw in its place. Each DataLoader worker has such a process of its own, and its own list.

    Args:
        dataset: A `TrainDataset` or `EvalDataset`.
        timeout: Seconds that a video may take; ``None``: no limit, and no other process.
        refused: Videos that are not to be opened, and why.
    """

    def __init__(
        self, dataset: Any, timeout: float | None, refused: Mapping[Source, str] | None = None
    ) -> None:
        self.dataset = dataset
        self.refused = dict(refused or {})
        can_guard = timeout is not None and CAN_GUARD
        self._sample = partial(_sample, dataset, self.refused)
        self._guard = Guard(self._sample, timeout or 0.0) if can_guard else None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Any) -> Sample:
        """The sample of a key.

        Raises:
            RuntimeError: If the process is lost for another reason than a video.
        """
        if self._guard is None:
            return self._sample(key)
        while True:
            try:
                return self._guard(key)
            except Failure as failure:
                if failure.at is None or failure.at in self.refused:
                    raise RuntimeError(f"{failure.reason}, at sample {key}") from failure
                self.refused[failure.at] = failure.reason


def _sample(
    dataset: Any, refused: Mapping[Source, str], key: Any, tell: Tell | None = None
) -> Sample:
    def open_or_refuse(source: Source) -> None:
        if source in refused:
            raise DecodeError(source[0], refused[source])
        if tell:
            tell(source)

    with before_reading(open_or_refuse), before_opening(open_or_refuse):
        start = time.perf_counter()
        sample = dataset[key]
        sample.decode_seconds = time.perf_counter() - start
        return sample
