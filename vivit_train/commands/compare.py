"""Compare runs: what differs between them, their scores and how far they are, best first.

  vivit compare runs/a runs/b
  vivit compare runs/sweeps/lr --png lr.png          all runs in a folder
  vivit compare runs/* --sort mean_class_accuracy --csv table.csv

Scores are those of results.json; a run that is not tested yet has those of its last validation,
marked with a star. Warns where runs were tested on different videos.
"""

import argparse

from vivit_train.io.files import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument(
        "runs", nargs="+", type=user_path, metavar="RUN", help="folder of a run, or of a sweep"
    )
    parser.add_argument("--sort", metavar="SCORE", help="default: top1, of multi-label runs map")
    for kind in ("csv", "png", "json"):
        parser.add_argument(
            f"--{kind}", type=user_path, metavar="FILE", help=f"write the table as {kind}"
        )


def run(arguments: argparse.Namespace) -> int:
    """Prints the table and writes it where asked."""
    from vivit_train.runs.comparison import Comparison, read_runs

    comparison = Comparison(read_runs(arguments.runs), arguments.sort)
    comparison.print()
    for kind in ("csv", "png", "json"):
        output = getattr(arguments, kind)
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            getattr(comparison, f"write_{kind}")(output)
    return 0
