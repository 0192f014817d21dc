"""Name what videos show: the most probable classes of each, of every head if there are several.

Of a model of videos with any number of classes (multi-label) every class has a probability of its
own, and those of --threshold or more are marked.

  vivit predict RUN clip.mp4 other.webm
  vivit predict RUN/checkpoints/last.ckpt clips/ --csv out.csv
  vivit predict owner/name clip.mp4 --top-k 3 --json
  vivit predict RUN film.mp4 --window 2s --every 1s --timeline film.srt
  vivit predict RUN --camera 0 --window 2s --every 1s

A folder is searched for videos, with all below it. Exits with 1 if a video cannot be decoded.
With --window one long video gets a timeline: rows of start, end, class and probability. A picture
that stands still gets none, unless --still 0 asks for it. A camera, or frames from standard input
(-), get a line for each window while they come.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vivit_train.commands import CHECKPOINT
from vivit_train.errors import UserError, first_line
from vivit_train.io.files import user_path, write_whole, written_whole
from vivit_train.io.progress import progress
from vivit_train.io.terminal import csv_text, say, say_json
from vivit_train.timeline import command as timeline

if TYPE_CHECKING:
    from vivit_train.classifier import Classifier
    from vivit_train.prediction import Guess, Prediction, TopK


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("checkpoint", help=CHECKPOINT)
    parser.add_argument(
        "videos", nargs="*", metavar="VIDEO", help="a video, a folder of them, - for standard input"
    )
    parser.add_argument("--top-k", type=int, help="classes to give (default 5, multi-label all)")
    parser.add_argument(
        "--views",
        metavar="TEMPORALxSPATIAL",
        help="views to average, e.g. 4x3 (default: as the model was tested)",
    )
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU if there is one)")
    parser.add_argument(
        "--csv", type=user_path, metavar="FILE", help="write a table with a row for each video"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of text")
    timeline.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Predicts; a video that cannot be decoded is named, and the exit code is then 1."""
    if (options := timeline.options_of(arguments)) is not None:
        return timeline.run(load_on_device(arguments.checkpoint, arguments.device), options)
    if not arguments.videos:
        raise UserError("give a video, or a folder of them")
    top_k: TopK = "auto" if arguments.top_k is None else arguments.top_k
    if isinstance(top_k, int) and top_k < 1:
        raise UserError(f"--top-k must be 1 or more, got {top_k}")
    threshold = timeline.threshold_of(arguments)
    views = parse_views(arguments.views) if arguments.views else None
    if arguments.csv is not None:
        check_place("--csv", arguments.csv, ".csv")

    from vivit_train.prediction import THRESHOLD, videos_in

    videos = videos_in(arguments.videos)
    classifier = load_on_device(arguments.checkpoint, arguments.device)
    if threshold is not None and not classifier.multi_label:
        raise UserError(
            "--threshold is for a timeline: give --window as well, e.g. --window 2s; without it "
            "the model must be a multi-label one"
        )
    least = THRESHOLD if threshold is None else threshold
    warn_of_rates(classifier, videos)
    timeline.hint_at_timelines(classifier, videos)
    predictions: list[Prediction] = []
    is_text = not arguments.json and arguments.csv is None  # which shows by itself how far it is
    try:
        with nullcontext(lambda _: None) if is_text else progress(len(videos)) as advance:
            for prediction in classifier.predictions(videos, top_k, views, least):
                predictions.append(prediction)
                advance("predicted" if prediction.error is None else "failed")
                if is_text or (prediction.error is not None and not arguments.json):
                    say_prediction(prediction)
    finally:  # what is known when the work is stopped is kept
        if arguments.csv is not None and predictions:
            write_csv(arguments.csv, predictions)
            said = f"{len(predictions)} of {len(videos)} videos: {arguments.csv}"
            say(said, file=sys.stderr if arguments.json else None)
    if arguments.json:
        say_json([as_json(prediction) for prediction in predictions])
    folders = {Path(str(prediction.video)).parent.name for prediction in predictions}
    if len(folders) > 1 and folders <= set(classifier.class_names):
        say(
            "the folders have the names of classes: "
            f"`vivit evaluate {arguments.checkpoint} data=folder data.root=...` scores such a set",
            file=sys.stderr,
        )
    return int(any(prediction.error is not None for prediction in predictions))


def check_place(option: str, path: Path, *suffixes: str) -> None:
    """Refuses a place for a table that cannot be written to, before the work is done.

    Raises:
        UserError: Then, and where it has another suffix: `--csv clip.mp4` would replace a video.
    """
    if path.suffix.lower() not in suffixes or path.is_dir():
        raise UserError(
            f"{option} {path}: expected a file whose name ends in {' or '.join(suffixes)}"
        )
    try:
        with written_whole(path, put=lambda written, place: None):
            pass
    except OSError as error:
        raise UserError(f"{option} {path} cannot be written: {error.strerror}") from None


