"""metrics.csv: what a run has logged, a column per metric and a row per step."""

import csv
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vivit_train.errors import UserError
from vivit_train.io.files import errors_name, write_whole
from vivit_train.io.layout import MetricsPosition
from vivit_train.io.terminal import say


class Row(NamedTuple):
    """What was logged at one step.

    Attributes:
        epoch: Counted from 0.
        step: Optimiser steps before it.
        scores: By name, such as ``val/top1``; those that were logged.
    """

    epoch: int
    step: int
    scores: dict[str, float]


def read_metrics(path: Path) -> list[Row]:
    """The whole rows of a metrics.csv, which may be written to at this moment or not exist yet.

    Raises:
        UserError: If it is another file.
    """
    rows: list[Row] = []
    _, table = _read(path)
    for cells in table:
        try:
            # A row that names no epoch is of the same as the one before.
            epoch = int(cells.pop("epoch") or (rows[-1].epoch if rows else 0))
            step = int(cells.pop("step"))
            rows.append(
                Row(epoch, step, {name: float(cell) for name, cell in cells.items() if cell})
            )
        except ValueError as error:
            raise _damaged(path, str(error)) from None
    return rows


class MetricsFile:
    """Writes metrics.csv: appends rows, and writes the whole file where a column is new.

    It survives resuming: the rows that there were when the checkpoint was written are kept, later
    ones (of the part that is trained again) are dropped.

    Attributes:
        rows: All rows, written or not: ``step``, ``epoch`` and the metrics.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.rows: list[dict[str, Any]] = []
        self._columns = ["epoch", "step"]
        self._written = 0

    def add(self, metrics: Mapping[str, Any], step: int | None) -> None:
        """Adds metrics to the row of a step."""
        row = {"step": step, **metrics}
        if self.rows and self.rows[-1]["step"] == step and len(self.rows) > self._written:
            self.rows[-1].update(row)
        else:
            self.rows.append(row)
        self._columns += [name for name in row if name not in self._columns]

    def position(self, following: dict[str, Any] | None) -> MetricsPosition:
        """How far the file is when a checkpoint is written, for `resume`.

        Args:
            following: The row of the step at hand, if it is still to come. What a callback has
                logged of this step already goes into it.
        """
        rows = len(self.rows)
        if following and rows > self._written and self.rows[-1]["step"] == following["step"]:
            return {"rows": rows - 1, "next": self.rows[-1] | following}
        return {"rows": rows, "next": following}

    def resume(self, rows: int, following: Mapping[str, Any] | None = None) -> None:
        """Takes up an existing file.

        Args:
            rows: Rows to keep; later ones are of the part that is trained again.
            following: A row that comes after them.

        Raises:
            UserError: If it is another file, which no report could read after the run.
        """
        read_metrics(self.path)
        columns, table = _read(self.path)
        self._columns, self.rows = columns or self._columns, list(table[:rows])
        self._written = len(self.rows)
        if len(self.rows) < rows:
            say(
                f"warning: {self.path} has {len(self.rows)} of the {rows} rows that there were "
                "when the checkpoint was written; the others are lost",
                file=sys.stderr,
            )
        if following is not None:
            self.add(following, following["step"])
        if self.rows:
            self._rewrite()

    def save(self) -> None:
        """Writes what is new; the whole file, atomically, when a column is new."""
        if len(self.rows) == self._written:
            return
        if self._written == 0 or self._header() != self._columns:
            self._rewrite()
            return
        with errors_name(self.path), self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerows(self.rows[self._written :])
        self._written = len(self.rows)

    def _header(self) -> list[str]:
        with self.path.open(newline="") as file:
            return next(csv.reader(file), [])

    def _rewrite(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        writer.writerows(self.rows)
        write_whole(self.path, text.getvalue())
        self._written = len(self.rows)


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows, without a last line that has no end; none where there is no file."""
    if not path.is_file():
        return [], []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(line for line in file if line.endswith("\n"))
            rows = list(reader)
        columns = list(reader.fieldnames or [])
        missing = {"epoch", "step"}.difference(columns)
        if columns and missing:
            raise csv.Error(f"it has no column {min(missing)!r}")
        if any(None in row or None in row.values() for row in rows):
            raise csv.Error("a row has more or fewer values than there are columns")
    except (UnicodeDecodeError, csv.Error) as error:
        raise _damaged(path, str(error)) from None
    return columns, rows


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} is damaged ({reason}): restore it or move it away; a run then resumes without its "
        "rows"
    )
