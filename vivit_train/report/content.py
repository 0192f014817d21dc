"""What a run's folder says about it, gathered for its page."""

import csv
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vivit_train.errors import UserError
from vivit_train.io.foreign import check_regular, read_json
from vivit_train.io.layout import CLASSES_FILE, METRICS_FILE, PREDICTIONS_FILE, RESULTS_FILE
from vivit_train.runs.comparison import Run, read_run
from vivit_train.runs.metrics_csv import Row, read_metrics


@dataclass(frozen=True)
class Content:
    """A run, or an evaluation, as its files tell it.

    Attributes:
        run: What `vivit compare` reads of it.
        results: ``results.json``; empty before the test.
        rows: Of ``metrics.csv``; none of an evaluation.
        classes: Rows of ``classes.csv``.
        videos: Rows of ``predictions.csv``.
    """

    run: Run
    results: dict[str, Any]
    rows: list[Row]
    classes: list[dict[str, str]]
    videos: list[dict[str, str]]

    @classmethod
    def read(cls, folder: Path) -> "Content":
        """Reads a run's folder, at whatever stage the run is.

        Raises:
            UserError: If a file is not what a run writes.
        """
        results = folder / RESULTS_FILE
        return cls(
            run=read_run(folder),
            results=read_json(results) if results.is_file() else {},
            rows=read_metrics(folder / METRICS_FILE),
            classes=_table(folder / CLASSES_FILE, ("class", "videos", "correct", "predicted")),
            videos=_table(folder / PREDICTIONS_FILE, ("video", "class", "predicted")),
        )

    @property
    def name(self) -> str:
        """The folder's name, with that of the folder above where it is a date or a number."""
        path = self.run.path.resolve()
        return path.name if path.name.isidentifier() else f"{path.parent.name}/{path.name}"

    @cached_property
    def class_names(self) -> list[str]:
        """Classes in the order of the model's head; of several heads one after the other."""
        return [row["class"] for row in self.classes]

    @property
    def multi_label(self) -> bool:
        """Whether a video has any number of the classes."""
        return any("average_precision" in row for row in self.classes[:1])

    @cached_property
    def pairs(self) -> np.ndarray:
        """int ``[videos, 2]``: true and predicted class of each video; -1: none was predicted.

        Empty where videos have several classes.
        """
        place = {name: k for k, name in enumerate(self.class_names)}
        if self.multi_label or any(row["class"] not in place for row in self.videos):
            return np.zeros((0, 2), dtype=int)
        found = [(place[row["class"]], place.get(row["predicted"], -1)) for row in self.videos]
        return np.array(found, dtype=int).reshape(-1, 2)

    def curve(self, column: str) -> list[tuple[float, float]]:
        """(step, value) of a column of metrics.csv, where it has a finite value."""
        points = ((row.step, row.scores.get(column, math.nan)) for row in self.rows)
        return [(step, value) for step, value in points if math.isfinite(value)]


def _table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows of a csv that the product wrote; none where there is no file.

    Raises:
        UserError: If a column is missing.
    """
    if not path.is_file():
        return []
    check_regular(path)
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except csv.Error as error:
        raise UserError(f"{path} is not what a run writes: {error}") from None
    if not set(columns) <= set(reader.fieldnames or ()) or any(None in r.values() for r in rows):
        raise UserError(f"{path} is not what a run writes: expected columns {', '.join(columns)}")
    return rows
