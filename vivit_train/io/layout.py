"""What a run leaves on disk: the names of its files, and the keys of its checkpoints.

A comment says of each who writes it -> who reads it, and what it is. This lies low and imports
nothing of ours because all rooms use it: `model` reads the weights out of a checkpoint, `launch`
writes into a run's folder, and neither knows `runs`.
"""

from pathlib import Path
from typing import Any, TypedDict

# A run's folder.
# runs/run_dir -> runs/resume, runs/comparison: the resolved configuration
CONFIG_FILE = "config.yaml"
# runs/metrics_csv -> the same when resuming, runs/comparison, runs/diagnosis, sweep/search
METRICS_FILE = "metrics.csv"
# runs/run_dir -> runs/comparison, sweep/search: the scores of the test
RESULTS_FILE = "results.json"
# runs/scores -> report, people: each class, pair of classes and video of the test
CLASSES_FILE, CONFUSION_FILE = "classes.csv", "confusion.csv"
PREDICTIONS_FILE = "predictions.csv"
# runs/loggers -> runs/loggers: the id of the run in MLflow
MLFLOW_FILE = "mlflow_run_id.txt"
# report -> people: the page of a run or an evaluation
REPORT_FILE = "report.html"
# runs/splits -> runs/splits: the videos of both splits by name
VIDEOS_FILE = "videos.json.gz"
# runs/folders -> runs/folders: which process owns the folder
LOCK_FILE = ".lock"
# launch/processes -> the other processes of the run, which start from this configuration
STARTING_FILE = "starting.yaml"
# commands/evaluate -> people: a folder for each evaluation
EVALUATIONS = "evaluations"
# callbacks/checkpoints -> runs/resume, model/weights/checkpoint: the folder of checkpoints
CHECKPOINTS = "checkpoints"
# From which a run resumes; the last before it; that of the best validation.
LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"

# A trial's folder, which is a run's as well.
TRIAL_FILE = "trial.json"  # runs/trial -> runs/trial, runs/comparison: which trial it is
LOG_FILE = "log.txt"  # sweep/local, sweep/slurm -> the same: what it printed
# A sweep's folder, with the folders of its trials.
STUDY_FILE = "optuna.db"  # sweep/search -> sweep/search: the state of the search
SWEEP_TABLE, SWEEP_PICTURE = "sweep.csv", "sweep.png"  # sweep/command -> people


def run_of(checkpoint: Path) -> Path:
    """The folder of the run that a checkpoint belongs to."""
    return checkpoint.parent.parent


class _PositionOfAllVersions(TypedDict):
    epoch: int  # epochs done
    videos_done: int  # of the next epoch; all numbers of videos are of all processes together
    videos_per_batch: int
    videos_per_step: int
    videos_per_epoch: int


class Position(_PositionOfAllVersions, total=False):
    """Where a run stands, see `SameSteps`."""

    validation_due: bool  # whether a validation comes next
    in_batches: dict[str, int]  # settings of the trainer that count batches, as they were used


class SplitDigest(TypedDict):
    """Which rows a split has."""

    digest: str
    rows: int


class SplitDigests(TypedDict):
    """Those of the splits that a run is resumed with."""

    train: SplitDigest
    val: SplitDigest


class MetricsPosition(TypedDict):
    """How far metrics.csv is: its rows, and the one that is to come."""

    rows: int
    next: dict[str, Any] | None


class HyperParameters(TypedDict, total=False):
    """The arguments of `VivitModule`, which has Lightning write them."""

    # -> model/weights/checkpoint, and all that load a model
    model: dict[str, Any]  # the arguments of `ViViT`
    class_names: list[str]  # in the order of the head's rows; -> runs/begun
    processor: dict[str, Any]  # how frames become the model's input
    sampling: dict[str, Any]  # how clips were taken from videos
    heads: dict[str, int] | list[int]  # number of classes by head; older versions: numbers alone
    multi_label: bool  # whether a video has any number of the classes; not of older versions
    config: dict[str, Any] | None  # the run's resolved configuration; -> runs/begun
    optim: dict[str, Any]  # its group `optim`; -> nobody


# The name of the LightningModule's attribute that is the ViViT begins the names in `state_dict`.
MODEL_PREFIX = "model."

CheckpointContent = TypedDict(
    "CheckpointContent",
    {
        # Lightning -> Lightning, and who else is named.
        "epoch": int,  # epochs begun before this one; read by nobody, see `position`
        "global_step": int,  # optimiser steps; -> runs/begun
        "pytorch-lightning_version": str,  # by which Lightning brings old checkpoints up to date
        "state_dict": dict[str, Any],  # the weights to use; -> model/weights/checkpoint
        "loops": dict[str, Any],  # Lightning's counters; callbacks/same_steps sets them anew
        "callbacks": dict[str, Any],  # by the callback's name what its `state_dict` gave
        "optimizer_states": list[dict[str, Any]],
        "lr_schedulers": list[dict[str, Any]],
        "hparams_name": str,  # how the arguments of `VivitModule` are called; read by nobody
        "hyper_parameters": HyperParameters,
        "MixedPrecision": dict[str, Any],  # with trainer.precision=16-mixed: the gradient scaler
        # Callbacks of ours -> the same, and who else is named.
        "position": Position,  # callbacks/same_steps -> runs/begun
        "splits": SplitDigests,  # callbacks/same_videos -> runs/begun
        "metrics_csv": MetricsPosition,  # callbacks/checkpoints -> runs/begun
        "given_up": dict[str, Any],  # callbacks/broken_videos: video -> (epoch, reason)
        "training_weights": dict[str, Any],  # callbacks/ema: the weights that are averaged
    },
    total=False,
)
# What training cannot resume without. Older versions lack others.
NEEDED = (
    "epoch", "global_step", "loops", "callbacks", "optimizer_states", "lr_schedulers", "position",
)  # fmt: skip
