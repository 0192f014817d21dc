"""The `vivit` command: `vivit VERB ...`, a file per verb in `commands/`."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from vivit_train.config import check_used, use_config_dir
from vivit_train.io.terminal import printable, say
from vivit_train.launch.entry import errors_in_one_line, leave_cores_to_workers
from vivit_train.version import version_and_commit

VERBS = (
    "check",
    "compare",
    "completion",
    "demo",
    "describe",
    "doctor",
    "evaluate",
    "explain",
    "export",
    "features",
    "predict",
    "prepare",
    "publish",
    "report",
    "show-batch",
    "train",
)


class Parser(argparse.ArgumentParser):
    """One that says in one line what is wrong, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Ends the program with a message."""
        self.exit(2, f"error: {printable(message)}; see {self.prog} --help\n")


class ShowVersion(argparse.Action):
    """Prints the version; it asks git, which no other call has to wait for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        """Ends the program."""
        say(f"vivit-train {version_and_commit()}")
        parser.exit()


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a verb; the verb's module imports what is heavy only when it runs."""
    leave_cores_to_workers()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = Parser(prog="vivit", description="Train, evaluate and use ViViT models.")
    parser.add_argument(
        "--version", action=ShowVersion, nargs=0, help="show the version, with the git commit"
    )
    parsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    verbs = {}
    for name in VERBS:
        verb = import_module(f"vivit_train.commands.{name.replace('-', '_')}")
        first_line = (verb.__doc__ or "").splitlines()[0]
        verbs[name] = parsers.add_parser(
            name,
            help=first_line,
            description=verb.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.add_arguments(verbs[name])
        uses = getattr(verb, "USES", None)
        if uses is not None:
            verbs[name].add_argument(
                "--config-dir", metavar="DIR", help="a folder of configurations of your own"
            )
        verbs[name].set_defaults(run=verb.run, verb=name, uses=uses)
    if "_ARGCOMPLETE" in os.environ:
        from vivit_train.commands.completion import answer_shell

        answer_shell(parser)
    if arguments[:1] == ["train"]:  # its options are Hydra's, --help too
        parsed = verbs["train"].parse_args([])
        parsed.words = arguments[1:]
    elif arguments and arguments[0] in verbs:
        # Options may stand anywhere, also between KEY=VALUE words, which sub-parsers cannot.
        parsed = verbs[arguments[0]].parse_intermixed_args(arguments[1:])
    else:
        parsed = parser.parse_args(arguments)
    with errors_in_one_line():
        if parsed.uses is not None:
            use_config_dir(parsed.config_dir)
            check_used(parsed.verb, parsed.overrides, parsed.uses)
        sys.exit(parsed.run(parsed))


if __name__ == "__main__":
    main()
