"""The `vivit` command: `vivit VERB ...`, a file per verb in `commands/`."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from vivit_train.launch import errors_in_one_line, leave_cores_to_workers

VERBS = (
    "check",
    "compare",
    "describe",
    "doctor",
    "evaluate",
    "export",
    "predict",
    "prepare",
    "show-batch",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a verb; the verb's module imports what is heavy only when it runs."""
    leave_cores_to_workers()
    parser = argparse.ArgumentParser(
        prog="vivit", description="Evaluate and use trained ViViT models; train.py trains them."
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name in VERBS:
        verb = import_module(f"vivit_train.commands.{name.replace('-', '_')}")
        first_line = (verb.__doc__ or "").splitlines()[0]
        subparser = verbs.add_parser(
            name,
            help=first_line,
            description=verb.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.add_arguments(subparser)
        subparser.set_defaults(run=verb.run)
    parsed = parser.parse_args(arguments)
    with errors_in_one_line():
        sys.exit(parsed.run(parsed))


if __name__ == "__main__":
    main()
