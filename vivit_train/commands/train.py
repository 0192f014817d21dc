"""Train a ViViT and test it: the same as `python train.py`.

vivit train model=vivit_b data=folder data.root=/data/mine
vivit train --help
"""

import argparse
import runpy
import sys

from vivit_train.config.folders import PROGRAM


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments; what they mean is Hydra's affair."""
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE")


def run(arguments: argparse.Namespace) -> int:
    """Runs train.py in this process, as if it had been called with these words."""
    sys.argv = [str(PROGRAM), *arguments.words]  # processes of a run start from it too
    runpy.run_path(str(PROGRAM), run_name="__main__")
    return 0
