"""How far work on videos or parts of them is: a bar, or lines where the output is no terminal."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from vivit_train.io.terminal import say


@contextmanager
def progress(total: int, line_seconds: float = 10) -> Iterator[Callable[[str], None]]:
    """A bar with the time left, or a line now and then where there is no terminal.

    Args:
        total: Videos, or parts of one, to go through.
        line_seconds: Between two lines, where there is no terminal.

    Yields:
        What to call after each, with what became of it in a word.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    counts: Counter[str] = Counter()
    console = Console(stderr=True, markup=False, highlight=False)
    if not console.is_terminal:
        last = time.monotonic()

        def tell(verdict: str) -> None:
            nonlocal last
            counts[verdict] += 1
            if time.monotonic() - last > line_seconds:
                last = time.monotonic()
                say(f"{counts.total()}/{total}  {in_words(counts)}", file=sys.stderr)

        yield tell
        return
    columns = (MofNCompleteColumn(), BarColumn(), TimeLeft(), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=total)

        def advance(verdict: str) -> None:
            counts[verdict] += 1
            bar.update(task, advance=1, description=in_words(counts))

        yield advance


def in_words(counts: Mapping[str, int]) -> str:
    """``12 ok, 1 missing``."""
    return ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "nothing"
