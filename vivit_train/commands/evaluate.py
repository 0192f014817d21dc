"""Score a trained model on a data set: multi-view, every video exactly once.

  vivit evaluate RUN                                 the run's own data, as it was tested
  vivit evaluate RUN data.eval_views=[1,1]           other views
  vivit evaluate RUN data=kinetics400 data.root=/data/k400
  vivit evaluate owner/name data=kinetics400 data.root=/data/k400

Writes results.json, classes.csv and predictions.csv to --output (default: evaluations/<date_time>
in the run's folder, else under runs/) and prints the scores. The data set's classes are matched to
the model's by name.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vivit_train.commands import CHECKPOINT
from vivit_train.errors import UserError
from vivit_train.io.files import user_path
from vivit_train.io.layout import CONFIG_FILE, EVALUATIONS, RESULTS_FILE, run_of
from vivit_train.io.terminal import is_rank_zero, say
from vivit_train.launch.processes import launched_from
from vivit_train.launch.stop_watch import StopWatch
from vivit_train.runs.folders import owned

if TYPE_CHECKING:
    from vivit_train.classifier import Classifier
    from vivit_train.data.datamodule import VideoDataModule

# Keys that this command uses; see `is_used`. The model is the checkpoint's.
USES = (
    "experiment", "data", "-data.val_views", "-data.max_bad_fraction", "processor", "seed",
    "model.attention_kernel",
    "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy",
    "trainer.precision", "trainer.limit_test_batches", "trainer.deterministic",
    "trainer.benchmark", "trainer.profiler", "trainer.enable_progress_bar",
    "callbacks.refresh_rate",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("checkpoint", help=CHECKPOINT)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for train.py")
    parser.add_argument("--output", type=user_path, help="folder for results.json")


def run(arguments: argparse.Namespace) -> int:
    """Evaluates and writes results.json."""
    words = arguments.overrides
    source, classifier, plain = classifier_for(arguments.checkpoint, words)

    from vivit_train import build
    from vivit_train.module import VivitModule
    from vivit_train.report.page import page_of_test
    from vivit_train.runs.results import results_of
    from vivit_train.runs.scores import write_scores
    from vivit_train.runs.splits import check_task

    # Nothing is logged, and a checkpoint, maybe a stranger's, has no class of its own imported.
    plain["logger"] = {"wandb": None, "tensorboard": None, "mlflow": None, "extra": {}}
    plain["callbacks"]["extra"] = {}
    if plain["trainer"]["limit_test_batches"] == 0:
        raise UserError(
            "trainer.limit_test_batches=0 leaves no video to score: add "
            "trainer.limit_test_batches=1.0 for the whole split"
        )

    with output_folder(arguments.output, source) as output:
        data = data_for(plain, source, words, classifier.class_names)
        check_task(classifier.multi_label, data, str(source))
        data.setup("test")
        warn_of_rates(classifier, data)
        module = VivitModule(
            model=classifier.model.config,
            class_names=classifier.class_names,
            processor=classifier.processor.settings(),
            sampling={},
            optim=plain["optim"],
            config=plain,
            heads=classifier.heads,
            multi_label=classifier.multi_label,
        )
        module.model.load_state_dict(classifier.model.state_dict())
        module.force_kernel(plain["model"]["attention_kernel"])
        watch = StopWatch()
        trainer, _ = build.build_trainer(plain, output, watch)
        trainer.loggers = []
        with launched_from(watch):
            trainer.test(module, datamodule=data, verbose=False)
            assert module.accuracy is not None
            results = results_of(trainer, data, plain) | {"checkpoint": str(source)}
            write_scores(output, results, module.accuracy, data)
        if is_rank_zero():
            print_results(results)
            page_of_test(output, data.records["test"])
            say(output / RESULTS_FILE)
    return 0


def classifier_for(
    checkpoint: str, words: Sequence[str]
) -> tuple[Path, "Classifier", dict[str, Any]]:
    """A trained model, and how it looks at the data set of the ``KEY=VALUE`` words.

    Returns:
        The checkpoint's file or folder, its classifier, and `settings_for` these.

    Raises:
        UserError: If a word does not fit, or there is no such checkpoint.
    """
    check_words(words)

    from vivit_train.classifier import load_classifier
    from vivit_train.io.quiet import hush_lightning
    from vivit_train.model.weights import resolve_checkpoint

    hush_lightning()
    source = resolve_checkpoint(checkpoint)
    classifier = load_classifier(source)
    return source, classifier, settings_for(classifier, source, words)


def check_words(words: Sequence[str]) -> None:
    """Answers a mistake in ``KEY=VALUE`` words before the checkpoint is read."""
    from vivit_train.config import compose_config

    if not any(word.startswith(("data=", "experiment=")) for word in words):
        # Which keys `data` has depends on the data set, which the checkpoint may name.
        words = [word for word in words if not word.startswith("data.")]
    compose_config(words)


def settings_for(classifier: "Classifier", source: Path, words: Sequence[str]) -> dict[str, Any]:
    """The configuration by which a model looks at a data set, as plain values.

    Args:
        classifier: Of the checkpoint. Clips and pixels are as it was trained with, unless the
            words ask for others.
        source: The checkpoint.
        words: ``KEY=VALUE``, on top of the configuration of its run, if it has one.

    Raises:
        UserError: If a word does not fit.
    """
    from vivit_train.config import (
        complete_config,
        compose_config,
        from_here,
        override_config,
        saved_config,
        to_plain,
    )
    from vivit_train.recipe.preset import without_auto

    if classifier.config is None:
        config = compose_config(words)
    else:
        saved = complete_config(saved_config(classifier.config, str(source)))
        config = override_config(saved, words)
    plain = without_auto(from_here(to_plain(config, needs_weights=False)))
    # Frames and pixels as the model was trained with, unless this call asks for others.
    trained = classifier.processor.settings()
    for name, value in plain["processor"].items():
        # A group's crop is that of its configuration's model, which is not this one.
        is_of_group = _asks_for(words, "processor=") and name != "crop_size"
        if value is not None and (is_of_group or _asks_for(words, f"processor.{name}=")):
            trained[name] = value
    plain["processor"] = trained
    contract = classifier.sampling.contract()
    clip_frames = contract.pop("clip_frames")
    if not _asks_for(words, "data.clip_frames="):
        plain["data"]["clip_frames"] = clip_frames
    if not any(_asks_for(words, f"data.{key}=") for key in contract):
        if classifier.tells_sampling:
            plain["data"] |= contract
        elif is_rank_zero():
            used = {key: plain["data"][key] for key in contract}
            told = [f"data.{k}={v}" for k, v in used.items() if v not in (None, "window")]
            say(
                f"warning: {source} does not say how far apart the frames of its clips were: "
                f"{''.join(told) or 'data.frame_stride=2'} of this configuration is used",
                file=sys.stderr,
            )
    views_are_open = classifier.config is None and classifier.tells_eval_views
    if views_are_open and not _asks_for(words, "data.eval_v"):
        plain["data"]["eval_views"] = list(classifier.eval_views)
    return plain


def data_for(
    plain: dict[str, Any], source: Path, words: Sequence[str], class_names: list[str] | None
) -> "VideoDataModule":
    """The data set to look at; what the checkpoint's run has held out is held out again.

    Args:
        plain: See `settings_for`.
        source: The checkpoint.
        words: By which another split may be asked for.
        class_names: Of the model; ``None``: the data set's own.
    """
    from vivit_train import build
    from vivit_train.runs.splits import known_validation

    data = build.build_data(plain, class_names)
    others = (
        "data=", "experiment=", "data.val_fraction=", "data.fold=", "data.num_folds=",
        "data.group=",
    )  # fmt: skip
    asks_for_others = any(_asks_for(words, key) for key in others)
    data.known_val = frozenset() if asks_for_others else known_validation(run_of(source))
    return data


def warn_of_rates(classifier: "Classifier", data: "VideoDataModule") -> None:
    """Names test videos whose motion looks faster or slower than that of the training videos."""
    from vivit_train.data.rates import compare_rates

    if is_rank_zero() and (
        told := compare_rates(
            data.records["test"], classifier.video_rate, data.sampling, "test videos"
        )
    ):
        say(f"warning: {told}", file=sys.stderr)


def _asks_for(words: Sequence[str], key: str) -> bool:
    return any(word.lstrip("+").startswith(key) for word in words)


@contextmanager
def output_folder(output: Path | None, source: Path) -> Iterator[Path]:
    """Keeps the folder of the results for this evaluation while it is within.

    Args:
        output: Given by the user; ``None``: a new folder with the default name.
        source: The checkpoint.

    Raises:
        UserError: If the folder cannot be written to, is in use, or is the folder of a run.
    """
    folder = output or default_output(source)
    if not is_rank_zero():
        yield folder
        return
    with owned(folder, "--output", is_new=output is None) as folder:
        if (folder / CONFIG_FILE).exists():
            raise UserError(
                f"--output={folder} is the folder of a run, whose results.json would be lost: "
                "give another"
            )
        yield folder


def default_output(source: Path) -> Path:
    """Where results go: into the run that the checkpoint belongs to, if there is one."""
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    run = run_of(source)
    home = run if (run / CONFIG_FILE).is_file() else Path("runs")
    return home / EVALUATIONS / stamp


def print_results(results: dict[str, Any]) -> None:
    """Prints the scores, and what could not be decoded."""
    from vivit_train.runs.results import say_scores

    say_scores(results)
    if results["undecodable"]:
        say(f"undecodable, counted as wrong: {', '.join(results['undecodable'])}")
    if results["checked"]:
        counts = ", ".join(f"{count} {kind}" for kind, count in results["checked"].items())
        say(f"vivit check found of these videos: {counts}")
