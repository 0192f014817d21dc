"""What lies behind a score: classes, confusions and videos, in tables beside results.json."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn

from vivit_train.data.datamodule import VideoDataModule
from vivit_train.io.files import write_whole
from vivit_train.io.layout import CLASSES_FILE, CONFUSION_FILE, PREDICTIONS_FILE
from vivit_train.io.terminal import csv_text, is_rank_zero, say
from vivit_train.metrics import MultiLabelScores, Scores
from vivit_train.runs import multi_label
from vivit_train.runs.run_dir import write_results

# Standard deviations within which 95 % of a normal distribution lie.
Z_95 = 1.96


def write_scores(
    folder: Path, results: dict[str, Any], accuracy: Scores | None, data: VideoDataModule
) -> str | None:
    """Writes results.json and the tables of `write_report`; all processes call it.

    Returns:
        See `write_report`.

    Raises:
        OSError: If a file cannot be written, after the scores were printed.
    """
    try:
        write_results(folder, results)
        return write_report(folder, accuracy, data)
    except OSError:
        scores = {name: value for name, value in results.items() if isinstance(value, int | float)}
        say(f"results {json.dumps(scores)}")
        raise


def write_report(folder: Path, accuracy: Scores | None, data: VideoDataModule) -> str | None:
    """Writes the tables of the test split; all processes call it.

    ``classes.csv`` is `class_table`, ``confusion.csv`` `confusion_table` (of one head), and
    ``predictions.csv`` has a row for each video that was scored, with the probabilities of the
    class that it was taken for and of its own, and the five most probable classes. Of videos with
    any number of classes see `vivit_train.runs.multi_label`; there is no ``confusion.csv``.

    Prints the classes that are found least often, and warns where the top-1 accuracy is not above
    that of always naming the most frequent class.

    Args:
        folder: Where to; it is there.
        accuracy: After the last update; ``None``: there was no test, and tables of an earlier
            one are removed.
        data: Whose split ``test`` was scored.

    Returns:
        That the score is no better than guessing, if it is not.
    """
    if accuracy is None:
        if is_rank_zero():
            for name in (CLASSES_FILE, CONFUSION_FILE, PREDICTIONS_FILE):
                (folder / name).unlink(missing_ok=True)
        return None
    if isinstance(accuracy, MultiLabelScores):
        return _write_multi_label(folder, accuracy, data)
    with accuracy.sync_context():  # sums over processes within
        top = accuracy.top_classes.cpu().numpy().astype(np.int64) - 1  # [N, 5]
        probabilities = accuracy.top_probabilities.cpu().numpy()  # [N, 5]
        true_probability = accuracy.true_probability.cpu().numpy()  # [N]
        seen = accuracy.seen.cpu().numpy() > 0
    labels = data.records["test"].labels.reshape(len(seen), -1)  # [N, heads]
    guesses = split_heads(top[:, 0], data.heads)  # [N, heads]
    rows = class_table(labels[seen], guesses[seen], data.class_names)
    if told := no_better_than_guessing(labels[seen], guesses[seen]):
        used = {row["class"] for row in rows if row["predicted"]}
        same = f". Every video was taken for {used.pop()!r}" if len(used) == 1 else ""
        rank_zero_warn(told + same)
    flawed = [row for row in rows if row["correct"] < row["videos"]]
    _print_weakest(flawed, "top1")
    _say_split(data)
    _write(folder / CLASSES_FILE, rows)
    if not data.heads:
        _write(
            folder / CONFUSION_FILE, confusion_table(labels[seen], guesses[seen], data.class_names)
        )
    _write(
        folder / PREDICTIONS_FILE,
        _prediction_table(labels, top, probabilities, true_probability, seen, data),
    )
    return told


def _write_multi_label(folder: Path, scores: MultiLabelScores, data: VideoDataModule) -> str | None:
    with scores.sync_context():  # sums over processes within
        rows = multi_label.class_table(scores, data.class_names)
        videos = multi_label.prediction_table(scores, data)
        told = multi_label.no_better_than_guessing(scores)
    if told:
        rank_zero_warn(told)
    flawed = [row for row in rows if row["videos"] and row["average_precision"] < 1]
    _print_weakest(flawed, "average_precision")
    _say_split(data)
    _write(folder / CLASSES_FILE, rows)
    _write(folder / PREDICTIONS_FILE, videos)
    return told


def no_better_than_guessing(labels: np.ndarray, guesses: np.ndarray) -> str | None:
    """Says so where the 95 % interval of top-1 holds, or lies below, the best constant answer's.

    Args:
        labels: int ``[N, heads]``.
        guesses: int ``[N, heads]``.

    Returns:
        The figures; ``None`` where the score is better, or all videos are of one class.
    """
    number, correct = len(labels), int((labels == guesses).all(axis=1).sum())
    _, counts = np.unique(labels, axis=0, return_counts=True)
    if len(counts) < 2:
        return None
    top1, chance = correct / number, counts.max() / number
    low, high = wilson_interval(correct, number)
    if low > chance:
        return None
    verb, cause = "is", "The"
    if top1 > chance:
        verb, cause = "may be", "More test videos would show which; otherwise the"
    return (
        f"top-1 {top1:.3f} {verb} no better than guessing: on {number} videos its 95 % interval is "
        f"{low:.3f} to {high:.3f}, and always naming the most frequent class gives {chance:.3f}. "
        f"{cause} model has not learnt to tell the classes apart, or its pixels are not those that "
        "it was trained on: `vivit doctor` with the same settings looks for the cause"
    )


def wilson_interval(correct: int, number: int) -> tuple[float, float]:
    """Wilson's 95 % interval of the share of which ``correct`` of ``number`` is a sample."""
    share, spread = correct / number, Z_95**2 / number
    middle = (share + spread / 2) / (1 + spread)
    half = Z_95 * math.sqrt(share * (1 - share) / number + spread / (4 * number)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def split_heads(joint: np.ndarray, heads: Mapping[str, int]) -> np.ndarray:
    """Classes of each head, of `vivit_train.metrics.joint_labels`, as indices into all classes.

    Args:
        joint: int64 ``[N]``; -1 where there is none.
        heads: Name and number of classes of each head; empty: one head.

    Returns:
        int64 ``[N, heads]``; -1 where there is none.
    """
    if not heads:
        return joint[:, None]
    sizes = list(heads.values())
    within = np.stack(np.unravel_index(np.maximum(joint, 0), sizes), axis=1)  # [N, heads]
    starts = np.cumsum([0, *sizes])[:-1]
    return np.where(joint[:, None] < 0, -1, within + starts)


def class_table(
    labels: np.ndarray, guesses: np.ndarray, class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """A row for each class.

    Args:
        labels: int ``[N, heads]``, indices into the class names.
        guesses: int ``[N, heads]``; -1 where a video could not be decoded.
        class_names: All classes.

    Returns:
        ``class``; ``videos`` of it; ``correct`` of these; ``top1``, their share, empty where there
        are none; ``predicted``, how many videos were taken for it, rightly or not; ``f1``, empty
        where the class has and gets no video; and ``taken_for``, the wrong class that its videos
        were most often taken for, with the number.
    """
    pairs = Counter(zip(labels.ravel().tolist(), guesses.ravel().tolist()))
    mistakes: dict[int, tuple[int, int]] = {}  # class -> (videos, other class), the most
    videos, correct, predicted = (np.zeros(len(class_names), dtype=int) for _ in range(3))
    for (label, guess), count in pairs.items():
        videos[label] += count
        if guess >= 0:
            predicted[guess] += count
        if guess == label:
            correct[label] += count
        elif guess >= 0:
            mistakes[label] = max(mistakes.get(label, (0, 0)), (count, guess))
    return [
        {
            "class": name,
            "videos": int(videos[k]),
            "correct": int(correct[k]),
            "top1": correct[k] / videos[k] if videos[k] else "",
            "predicted": int(predicted[k]),
            "f1": 2 * correct[k] / both if (both := videos[k] + predicted[k]) else "",
            "taken_for": f"{class_names[mistakes[k][1]]} ({mistakes[k][0]})"
            if k in mistakes
            else "",
        }
        for k, name in enumerate(class_names)
    ]


def confusion_table(
    labels: np.ndarray, guesses: np.ndarray, class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """The confusion matrix: a row for each class, with its videos by what they were taken for.

    Args:
        labels: int ``[N, 1]``.
        guesses: int ``[N, 1]``; -1 where a video could not be decoded.
        class_names: All classes K.

    Returns:
        ``class``, a column for each class, and ``(not decoded)``.
    """
    counts = np.zeros((len(class_names), len(class_names) + 1), dtype=int)
    np.add.at(counts, (labels[:, 0], guesses[:, 0]), 1)  # -1 is the last column
    columns = [*class_names, "(not decoded)"]
    return [
        {"class": name, **dict(zip(columns, row))}
        for name, row in zip(class_names, counts.tolist())
    ]


def _prediction_table(
    labels: np.ndarray,
    top: np.ndarray,
    probabilities: np.ndarray,
    true_probability: np.ndarray,
    seen: np.ndarray,
    data: VideoDataModule,
) -> list[dict[str, Any]]:
    """A row for each video that was scored; of several heads the classes are joined by ``; ``.

    Args:
        labels: int ``[N, heads]``.
        top: int ``[N, 5]``, the most probable classes, or actions of several heads; -1: none.
        probabilities: Float ``[N, 5]``.
        true_probability: Float ``[N]``.
        seen: bool ``[N]``.
        data: Whose split ``test`` was scored.
    """
    best = np.stack([split_heads(column, data.heads) for column in top.T], axis=1)  # [N, 5, heads]
    records = data.records["test"]

    def names(row: np.ndarray) -> str:
        return "; ".join(data.class_names[k] for k in row if k >= 0)

    def table_row(i: int) -> dict[str, Any]:
        shown = zip(best[i], probabilities[i])
        is_decoded = top[i, 0] >= 0
        return {
            "video": records.name(i),
            "class": names(labels[i]),
            "predicted": names(best[i, 0]),
            "correct": int((labels[i] == best[i, 0]).all()),
            "probability": f"{probabilities[i, 0]:.4f}" if is_decoded else "",
            "true_probability": f"{true_probability[i]:.4f}" if is_decoded else "",
            "top5": " | ".join(f"{names(k)} {p:.4f}" for k, p in shown) if is_decoded else "",
        }

    return [table_row(int(i)) for i in np.flatnonzero(seen)]


@rank_zero_only
def _say_split(data: VideoDataModule) -> None:
    if data.tests_on_validation:
        say(
            f"tested on the validation split, {data.splits['test']}: where best.ckpt was chosen by "
            "it, its score is a little too good. data.test_split names another"
        )


@rank_zero_only
def _print_weakest(flawed: list[dict[str, Any]], score: str) -> None:
    weakest = sorted(flawed, key=lambda row: row[score])[:3]
    if weakest:
        shown = ", ".join(f"{row['class']} {row[score]:.2f}" for row in weakest)
        say(f"weakest classes: {shown} (classes.csv)")


@rank_zero_only
def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    write_whole(path, csv_text(list(rows[0]), rows))
