"""How many frames a second the videos of a split have, by a quick look at some of them."""

import time

import numpy as np

from vivit_train.data.records import Records
from vivit_train.errors import UserError
from vivit_train.video.container import open_video
from vivit_train.video.decode import why_no_file
from vivit_train.video.decoders import known_rate
from vivit_train.video.guard import CAN_GUARD, Failure, Guard, Tell


def video_rates(records: Records, most: int = 64, seconds: float = 2.0) -> list[float]:
    """The frame rates that the heads of some videos name; no frame is shown.

    Args:
        records: The split.
        most: Videos to look at: evenly chosen, in an order of which any beginning is as even.
        seconds: After which no further one is opened, as the storage may be slow.

    Returns:
        Average frames per second, one of each video that tells; empty where none does.
    """
    rows = np.linspace(0, len(records) - 1, min(most, len(records))).astype(int)

    def look(row: int, tell: Tell) -> float:
        return _rate(records, row)

    rates: list[float] = []
    guard = Guard(look, seconds) if CAN_GUARD else None
    end = time.monotonic() + seconds
    for row in np.random.default_rng(0).permutation(rows).tolist():
        if time.monotonic() > end:
            break
        try:
            rates.append(guard(row) if guard else _rate(records, row))
        except Failure:
            continue
    if guard:
        guard.close()
    return [rate for rate in rates if rate]


def _rate(records: Records, row: int) -> float:
    """Average frames per second of a video; 0 where it does not tell, or cannot be opened."""
    (path, _), span = records.source(row), records.span(row)
    try:
        if span is None and why_no_file(path):
            return 0.0
        container, stream = open_video(path, None if span is None else span.read(path))
        with container:
            return known_rate(stream.average_rate)
    except UserError:
        raise
    except Exception:  # of whatever kind: training and `vivit check` say what is wrong with it
        return 0.0
