"""Runs side by side: what differs between them, their scores and how far they are."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vivit_train.config.changes import values
from vivit_train.config.saved import read_values
from vivit_train.errors import UserError
from vivit_train.io.files import errors_name
from vivit_train.io.foreign import is_of, read_json
from vivit_train.io.layout import CONFIG_FILE, METRICS_FILE, RESULTS_FILE, TRIAL_FILE
from vivit_train.io.terminal import csv_text, json_text, printable, say
from vivit_train.runs.metrics_csv import read_metrics
from vivit_train.runs.trial import Trial

# The scores of an unfinished run are those of its last validation.
SCORES = ("top1", "top5", "map", "micro_map", "mean_class_accuracy", "micro_f1", "macro_f1")
# The first that the runs have orders them.
MAIN_SCORES = ("top1", "map")
# Levels at which runs are looked for: runs/sweeps/<date>/<number> has three.
MAX_DEPTH = 3
# What differs between any two runs and says nothing about their scores.
_NOT_SETTINGS = (
    "run_dir", "started_in", "ckpt_path", "allow_other_videos", "name", "callbacks.refresh_rate",
)  # fmt: skip
_PNG_FONT_PX, _PNG_PAD_PX = 14, 8
_BAR_COLOUR, _RULE_COLOUR = (190, 215, 240), (120, 120, 120)


@dataclass
class Run:
    """A run as its folder tells it.

    Attributes:
        path: The folder.
        state: ``finished``, ``epoch 3 of 30``, ``failed: why``, ``pruned`` or ``not started``.
        settings: Its configuration, flat: ``optim.lr`` -> value.
        chosen: In a sweep, the words that it chose for this trial; else ``None``.
        scores: Fractions, by name. Of the test; until then of the last validation.
        num_videos: Videos that the test scored; ``None`` before.
        fingerprint: Of the test split; ``None`` before the test.
    """

    path: Path
    state: str
    settings: dict[str, Any] = field(default_factory=dict)
    chosen: dict[str, str] | None = None
    scores: dict[str, float] = field(default_factory=dict)
    num_videos: int | None = None
    fingerprint: str | None = None


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs of folders, each a run's or one that holds runs.

    Raises:
        UserError: If a folder is neither.
    """
    runs: dict[Path, Run] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; expected a run's, or a sweep's")
        found = runs_below(folder)
        if not found:
            raise UserError(
                f"{folder} is neither a run nor holds one: expected results.json or config.yaml, "
                f"or in folders up to {MAX_DEPTH} levels below"
            )
        runs |= {path.resolve(): read_run(path) for path in found}
    return list(runs.values())


