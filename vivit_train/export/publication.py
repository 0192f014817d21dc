"""A run as a folder for Hugging Face's hub: weights, configuration, scores, report and a card."""

import filecmp
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vivit_train.classifier import load_classifier
from vivit_train.config.changes import values
from vivit_train.config.saved import read_values
from vivit_train.errors import UserError
from vivit_train.export import Report, export
from vivit_train.export.card import CARD, Results, card, scores_of
from vivit_train.export.clips import demo_clips
from vivit_train.export.huggingface import what_it_lacks
from vivit_train.export.private import check_public, public, public_config
from vivit_train.export.staging import staged
from vivit_train.io.files import write_whole
from vivit_train.io.foreign import is_of
from vivit_train.io.layout import (
    CHECKPOINTS,
    CLASSES_FILE,
    CONFIG_FILE,
    EVALUATIONS,
    REPORT_FILE,
    RESULTS_FILE,
)
from vivit_train.io.terminal import csv_text
from vivit_train.report.content import Content
from vivit_train.report.page import page_of
from vivit_train.runs.run_dir import write_config, write_results
from vivit_train.runs.splits import known_splits


@dataclass(frozen=True)
class Scored:
    """A run with scores of its weights.

    Attributes:
        run: The run's folder.
        checkpoint: The file that was scored.
        config: The run's configuration.
        content: What the folder with the scores says: the run's own, or that of an evaluation.
    """

    run: Path
    checkpoint: Path
    config: Mapping[str, Any]
    content: Content


def read_scored(folder: Path) -> Scored:
    """The run, the checkpoint and the scores of a folder.

    Args:
        folder: A run's, or that of an evaluation in ``RUN/evaluations``.

    Raises:
        UserError: If it is something else, or has no scores of the weights that are there.
    """
    run = folder.parent.parent if folder.parent.name == EVALUATIONS else folder
    if not (run / CONFIG_FILE).is_file():
        raise UserError(
            f"{folder} is neither the folder of a run, which has config.yaml, nor that of one of "
            "its evaluations, RUN/evaluations/DATE_TIME"
        )
    remedy = (
        f"test the run with `vivit evaluate {run}`, and publish the folder of the results.json "
        "that it writes"
    )
    if not (folder / RESULTS_FILE).is_file():
        raise UserError(f"{folder} has no results.json, and a card needs scores: {remedy}")
    try:
        content = Content.read(folder)
    except UserError as error:
        raise UserError(f"{error}; {remedy}") from None
    results = content.results
    if not is_of(results, Results) or not results["num_videos_scored"]:
        raise UserError(f"{folder / RESULTS_FILE} has not the scores of a test: {remedy}")
    if wrong := [k for k, v in scores_of(results).items() if not is_of(v, float)]:
        raise UserError(f"{folder / RESULTS_FILE}: {', '.join(wrong)} is not finite; {remedy}")
    checkpoint = run / CHECKPOINTS / Path(results["checkpoint"]).name
    if not checkpoint.is_file():
        raise UserError(f"the scores in {folder} are of {checkpoint}, which is gone; {remedy}")
    if checkpoint.stat().st_mtime > (folder / RESULTS_FILE).stat().st_mtime:
        raise UserError(
            f"{checkpoint} is newer than the scores in {folder}, which may be those of other "
            f"weights: {remedy}"
        )
    return Scored(run, checkpoint, read_values(run / CONFIG_FILE), content)


def default_output(folder: Path) -> Path:
    """Beside the run, whose own folder gets nothing."""
    folder = folder.absolute()
    return folder.with_name(f"{folder.name}-published")


def write_publication(scored: Scored, repo_id: str, license: str, output: Path) -> Report:
    """Writes the folder; it appears under its name only when it is whole.

    The weights are in Hugging Face's format where that can hold the model, else in our own.

    Args:
        scored: What to publish.
        repo_id: ``owner/name`` on the hub, which the card tells how to load.
        license: The hub's name of the licence of the weights.
        output: The folder; must not exist, or be empty.

    Returns:
        How well the weights in the folder agree with the checkpoint.

    Raises:
        UserError: If the checkpoint cannot be read, the folder exists, or the logits differ.
    """
    with staged(output) as folder:
        classifier = load_classifier(scored.checkpoint)
        classifier.config = None  # it has paths: config.yaml has what others may see
        format_name = "safetensors" if what_it_lacks(classifier) else "huggingface"
        report = export(classifier, format_name, folder, demo_clips(classifier))
        config = public_config(scored.config)
        content = _public_content(scored.content, repo_id, config)
        write_config(folder, config)
        write_results(folder, content.results)
        if content.classes:
            rows = content.classes
            write_whole(folder / CLASSES_FILE, csv_text(list(rows[0]), rows))
        write_whole(folder / REPORT_FILE, page_of([content]))
        told = card(repo_id, license, classifier, content, format_name, known_splits(scored.run))
        write_whole(folder / CARD, told)
        root = scored.config.get("data", {}).get("root")
        check_public(folder, [scored.run, *([Path(root)] if root else [])])
    return report


def _public_content(content: Content, repo_id: str, config: Mapping[str, Any]) -> Content:
    """What the report and the card are made of, without anything private."""
    run = replace(content.run, path=Path(repo_id), settings=dict(values(config)))
    videos = [{**row, "video": public(row["video"])} for row in content.videos]
    return replace(content, run=run, results=public(content.results), videos=videos)


def check_unchanged(scored: Scored, repo_id: str, license: str, folder: Path) -> None:
    """Refuses to upload a folder that an earlier call wrote of something else.

    The card may have been edited since.

    Args:
        scored: What is to be published.
        repo_id: Where.
        license: See `write_publication`.
        folder: What is there.

    Raises:
        UserError: Naming the file that differs.
    """
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        fresh = Path(temporary) / "fresh"
        write_publication(scored, repo_id, license, fresh)
        for path in sorted(fresh.iterdir()):
            there = folder / path.name
            if path.name == REPORT_FILE:  # names the program, which depends on where one stands
                same = there.is_file()
            elif path.name == CARD and there.is_file():
                text = there.read_text(encoding="utf-8")
                same = f"license: {license}" in text.splitlines() and repo_id in text
            else:
                same = there.is_file() and filecmp.cmp(path, there, shallow=False)
            if not same:
                raise UserError(
                    f"{there} is not what this call would publish: it is of another run, name or "
                    "licence. Delete the folder, or choose another with --output"
                )
