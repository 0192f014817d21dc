"""A trial: one run of a sweep, and the file that says which."""

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from vivit_train.config import config_dir_words, word_of
from vivit_train.errors import UserError
from vivit_train.io.files import write_whole
from vivit_train.io.foreign import is_of, read_json
from vivit_train.io.layout import RESULTS_FILE, TRIAL_FILE


@dataclass
class Trial:
    """One run of a sweep; ``trial.json`` in its folder says what it is.

    Attributes:
        folder: The run's folder.
        overrides: All its ``key=value`` words.
        varied: Those of them that the sweep chose.
        error: Why it failed, in a line.
        pruned: Whether the search gave it up.
    """

    folder: Path
    overrides: list[str]
    varied: list[str]
    error: str | None = None
    pruned: bool = False

    @property
    def number(self) -> int:
        """Its number in the sweep."""
        return int(self.folder.name)

    @property
    def is_finished(self) -> bool:
        """Whether it has a score."""
        return (self.folder / RESULTS_FILE).is_file()

    def command(self) -> list[str]:
        """The command that starts it, or resumes it where it has a checkpoint."""
        words = [sys.executable, "-u", os.path.abspath(sys.argv[0]), *config_dir_words()]
        words += self.overrides
        return [*words, word_of("run_dir", str(self.folder)), "ckpt_path=auto"]

    def save(self) -> None:
        """Writes ``trial.json``."""
        values = {k: v for k, v in asdict(self).items() if k != "folder"}
        write_whole(self.folder / TRIAL_FILE, json.dumps(values, indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "Trial":
        """Reads ``trial.json``.

        Raises:
            UserError: If it is not what `save` writes.
        """
        values = read_json(folder / TRIAL_FILE)
        types = {k: kind for k, kind in cls.__annotations__.items() if k != "folder"}
        are_whole = values.keys() <= types.keys() and {"overrides", "varied"} <= values.keys()
        if not are_whole or not all(is_of(value, types[k]) for k, value in values.items()):
            raise UserError(f"{folder / TRIAL_FILE} is not what a sweep writes")
        return cls(folder, **values)


def trials_of(home: Path) -> list[Trial]:
    """The trials of a sweep's folder, by number."""
    found = [Trial.read(path.parent) for path in home.glob(f"*/{TRIAL_FILE}")]
    return sorted(found, key=lambda trial: trial.number)