def load_on_device(source: str, device: str | None) -> "Classifier":
    """The classifier of a checkpoint; warns where it does not say how frames are taken.

    Raises:
        UserError: If there is no such checkpoint or device.
    """
    import torch

    from vivit_train.classifier import load_classifier

    classifier = load_classifier(source)
    try:
        classifier.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: {first_line(error)}") from None
    if not classifier.tells_sampling:
        say(
            f"warning: {source} does not say how far apart the frames of its clips were: frames "
            f"{classifier.sampling.frame_stride} apart are taken",
            file=sys.stderr,
        )
    return classifier


def warn_of_rates(classifier: "Classifier", videos: Sequence[Any]) -> None:
    """Names videos whose motion looks faster or slower than that of the training videos."""
    from vivit_train.data.rates import compare_rates
    from vivit_train.data.records import Records

    records = Records(Path(), map(str, videos), [0] * len(videos))
    if told := compare_rates(records, classifier.video_rate, classifier.sampling, "videos"):
        say(f"warning: {told} in training", file=sys.stderr)


def parts_of(prediction: "Prediction") -> "dict[str, list[Guess]]":
    """The best classes, and of a model with several heads those of each, by what they are."""
    if not prediction.heads:
        return {"classes": prediction.classes}
    return {"actions": prediction.classes, **prediction.heads}


def as_json(prediction: "Prediction") -> dict[str, Any]:
    """A prediction as plain values."""
    if prediction.error is not None:
        return {"video": prediction.video, "error": prediction.error}
    labels = {} if prediction.labels is None else {"labels": prediction.labels}
    return (
        {"video": prediction.video}
        | labels
        | {
            part: [{"class": name, "probability": round(p, 6)} for name, p in guesses]
            for part, guesses in parts_of(prediction).items()
        }
    )


def say_prediction(prediction: "Prediction") -> None:
    """Prints a prediction, or on standard error why there is none."""
    if prediction.error is not None:
        say(f"error: {prediction.video}: {prediction.error}", file=sys.stderr)
        return
    say(prediction.video)
    for part, guesses in parts_of(prediction).items():
        if prediction.heads:
            say(f" {part}")
        for name, probability in guesses:
            mark = "*" if name in (prediction.labels or ()) else " "
            say(f"{mark} {probability:.4f}  {name}")


def write_csv(path: Path, predictions: "Sequence[Prediction]") -> None:
    """Writes a row for each video: ``video``, ``class``, ``probability``, ``class_2``, ...

    Of a model with several heads ``action``, ``probability``, ``action_2``, ... and then the same
    of each, ``noun``, ``noun_probability``, ... Of a multi-label model the second column is
    ``labels``, those over the threshold, joined by ``; ``. The last column is ``error``.

    Raises:
        OSError: If it cannot be written, after the predictions were printed.
    """
    rows = [row_of(prediction) for prediction in predictions]
    columns = dict.fromkeys(name for row in rows for name in row)  # those of errors have none
    columns.pop("error")
    try:
        write_whole(path, csv_text([*columns, "error"], rows))
    except OSError:
        for prediction in predictions:
            say_prediction(prediction)
        raise


def row_of(prediction: "Prediction") -> dict[str, str | float | None]:
    """A prediction as a row, see `write_csv`."""
    row: dict[str, str | float | None] = {"video": prediction.video}
    if prediction.labels is not None:
        row["labels"] = "; ".join(prediction.labels)
    for part, guesses in parts_of(prediction).items():
        kind = {"classes": "class"}.get(part, part.removesuffix("s"))
        of_kind = "" if kind in ("class", "action") else f"{kind}_"
        for rank, (name, probability) in enumerate(guesses, start=1):
            place = "" if rank == 1 else f"_{rank}"
            row |= {f"{kind}{place}": name, f"{of_kind}probability{place}": round(probability, 6)}
    return row | {"error": prediction.error}


def parse_views(text: str) -> tuple[int, int]:
    """``4x3`` as (temporal, spatial) views.

    Raises:
        UserError: If it is not of that form.
    """
    parts = text.split("x")
    if len(parts) != 2 or not all(p.isdecimal() for p in parts) or int(parts[0]) < 1:
        raise UserError(f"--views {text}: expected TEMPORALxSPATIAL, e.g. 4x3")
    return int(parts[0]), int(parts[1])
