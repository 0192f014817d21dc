"""The loading report: what became of every tensor."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from vivit_train.io.terminal import printable

Key = TypeVar("Key")


@dataclass(frozen=True)
class Row:
    """What became of one tensor.

    Attributes:
        name: Its name in the model; for an unused one, in the file.
        status: ``loaded``, ``interpolated``, ``replaced head``, ``missing`` or ``unused``.
        detail: Why or how; empty where the status says all.
    """

    name: str
    status: str
    detail: str = ""


def print_account(rows: Sequence[Row], origin: str) -> None:
    """Prints what became of every tensor, the blocks' tensors of one kind in one line.

    Args:
        rows: What ``load_weights`` returned.
        origin: Where the weights came from, ``Weights.origin``.
    """
    table = Table("tensor", "status", "count", "detail", box=None, pad_edge=False)
    for column in table.columns[:3]:
        column.no_wrap = True
    for name, (status, detail), count in by_kind((r.name, (r.status, r.detail)) for r in rows):
        table.add_row(printable(name), status, str(count), printable(detail))
    statuses = Counter(row.status for row in rows)
    # No markup: names and paths may hold brackets.
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 120)  # a log wraps no lines
    console.print(printable(f"Weights from {origin}"), soft_wrap=True)
    console.print(table)
    console.print(", ".join(f"{count} {status}" for status, count in statuses.items()))


def by_kind(items: Iterable[tuple[str, Key]]) -> list[tuple[str, Key, int]]:
    """Joins the numbered tensors of one kind: ``blocks.0-11.attn.qkv.weight``, key, count."""
    groups: dict[tuple[str, Key], list[int]] = {}
    for name, key in items:
        number = re.search(r"\.(\d{1,9})\.", name)
        kind = name.replace(number[0], ".*.", 1) if number else name
        groups.setdefault((kind, key), []).append(int(number[1]) if number else 0)
    return [
        (kind.replace(".*.", f".{_ranges(numbers)}.", 1), key, len(numbers))
        for (kind, key), numbers in groups.items()
    ]


def _ranges(numbers: Sequence[int]) -> str:
    """``0-3,7`` for 0, 1, 2, 3 and 7."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
