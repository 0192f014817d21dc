"""The verbs of the `vivit` command, one file each."""

from pathlib import Path


def user_path(text: str) -> Path:
    """A path of a command line; ``~`` is the home directory, which shells leave in --output=~/x."""
    return Path(text).expanduser()
