"""Where the configurations lie: ours beside train.py, and those of the user's --config-dir."""

import os
import sys
from pathlib import Path

from vivit_train.errors import UserError
from vivit_train.io.files import user_path

# Both lie beside the package in the repository, and in a folder of it in a wheel.
_PACKAGE = Path(__file__).parents[1]
_IN_WHEEL = _PACKAGE / "program"
_HOME = _IN_WHEEL if _IN_WHEEL.is_dir() else _PACKAGE.parent

CONFIG_DIR = _HOME / "configs"
PROGRAM = _HOME / "train.py"

_own: list[Path] = []  # what --config-dir names: none, or one


def program() -> str:
    """The command that trains, for messages: ``python train.py`` where that file is at hand."""
    try:
        at_hand = os.path.samefile("train.py", PROGRAM)
    except OSError:
        at_hand = False
    return "python train.py" if at_hand else "vivit train"


def use_config_dir(folder: str | None) -> None:
    """Lets this process find options in a folder of the user's, too, as ``--config-dir`` asks.

    Classes that lie beside them are found as well: the folder comes last on Python's path.

    Args:
        folder: One with groups, such as ``experiment/mine.yaml``; ``None`` for ours alone.

    Raises:
        UserError: If the folder has no option of any group, or one that we have under that name.
    """
    sys.path[:] = [path for path in sys.path if path not in map(str, _own)]
    _own.clear()
    if folder is None:
        return
    own = user_path(folder).absolute()
    held = [path.relative_to(own) for group in groups() for path in (own / group).glob("*.yaml")]
    if not held:
        raise UserError(
            f"--config-dir {folder}: expected a folder with yaml files in folders named as in "
            f"configs/, e.g. {folder}/experiment/mine.yaml; the names are {', '.join(groups())}"
        )
    for path in sorted(held):
        if (CONFIG_DIR / path).is_file():
            raise UserError(
                f"--config-dir {folder}: {path.parent}={path.stem} is one of our own; give "
                f"{own / path} another name"
            )
    _own.append(own)
    sys.path.append(str(own))


def own_config_dir() -> Path | None:
    """The folder that ``--config-dir`` names."""
    return _own[0] if _own else None


def config_dir_words() -> list[str]:
    """The words that have another process look where this one does."""
    return [word for own in _own for word in ("--config-dir", str(own))]


def options_of(group: str) -> list[str]:
    """The options of a group by name, sorted; none where it is not a group of ours."""
    return sorted(
        path.stem for home in (CONFIG_DIR, *_own) for path in (home / group).glob("*.yaml")
    )


def groups() -> list[str]:
    """The groups that have options, e.g. ``model`` and ``hydra/launcher``."""
    folders = sorted({path.parent for path in CONFIG_DIR.glob("*/**/*.yaml")})
    return [folder.relative_to(CONFIG_DIR).as_posix() for folder in folders]
