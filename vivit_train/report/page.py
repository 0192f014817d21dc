"""`report.html`: one file, no network, for whoever wants to know what a run learned."""

import json
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from vivit_train.data.records import Records
from vivit_train.errors import UserError
from vivit_train.io.files import write_whole
from vivit_train.io.layout import REPORT_FILE
from vivit_train.io.terminal import printable, said_if_long, say
from vivit_train.report.charts import COLOURS, Line, chart, smoothed
from vivit_train.report.confusion import counts_of, grouped_order, worst
from vivit_train.report.content import Content
from vivit_train.report.intervals import intervals
from vivit_train.report.repeat import command_of
from vivit_train.report.strips import strips_of
from vivit_train.runs.comparison import differences

# Film strips of the worst videos, and as many of the most uncertain.
STRIPS = 12
# Classes up to which the matrix has a row of text for each.
FEW_CLASSES = 30
_SCORES = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "map": "mean average precision",
    "micro_map": "average precision of all pairs",
    "mean_class_accuracy": "mean class accuracy",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
}
_CHARTS: dict[str, tuple[str, Sequence[str]]] = {
    "Loss": ("cross-entropy", ("train/loss", "val/loss")),
    "Top-1": ("", ("train/top1", "val/top1")),
    "Mean average precision": ("", ("val/map",)),
    "Micro F1": ("at a probability of 0.5", ("train/micro_f1", "val/micro_f1")),
    "Learning rate": ("", ("train/lr",)),
    "Gradient norm": ("before clipping", ("train/grad_norm",)),
    "Speed": ("clips/s of a process", ("train/clips_per_second",)),
    "Waiting for data": ("share of the time", ("train/data_wait",)),
}


def write_page(folders: Sequence[Path], output: Path, records: Records | None = None) -> Path:
    """Writes the page of a run, or of several side by side.

    Args:
        folders: Of runs or evaluations.
        output: The file, which replaces an older one.
        records: Of the split that the first run was tested on, for film strips; ``None``: none.

    Raises:
        UserError: If a folder's files are not what a run writes.
        OSError: If the page cannot be written.
    """
    contents = [Content.read(folder) for folder in folders]
    with said_if_long(f"writing {output}"):
        write_whole(output, page_of(contents, records))
    return output


def page_of(contents: Sequence[Content], records: Records | None = None) -> str:
    """The page as text, see `write_page`."""
    runs = [_run(contents[0], records), *(_run(content, None) for content in contents[1:])]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vivit_train.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else printable(value),
    )
    files = resources.files("vivit_train.report")
    return environment.get_template("page.html").render(
        title=", ".join(content.name for content in contents),
        runs=runs,
        together=_together(contents) if len(contents) > 1 else None,
        style=Markup(files.joinpath("page.css").read_text()),
        script=Markup(files.joinpath("page.js").read_text()),
    )


def page_of_test(folder: Path, records: Records | None) -> None:
    """Writes the page at the end of a run or an evaluation, and says where it is.

    A failure is only a warning: the scores are written, and `vivit report` writes the page later.

    Args:
        folder: Where the scores were written.
        records: Of the test split; ``None``: there was no test.
    """
    try:
        say(f"report: {write_page([folder], folder / REPORT_FILE, records)}")
    except (UserError, OSError) as error:
        say(f"warning: no report was written: {error}", file=sys.stderr)


def _run(content: Content, records: Records | None) -> dict[str, Any]:
    """What the template shows of one run."""
    ends = intervals(content.pairs, len(content.class_names))
    results = content.results
    return {
        "name": content.name,
        "path": str(content.run.path),
        "state": content.run.state,
        "results": results,
        "scores": [
            (label, content.run.scores[key], ends.get(key))
            for key, label in _SCORES.items()
            if key in content.run.scores
        ],
        "heads": {k: v for k, v in content.run.scores.items() if k not in _SCORES},
        "facts": _facts(content),
        "command": _command(content),
        "charts": _charts([content]),
        "classes": content.classes,
        "multi_label": content.multi_label,
        "confusion": _confusion(content),
        "worst": [
            (content.class_names[c.true], content.class_names[c.predicted], c.videos, c.share)
            for c in worst(content.pairs)
        ],
        "films": _films(content, records),
        "broken": results.get("undecodable", []),
        "given_up": results.get("given_up", {}),
    }


