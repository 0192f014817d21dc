"""Write the page of a run: scores, curves, confusions and the videos that went wrong.

  vivit report runs/a                          runs/a/report.html
  vivit report runs/a runs/b --output ab.html  several runs side by side

One file that needs no network. A run writes it at its end, and `vivit evaluate` as well. Several
runs get one page in the current folder.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vivit_train.errors import UserError
from vivit_train.io.files import user_path
from vivit_train.io.layout import CONFIG_FILE, REPORT_FILE
from vivit_train.io.terminal import say

if TYPE_CHECKING:
    from vivit_train.data.records import Records


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument(
        "runs", nargs="+", type=user_path, metavar="RUN", help="folder of a run or an evaluation"
    )
    parser.add_argument(
        "--output", type=user_path, metavar="FILE", help="default: report.html in the run's folder"
    )


def run(arguments: argparse.Namespace) -> int:
    """Writes the page and says where it is."""
    from vivit_train.report.page import write_page
    from vivit_train.runs.comparison import is_run

    for folder in arguments.runs:
        if not is_run(folder):
            raise UserError(
                f"{folder} is not the folder of a run or an evaluation: expected results.json or "
                "config.yaml in it"
            )
    alone = arguments.runs[0] / REPORT_FILE if len(arguments.runs) == 1 else Path(REPORT_FILE)
    output = arguments.output or alone
    if output.is_dir():
        raise UserError(f"--output={output} is a folder: give the file, {output / REPORT_FILE}")
    say(write_page(arguments.runs, output, test_videos(arguments.runs[0])))
    return 0


def test_videos(folder: Path) -> "Records | None":
    """The videos that a run was tested on, for film strips; says why there are none."""
    from vivit_train.build import build_data
    from vivit_train.config import complete_config, read_saved, to_plain
    from vivit_train.config.compose import check_target
    from vivit_train.io.quiet import hush_lightning

    hush_lightning()
    try:
        if not (folder / CONFIG_FILE).is_file():
            raise UserError(f"{folder} has no config.yaml, which says where the videos are")
        config = complete_config(read_saved(folder / CONFIG_FILE))
        check_target(config, names_data=False)
        plain = to_plain(config, needs_weights=False)
        data = build_data(plain | {"ckpt_path": None})
        data.setup("test")
    except (UserError, OSError) as error:
        say(f"no film strips: {error}", file=sys.stderr)
        return None
    return data.records["test"]
