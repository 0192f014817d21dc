"""Check a run before it starts: data, loss, gradients, speed and memory, a line for each check.

  vivit doctor data=folder data.root=/data/mine model.pretrained=google/vivit-b-16x2-kinetics400
  vivit doctor model=vivit_l_fe data=ssv2 data.root=/data/ssv2 --seconds 120

KEY=VALUE and their defaults are those of train.py. On one device it decodes a batch and checks its
pixels. With the pretrained model it looks at some videos: the accuracy of a linear probe, doubtful
labels, what a horizontal flip does, copies among the validation videos. It compares the first loss
with that of guessing, overfits one batch, checks that gradients reach every parameter, and
estimates memory and time. Nothing is written. The exit code is 0 unless a check failed.
"""

import argparse
import json
from dataclasses import asdict

from vivit_train.errors import UserError
from vivit_train.io.terminal import say

SIGNS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}

# Keys that this command uses, see `is_used`: all values of a run are at least checked.
USES = (
    "experiment", "model", "data", "processor", "augment", "optim", "trainer", "callbacks", "seed",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for train.py")
    parser.add_argument(
        "--seconds",
        type=float,
        default=60,
        metavar="S",
        help="at most, for looking at videos and again for overfitting one batch (default 60)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line instead")


def run(arguments: argparse.Namespace) -> int:
    """Prints a line per check as it is made."""
    from vivit_train.config import check_schedule, compose_config, to_plain

    if arguments.seconds <= 0:
        raise UserError(f"--seconds must be above 0, got {arguments.seconds:g}")
    config = to_plain(compose_config(arguments.overrides))
    check_schedule(config)

    from vivit_train.io.quiet import hush_lightning
    from vivit_train.preflight.doctor import examine

    hush_lightning()
    failed = 0
    for finding in examine(config, arguments.seconds):
        failed += finding.verdict == "fail"
        if arguments.json:
            say(json.dumps(asdict(finding)))
        else:
            say(f"{SIGNS[finding.verdict]}  {finding.check:<12}  {finding.text}")
    return 1 if failed else 0
