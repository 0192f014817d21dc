"""What `vivit check` and `vivit prepare` have in common: work on every video that a set lists."""

import argparse
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from vivit_train.errors import UserError
from vivit_train.io.progress import progress
from vivit_train.io.terminal import say

if TYPE_CHECKING:
    from vivit_train.data.datamodule import VideoDataModule

STOPPED = 130  # the exit code of a program that Ctrl-C ended
MOST_LINES = 100


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Declares what bounds the work on videos in processes."""
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="SECONDS",
        help="without a decoded frame, after which a video is given up (default 60)",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes (default: data.num_workers)"
    )


def check_limits(arguments: argparse.Namespace) -> None:
    """Refuses what `add_limits` declares where it is out of range.

    Raises:
        UserError: If a number is.
    """
    if arguments.timeout <= 0:
        raise UserError(f"--timeout must be above 0 seconds, got {arguments.timeout:g}")
    if arguments.workers is not None and arguments.workers < 1:
        raise UserError(f"--workers must be 1 or more, got {arguments.workers}")


def all_videos(overrides: Sequence[str]) -> "VideoDataModule":
    """The data set of a command line with all that it lists, whatever an earlier check found.

    Returns:
        The data module, not set up.
    """
    from vivit_train.config import compose_config, to_plain

    config = to_plain(compose_config(overrides), needs_weights=False)
    config["data"]["verdicts"] = None

    from vivit_train.build import build_data
    from vivit_train.io.quiet import hush_lightning

    hush_lightning()
    data = build_data(config)
    data.keeps_all = True
    return data


def work_through(
    outcomes: Generator[Any, None, None],
    total: int,
    keep: Callable[[Any], None],
    done: Callable[[], str],
) -> bool:
    """Keeps each outcome as it comes, and shows how far the work is.

    Args:
        outcomes: Made by processes, which end when it is closed; each has its ``verdict``.
        total: How many there will be.
        keep: Writes one down.
        done: What is done if the work is stopped, in words.

    Returns:
        Whether it came to its end; otherwise a Ctrl-C stopped it, and a line says how to continue.
    """
    try:
        with progress(total) as advance:
            for outcome in outcomes:
                keep(outcome)
                advance(outcome.verdict)
    except KeyboardInterrupt:
        outcomes.close()
        say(f"stopped: {done()}; the same command continues from there", file=sys.stderr)
        return False
    return True


def cut_short(lines: Iterable[str], rest: object = "--json") -> Iterator[str]:
    """Lines, and of very many only the first, with where the rest is."""
    lines = list(lines)
    yield from lines[:MOST_LINES]
    if len(lines) > MOST_LINES:
        yield f"... and {len(lines) - MOST_LINES} more: see {rest}"