def runs_below(folder: Path, depth: int = MAX_DEPTH) -> list[Path]:
    """The folder itself if it is a run's, else those below it: a sweep's, or all of ``runs/``."""
    if is_run(folder):
        return [folder]
    if not depth:
        return []
    inside = [path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."]
    return [run for path in sorted(inside, key=by_name) for run in runs_below(path, depth - 1)]


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's, also of one that failed before it wrote anything."""
    return any((folder / name).is_file() for name in (CONFIG_FILE, RESULTS_FILE, TRIAL_FILE))


def by_name(path: Path) -> tuple[int, str]:
    """Orders trials by their number."""
    return (int(path.name) if path.name.isdigit() else sys.maxsize, path.name)


def read_run(folder: Path) -> Run:
    """One run, at whatever stage it is.

    Raises:
        UserError: If one of its files cannot be read.
    """
    run = Run(folder, "not started")
    error, pruned = None, False
    if (folder / TRIAL_FILE).is_file():
        trial = Trial.read(folder)
        named = (word.partition("=") for word in trial.varied)
        run.chosen = {key: value for key, _, value in named}
        error, pruned = trial.error, trial.pruned
    if (folder / CONFIG_FILE).is_file():
        run.settings = dict(values(read_values(folder / CONFIG_FILE)))
    if (folder / RESULTS_FILE).is_file():
        results = read_json(folder / RESULTS_FILE)
        run.state = "finished"
        run.num_videos = results.get("num_videos_scored", results.get("num_videos"))
        run.fingerprint = results.get("split_fingerprint")
        names = [*SCORES, *(k for k in results if k.endswith(("_top1", "_top5")))]
        run.scores = {name: results[name] for name in names if name in results}
        if (
            not is_of(run.num_videos, int)
            or not (is_of(run.fingerprint, str) or run.num_videos == 0)  # 0: no test
            or not is_of(run.scores, dict[str, float])
        ):
            raise UserError(
                f"{folder / RESULTS_FILE} is not what a run writes: num_videos, "
                "split_fingerprint or a score is missing or of another type"
            )
        return run
    rows = read_metrics(folder / METRICS_FILE)
    if rows:
        epochs = run.settings.get("trainer.max_epochs")
        run.state = f"epoch {rows[-1].epoch + 1} of {epochs}"
        mains = {f"val/{name}" for name in MAIN_SCORES}
        validated = [row.scores for row in rows if mains & row.scores.keys()]
        names = [name for name in SCORES if validated and f"val/{name}" in validated[-1]]
        run.scores = {name: validated[-1][f"val/{name}"] for name in names}
    if error is not None:
        run.state = f"failed: {error}"
    elif pruned:
        run.state = "pruned"
    return run


class Comparison:
    """The table of runs, best first.

    Attributes:
        columns: Names of its columns: what differs, scores, videos, state.
        rows: The runs, best first and those without a score last; column -> value or ``None``.
        warnings: Why the scores may not compare.

    Args:
        runs: What to compare.
        sort: The score that orders them; higher is better. ``None``: the first of `MAIN_SCORES`
            that they have.

    Raises:
        UserError: If no run has a score of that name, though some have scores.
    """

    def __init__(self, runs: Sequence[Run], sort: str | None = None) -> None:
        names = list(dict.fromkeys(name for run in runs for name in run.scores))
        sort = sort or next((name for name in MAIN_SCORES if name in names), MAIN_SCORES[0])
        if names and sort not in names:
            raise UserError(f"--sort {sort}: no run has that score; there are {', '.join(names)}")
        self.sort = sort
        differing = differences(runs)
        self.columns = ["run", *differing, *names, "num_videos", "state"]
        ordered = sorted(runs, key=lambda run: -run.scores.get(sort, -1.0))
        self.rows: list[dict[str, Any]] = [
            {
                "run": str(run.path),
                **{key: found[runs.index(run)] for key, found in differing.items()},
                **{name: run.scores.get(name) for name in names},
                "num_videos": run.num_videos,
                "state": run.state,
            }
            for run in ordered
        ]
        self.scores = names
        self.warnings = self._warnings(runs)

    def text(self) -> list[list[str]]:
        """The cells as shown, row by row; scores of a validation are marked with a star."""
        return [[self._cell(row, column) for column in self.columns] for row in self.rows]

    def print(self) -> None:
        """Prints the table, and to stderr the warnings."""
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for column in self.columns:
            justify = "right" if column in (*self.scores, "num_videos") else "left"
            table.add_column(printable(column), justify=justify, no_wrap=True)  # type: ignore[arg-type]
        for cells in self.text():
            table.add_row(*cells)
        # As wide as it needs: whoever narrows a terminal or pipes into a file loses no column.
        Console(markup=False, highlight=False, soft_wrap=True, width=10_000).print(table)
        if any(cell.endswith("*") for cells in self.text() for cell in cells):
            say("* score of the last validation: the run has not been tested yet")
        for warning in self.warnings:
            say(f"warning: {warning}", file=sys.stderr)

    def write_csv(self, path: Path) -> None:
        """Writes the table; scores in full, empty where there is none."""
        with errors_name(path):
            path.write_text(csv_text(self.columns, self.rows), encoding="utf-8", newline="")

    def write_json(self, path: Path) -> None:
        """Writes ``{"runs": [...], "warnings": [...]}``."""
        content = {"runs": self.rows, "warnings": self.warnings}
        with errors_name(path):
            path.write_text(json_text(content) + "\n", encoding="utf-8")

    def write_png(self, path: Path) -> None:
        """Draws the table, with a bar from 0 to 1 behind each score that it is ordered by."""
        from PIL import Image, ImageDraw, ImageFont

        font = ImageFont.load_default(_PNG_FONT_PX)
        table = [self.columns, *self.text()]
        widths = [
            int(max(font.getlength(cells[i]) for cells in table)) + 2 * _PNG_PAD_PX
            for i in range(len(self.columns))
        ]
        if self.sort in self.columns:
            index = self.columns.index(self.sort)
            widths[index] = max(widths[index], 120)  # room for the bar
        height = _PNG_FONT_PX + _PNG_PAD_PX
        image = Image.new("RGB", (sum(widths), height * len(table) + _PNG_PAD_PX), "white")
        draw = ImageDraw.Draw(image)
        for line, cells in enumerate(table):
            left, top = 0, line * height + _PNG_PAD_PX // 2
            for column, cell, width in zip(self.columns, cells, widths):
                score = self.rows[line - 1].get(column) if line and column == self.sort else None
                if score is not None:
                    right = left + round(width * score)
                    draw.rectangle((left, top, right, top + height - 3), fill=_BAR_COLOUR)
                draw.text((left + _PNG_PAD_PX, top + 2), cell, fill="black", font=font)
                left += width
        draw.line((0, height, image.width, height), fill=_RULE_COLOUR)
        with errors_name(path):
            image.save(path)

    def _cell(self, row: dict[str, Any], column: str) -> str:
        value = row[column]
        if value is None:
            return ""
        if column in self.scores:
            return f"{value:.4f}{'' if row['num_videos'] is not None else '*'}"
        return printable(value)

    def _warnings(self, runs: Sequence[Run]) -> list[str]:
        splits: dict[str, Run] = {}
        for run in runs:
            if run.fingerprint is not None:
                splits.setdefault(run.fingerprint, run)
        if len(splits) < 2:
            return []
        told = "; ".join(f"{run.path}: {run.num_videos} ({f})" for f, run in splits.items())
        return [
            "these scores cannot be compared, they are of different videos or classes "
            f"(split_fingerprint): {told}"
        ]


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """What differs: key -> the value of each run.

    Between trials of sweeps it is what the sweeps chose; otherwise any value of the configuration.
    """
    if all(run.chosen is not None for run in runs):
        sources: list[Mapping[str, Any]] = [run.chosen or {} for run in runs]
    else:
        sources = [run.settings for run in runs]
    keys = dict.fromkeys(key for source in sources for key in source if key not in _NOT_SETTINGS)
    # A run that wrote no configuration differs in nothing.
    told = [source for source in sources if source]
    return {
        key: [source.get(key) for source in sources]
        for key in keys
        if any(source.get(key) != told[0].get(key) for source in told)
    }
