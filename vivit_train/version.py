"""The version that is installed, and the git commit that it is of."""

import json
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

try:
    __version__ = version("vivit-train")
except PackageNotFoundError:  # run from a clone that is not installed
    __version__ = "unknown"

_CLONE = Path(__file__).parents[1]  # if the package is in one


@cache
def version_and_commit() -> str:
    """The version with the git commit where that is known, e.g. ``0.1.0+g1a2b3c4d5e6f``.

    It is known in a clone, where ``.dirty`` at the end says that files differ from the commit, and
    of what pip installed from a git address.
    """
    commit = _of_clone() if (_CLONE / ".git").exists() else _of_address()
    return f"{__version__}+g{commit}" if commit else __version__


def _of_clone() -> str | None:
    words = ["git", "--no-optional-locks", "--git-dir", str(_CLONE / ".git")]
    words += ["--work-tree", str(_CLONE)]
    # No tag: the version is known already.
    words += ["describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=.dirty"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None  # no git, or a clone of somebody else, which git refuses to read
    return done.stdout.strip()


def _of_address() -> str | None:
    """What pip has written down beside the package (PEP 610)."""
    try:
        text = distribution("vivit-train").read_text("direct_url.json")
        return str(json.loads(text or "{}")["vcs_info"]["commit_id"])[:12]
    except (PackageNotFoundError, ValueError, KeyError, TypeError):
        return None
