"""What a publication leaves out: paths of this machine, accounts and keys."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from vivit_train.config.keys import KEYS
from vivit_train.errors import UserError

# Keys of a configuration that say where this machine has things, or whom a training tells.
_OF_THE_MACHINE = frozenset(
    ["run_dir", "started_in", "ckpt_path", "allow_other_videos", "logger", "data.root",
     "data.verdicts", "data.index_dir"]
)  # fmt: skip
# In keys that are not ours, such as those of one's own data set.
_SECRET = re.compile(r"token|secret|passw|api_?key|credential", re.IGNORECASE)
# Folders of an absolute path within a text, not those of an address.
_FOLDERS = re.compile(r"(?<![\w.:/~])~?/(?:[^\s/'\"]+/)+")
# user:password@ and ?key=... of an address.
_ACCOUNT = re.compile(r"(\w+://)[^\s/@]*@")
_QUERY = re.compile(r"(\w+://[^\s?]*)\?\S*")
_TEXTS = (".html", ".json", ".md", ".yaml", ".csv")


def public_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A run's configuration as others may see it.

    Where the videos are and who is told of the training is left out, and so are the arguments of
    callbacks of the user's own, which may hold addresses and keys. Of paths the last part is left.

    Args:
        config: Plain values.
        prefix: What its keys begin with, e.g. ``data.``.
    """
    kept: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        if key in _OF_THE_MACHINE or (key not in KEYS and _SECRET.search(name)):
            continue
        if prefix == "callbacks.extra." and isinstance(value, Mapping):
            kept[name] = {"_target_": value.get("_target_")}
        elif isinstance(value, Mapping):
            kept[name] = public_config(value, f"{key}.")
        else:
            kept[name] = public(value)
    return kept


def public(value: Any) -> Any:
    """A plain value whose texts have no folders of this machine and no accounts in them."""
    if isinstance(value, str):
        return _public_text(value)
    if isinstance(value, Mapping):
        return {public(name): public(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [public(part) for part in value]
    return value


def _public_text(text: str) -> str:
    if text.startswith(("/", "~")):
        return PurePosixPath(text).name
    for folder in _known_folders():
        text = text.replace(f"{folder}/", "")
    return _FOLDERS.sub("", _QUERY.sub(r"\1", _ACCOUNT.sub(r"\1", text)))


def _known_folders() -> list[str]:
    """The home and the current folder, which may have spaces in their names; not the root."""
    return [name for name in (os.getcwd(), os.path.expanduser("~")) if name.strip("/")]


def check_public(folder: Path, private: Iterable[Path]) -> None:
    """Refuses a publication that still names a folder of this machine.

    Args:
        folder: Of the publication.
        private: Further folders that it must not name.

    Raises:
        UserError: Naming the file.
    """
    names = [*_known_folders(), *(str(path.absolute()) for path in private)]
    for path in sorted(folder.iterdir()):
        if path.suffix not in _TEXTS:
            continue
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        for name in names:
            if name.strip("/") and f"{name}/" in text:
                raise UserError(
                    f"{path.name} would name the folder {name} of this machine, so nothing was "
                    "written: a class or a setting has it in its name. Rename it, or report this"
                )