def _facts(content: Content) -> list[tuple[str, str]]:
    """What was run, in pairs of a name and a value."""
    results, settings = content.results, content.run.settings
    versions = results.get("versions", {})
    facts = {
        "model": settings.get("model.name"),
        "pretrained weights": settings.get("model.pretrained"),
        "data": settings.get("data.name", results.get("data")),
        "data folder": settings.get("data.root"),
        "test split": results.get("split"),
        "fingerprint of the test videos": results.get("split_fingerprint"),
        "videos tested": results.get("num_videos_scored"),
        "views": " x ".join(map(str, results.get("views", []))),
        "checkpoint": results.get("checkpoint"),
        "seed": settings.get("seed", results.get("seed")),
        "precision": results.get("precision"),
        "attention": settings.get("model.attention_implementation"),
        "hardware": results.get("hardware"),
        "processes": results.get("devices"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return [(name, str(value)) for name, value in facts.items() if value not in (None, "")]


def _command(content: Content) -> str | None:
    """The command that repeats the run; ``None`` of an evaluation, or of another version's run."""
    if not content.run.settings:
        return None
    try:
        return command_of(content.run.settings)
    except UserError:
        return None


def _charts(contents: Sequence[Content]) -> list[Markup]:
    """Curves; several runs in one chart, each in its colour, without their noise."""
    charts, are_several = [], len(contents) > 1
    for title, (unit, columns) in _CHARTS.items():
        lines = []
        for place, content in enumerate(contents):
            # Of several runs the validation's curve alone.
            for column in columns[-1:] if are_several else columns:
                colour = place % COLOURS if are_several else columns.index(column)
                name = content.name if are_several else column.partition("/")[0]
                points = content.curve(column)
                is_noisy = column.startswith("train/") and column.endswith(
                    ("/loss", "/top1", "/micro_f1", "/grad_norm")
                )
                if is_noisy and len(points) > 10:
                    if not are_several:
                        lines.append(Line(f"{name}, each step", points, colour, is_faint=True))
                    points = smoothed(points)
                lines.append(Line(name, points, colour))
        charts.append(chart(title, lines, unit))
    return [drawn for drawn in charts if drawn]


def _confusion(content: Content) -> dict[str, Any] | None:
    """The matrix: classes in a useful order, and its cells."""
    names, pairs = content.class_names, content.pairs
    if not len(pairs):
        return None
    videos = np.bincount(pairs[:, 0], minlength=len(names)).tolist()
    counts = counts_of(pairs)
    rows = None
    if len(names) <= FEW_CLASSES:
        places = range(len(names))
        rows = [
            (names[a], [(counts[a, b], counts[a, b] / max(1, videos[a])) for b in places])
            for a in places
        ]
    told = {
        "names": [printable(name) for name in names],
        "order": grouped_order(pairs, len(names)),
        "cells": [(true, guess, number) for (true, guess), number in sorted(counts.items())],
        "videos": videos,
    }
    # Nothing in a name can end the script element that holds this.
    text = json.dumps(told).replace("<", "\\u003c").replace("&", "\\u0026")
    return {"rows": rows, "names": names, "json": Markup(text)}


def _films(content: Content, records: Records | None) -> list[tuple[str, list[dict[str, Any]]]]:
    """Groups of videos that are worth a look, with film strips where the videos are there."""
    rows = content.videos
    wrong = most_certain_and_wrong(content)
    title = "Wrong, and most certain" if content.multi_label else "Wrong"
    groups: list[tuple[str, list[dict[str, str]]]] = [(title, wrong)]
    if rows and "probability" in rows[0]:
        doubt = sorted(
            (row for row in rows if row["predicted"]), key=lambda r: float(r["probability"] or 0)
        )
        groups = [("Wrong, and most certain", wrong), ("Most uncertain", doubt[:STRIPS])]
    names = list(dict.fromkeys(row["video"] for _, some in groups for row in some))
    strips = {} if records is None else strips_of(records, names)
    return [
        (title, [{**row, "strip": strips.get(row["video"])} for row in some])
        for title, some in groups
        if some
    ]


def most_certain_and_wrong(content: Content) -> list[dict[str, str]]:
    """The first videos of those that were taken for another class, by the model's certainty.

    Of videos with any number of classes those with a class too many or too few, by the largest
    error of a probability.

    Returns:
        Rows of ``predictions.csv``, at most `STRIPS`; in its order where it has no probabilities.
    """
    if content.multi_label:
        told = (row for row in content.videos if row["correct"] == "0" and row["largest_error"])
        first = sorted(told, key=lambda row: -float(row["largest_error"]))[:STRIPS]
        return [row | {k: row[k] or "(no class)" for k in ("class", "predicted")} for row in first]
    rows = [row for row in content.videos if row["predicted"] not in ("", row["class"])]
    return sorted(rows, key=lambda row: -float(row.get("probability") or 0))[:STRIPS]


def _together(contents: Sequence[Content]) -> dict[str, Any]:
    """What stands above several runs: their scores, what differs, their curves in one chart."""
    runs = [content.run for content in contents]
    return {
        "names": [content.name for content in contents],
        "scores": [
            (label, [run.scores.get(key) for run in runs])
            for key, label in _SCORES.items()
            if any(key in run.scores for run in runs)
        ],
        "differences": differences(runs),
        "charts": _charts(contents),
        "same_videos": len({run.fingerprint for run in runs if run.fingerprint}) <= 1,
    }
