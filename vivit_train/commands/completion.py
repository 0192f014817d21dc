"""Print a shell's script that completes verbs, options and keys of `vivit`.

eval "$(vivit completion bash)"                                       in ~/.bashrc
eval "$(vivit completion zsh)"                                        in ~/.zshrc, after compinit
vivit completion fish > ~/.config/fish/completions/vivit.fish         once
"""

import argparse
import sys
from collections.abc import Iterable

from argcomplete import autocomplete, shellcode
from argcomplete.completers import BaseCompleter, FilesCompleter

from vivit_train.config.folders import groups, options_of
from vivit_train.config.keys import KEYS
from vivit_train.config.used import is_used

SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("shell", choices=SHELLS)


def run(arguments: argparse.Namespace) -> int:
    """Prints the script."""
    sys.stdout.write(f"{shellcode(['vivit'], shell=arguments.shell)}\n")
    return 0


def answer_shell(parser: argparse.ArgumentParser) -> None:
    """Ends the program with what may come next, if it is the shell's script that called it."""
    autocomplete(parser, default_completer=Words())


class Words(BaseCompleter):
    """Completes ``KEY=VALUE`` words where a verb takes them, else paths."""

    def __call__(
        self,
        *,
        prefix: str,
        action: argparse.Action,
        parser: argparse.ArgumentParser,
        parsed_args: argparse.Namespace,
    ) -> Iterable[str]:
        """The words that begin with ``prefix``, or the files."""
        if action.metavar != "KEY=VALUE":
            return FilesCompleter()(prefix)
        key, equals, value = prefix.partition("=")
        if not equals:
            uses = parser.get_default("uses")
            keys = [*groups(), *KEYS]
            return [f"{name}=" for name in keys if uses is None or is_used(name, uses)]
        if key in KEYS:
            values = FilesCompleter()(value) if KEYS[key].is_path else ()
        else:
            values = options_of(key)
        return [f"{key}={value}" for value in values]
