"""Write what a model sees in the videos of a data set: their features, a row for each video.

  vivit features RUN --output features.npz           the run's own test split
  vivit features RUN data=folder data.root=/data/clips --output clips.parquet
  vivit features owner/name data=folder data.root=/data/clips --knn 5 --probe

Features are what the model's head reads, the mean over a video's views. The classes are the data
set's own: they need not be the model's. --knn and --probe score how well the features separate
them: trained on data.train_split where the set has one besides data.test_split, else by leaving one
video out at a time. Videos that cannot be decoded are left out, and the exit code is then 1.
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vivit_train.commands import CHECKPOINT
from vivit_train.commands.evaluate import classifier_for, data_for, warn_of_rates
from vivit_train.commands.predict import check_place
from vivit_train.errors import UserError
from vivit_train.io.files import user_path, written_whole
from vivit_train.io.progress import progress
from vivit_train.io.terminal import say

if TYPE_CHECKING:
    from torch import Tensor

    from vivit_train.data.datamodule import VideoDataModule
    from vivit_train.features import SplitFeatures
    from vivit_train.model.vivit import ViViT

# Keys that this command uses; see `is_used`. The model is the checkpoint's.
USES = (
    "experiment", "data", "-data.val_views", "-data.max_bad_fraction", "-data.class_sampling",
    "processor", "seed", "trainer.accelerator",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("checkpoint", help=CHECKPOINT)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for train.py")
    parser.add_argument("--output", type=user_path, help="a file, .npz or .parquet")
    parser.add_argument("--knn", type=int, metavar="K", help="score the vote of K neighbours")
    parser.add_argument("--probe", action="store_true", help="score a linear classifier")


def run(arguments: argparse.Namespace) -> int:
    """Writes the features, and prints the scores."""
    output, scores = arguments.output, arguments.knn is not None or arguments.probe
    if output is None and not scores:
        raise UserError("nothing is asked for: give --output FILE, --knn K or --probe")
    if arguments.knn is not None and arguments.knn < 1:
        raise UserError(f"--knn must be 1 or more, got {arguments.knn}")
    if output is not None:
        check_place("--output", output, ".npz", ".parquet")
        if output.suffix.lower() == ".parquet" and importlib.util.find_spec("pyarrow") is None:
            raise UserError(f"--output {output} needs pyarrow: pip install 'vivit-train[parquet]'")
    words = arguments.overrides
    source, classifier, plain = classifier_for(arguments.checkpoint, words)

    from vivit_train.preflight.features import on_device

    data = data_for(plain, source, words, class_names=None)
    trains = scores and set_up_training(data)
    data.setup("test")
    check_request(arguments, data, trains)
    warn_of_rates(classifier, data)
    model = on_device(classifier.model, plain)
    test = look(model, data, "test")
    if output is not None:
        write(output, test, data)
        left_out = f", {len(test.broken)} left out" if test.broken else ""
        say(f"{len(test.names)} rows of {test.values.shape[1]} features{left_out}: {output}")
    train = look(model, data, "train") if trains else None
    if scores:
        print_scores(arguments, test, train, data)
    return int(bool(test.broken or (train and train.broken)))


def set_up_training(data: "VideoDataModule") -> bool:
    """Whether the data set has training videos beside those of the test; says why it has not."""
    if data.splits["train"] == data.splits["test"]:
        return False
    try:
        data.setup("fit")
    except UserError as error:
        say(f"no training videos, so one video is left out at a time: {error}", file=sys.stderr)
    return "train" in data.records


def check_request(arguments: argparse.Namespace, data: "VideoDataModule", trains: bool) -> None:
    """Refuses what the videos do not allow, before any is decoded.

    Raises:
        UserError: Then.
    """
    output, records = arguments.output, data.records["test"]
    if output is not None and output.suffix.lower() == ".parquet":
        names = (records.name(row) for row in range(len(records)))
        if odd := next((name for name in names if name != as_unicode(name)), None):
            raise UserError(f"the name of {odd} is not UTF-8, which .parquet needs: use .npz")
    if arguments.knn is None and not arguments.probe:
        return
    if data.multi_label:
        raise UserError(
            "--knn and --probe need one class per video, and with data.multi_label=true a video "
            "has any number of them. Leave them out; --output writes the features with all labels"
        )
    if data.heads:
        raise UserError(
            f"--knn and --probe need one class per video, and a video of {data.name} has "
            f"{len(data.heads)}: {', '.join(data.heads)}. Leave them out"
        )
    number = len(data.records["train"]) if trains else len(records) - 1
    check_neighbours(arguments, number)


def as_unicode(name: str) -> str:
    """A name without the bytes that are no UTF-8."""
    return name.encode(errors="replace").decode()


def check_neighbours(arguments: argparse.Namespace, number: int) -> None:
    """Refuses scores for which there are too few videos to learn from.

    Raises:
        UserError: Then.
    """
    least = arguments.knn or 1
    if number < max(least, 2 if arguments.probe else 1):
        options = [f"--knn {arguments.knn}"] if arguments.knn else []
        options += ["--probe"] if arguments.probe else []
        raise UserError(
            f"{' '.join(options)}: {number} videos to learn from are too few. "
            "Give more videos, or a smaller K"
        )


def look(model: "ViViT", data: "VideoDataModule", role: str) -> "SplitFeatures":
    """The features of a split; names each video that cannot be decoded."""
    from vivit_train.features import features_of_split

    with progress(len(data.records[role])) as advance:
        found = features_of_split(model, data, role, advance)
    for error in found.broken:
        say(f"left out: {error}", file=sys.stderr)
    return found


def write(path: Path, found: "SplitFeatures", data: "VideoDataModule") -> None:
    """Writes the file, by its suffix.

    ``.npz``: ``features`` float32 [N, D], ``names`` [N], ``labels`` int64 [N] (of several heads
    [N, heads]; multi-label [N, K], 0 or 1 of each class) and ``class_names`` [K], by which the
    labels count. ``.parquet``: the columns ``name``, ``label``, ``class`` and ``features``; of
    several heads, and multi-label, lists of labels and classes.
    """
    import numpy as np

    values, labels = found.values.numpy(), found.labels.numpy()
    of_videos = labels.tolist()
    if data.multi_label:
        of_videos = [np.flatnonzero(row).tolist() for row in labels]
    with written_whole(path) as file:
        if path.suffix.lower() == ".npz":
            np.savez(
                file,
                features=values,
                names=np.array(found.names, dtype=str),
                labels=labels,
                class_names=np.array(data.class_names, dtype=str),
            )
            return
        import pyarrow
        import pyarrow.parquet

        flat = pyarrow.array(values.ravel())
        columns = {
            "name": found.names,
            "label": of_videos,
            "class": names_of(of_videos, data.class_names),
            "features": pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1]),
        }
        pyarrow.parquet.write_table(pyarrow.table(columns), file)


def names_of(labels: list[int] | list[list[int]], class_names: Sequence[str]) -> list:
    """Names in place of numbers, in lists as these are."""
    return [
        names_of(label, class_names) if isinstance(label, list) else class_names[label]
        for label in labels
    ]


def print_scores(
    arguments: argparse.Namespace,
    test: "SplitFeatures",
    train: "SplitFeatures | None",
    data: "VideoDataModule",
) -> None:
    """Prints the top-1 of what was asked for, with its 95 % interval."""
    from vivit_train.features import vote_of_neighbours
    from vivit_train.preflight.probe import Probe

    known = train or test
    check_neighbours(arguments, len(known.names) - (train is None))
    how = "leaving one out"
    if train is not None:
        how = f"from {len(train.names)} of {data.splits['train']!r}"
    others = None if train is None else test.values
    if arguments.knn is not None:
        voted = vote_of_neighbours(known.values, known.labels, arguments.knn, others)
        say_top1(f"knn {arguments.knn}", voted, test.labels, how)
    if arguments.probe:
        probe = Probe(known.values, known.labels, len(data.class_names))
        scores = probe.left_out if others is None else probe(others)
        say_top1("probe", scores.argmax(dim=1), test.labels, how)


def say_top1(what: str, guesses: "Tensor", labels: "Tensor", how: str) -> None:
    """Prints a score: of int64 ``[N]`` that are right."""
    from vivit_train.runs.scores import wilson_interval

    right, number = int((guesses == labels).sum()), len(labels)
    low, high = wilson_interval(right, number)
    say(
        f"{what}: top-1 {right / number:.3f}, 95 % interval {low:.3f} to {high:.3f} "
        f"({right} of {number} videos, {how})"
    )
