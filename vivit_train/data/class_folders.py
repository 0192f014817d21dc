"""Videos in folders, files or folders of pictures: what is taken, and what is left out."""

import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

from vivit_train.class_names import shorten
from vivit_train.data.records import Records, stem
from vivit_train.errors import UserError
from vivit_train.io.terminal import said_if_long
from vivit_train.video.container import VIDEO_SUFFIXES, is_video
from vivit_train.video.decoders.pictures import holds_pictures, is_picture

# Why something in such a folder is not taken for a video.
_HIDDEN = "with a dot at the beginning"
_UNDERSCORE = "with an underscore at the beginning"
_LOOSE = "videos outside a class folder"
_DEEPER = "folders within a class folder"
_PICTURES = "folders of pictures beside a video of the same name"
_OTHER = "files without the suffix of a video"
# What systems leave in every folder, of which nothing needs to be said.
_SYSTEM_FILES = frozenset([".DS_Store", "Thumbs.db", "desktop.ini"])


def scan_class_folders(folder: Path, tell: Callable[[str], None]) -> dict[str, list[str]]:
    """Videos in ``folder/<class name>/``, sorted; class name -> paths relative to ``folder``.

    Args:
        folder: Where the class folders are.
        tell: Called with a line about what is left out: how much, and examples.

    Raises:
        UserError: If there are no class folders, or one of them holds no video file.
    """
    videos: dict[str, list[str]] = {}
    left_out: defaultdict[str, list[str]] = defaultdict(list)
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir() and entry.name[0] not in "._":
            videos[entry.name] = _scan_class(folder, entry.name, left_out)
        elif entry.is_dir():
            reason = _HIDDEN if entry.name[0] == "." else _UNDERSCORE
            left_out[f"folders {reason}"].append(entry.name)
        elif is_video(entry.name):
            left_out[_LOOSE].append(entry.name)
    told = _in_words(left_out)
    if not videos:
        raise UserError(
            f"{folder} holds no class folders; expected {folder}/<class name>/<video>.mp4"
            f"{f'. Left out: {told}' if told else ''}"
        )
    empty = [name for name, paths in videos.items() if not paths]
    if empty:
        raise UserError(
            f"no video file in {shorten([str(folder / name) for name in empty])}: add videos "
            f"({', '.join(sorted(VIDEO_SUFFIXES))}) or remove the folder"
            f"{f'. Left out: {told}' if told else ''}"
        )
    if told:
        tell(f"left out under {folder}: {told}")
    return videos


def _scan_class(folder: Path, name: str, left_out: defaultdict[str, list[str]]) -> list[str]:
    """The videos of one class; adds to what is left out."""
    paths, pictures = [], []
    for entry in sorted(os.scandir(folder / name), key=lambda entry: entry.name):
        path = f"{name}/{entry.name}"
        if entry.name in _SYSTEM_FILES:
            continue
        if entry.name[0] == ".":
            left_out[f"files {_HIDDEN}"].append(path)
        elif is_video(entry.name):
            paths.append(path)
        elif entry.is_dir() and holds_pictures(entry.path):
            pictures.append(path)
        elif entry.is_dir():
            left_out[_DEEPER].append(path)
        else:
            left_out[_OTHER].append(path)
    files = {stem(path) for path in paths}
    for path in pictures:
        (left_out[_PICTURES] if path in files else paths).append(path)
    return sorted(paths)


def scan_videos(folder: Path) -> list[str]:
    """Videos in a folder and all below it, sorted; warns of what is left out.

    Links are followed, and no folder is looked into twice.

    Args:
        folder: Where to begin.

    Returns:
        Paths that begin with ``folder``.

    Raises:
        UserError: If there are none.
    """
    videos: list[str] = []
    left_out: defaultdict[str, list[str]] = defaultdict(list)
    seen = {os.path.realpath(folder)}

    def cannot_list(error: OSError) -> None:
        left_out["folders that cannot be read"].append(str(error.filename))

    for parent, folders, files in os.walk(folder, onerror=cannot_list, followlinks=True):
        if holds_pictures(parent):
            videos.append(parent)
            folders.clear()
            continue
        names, folders[:] = sorted(folders), []
        for name in names:
            path = os.path.join(parent, name)
            real = os.path.realpath(path)
            if name[0] == ".":
                left_out[f"folders {_HIDDEN}"].append(path)
            elif real in seen:
                left_out["folders that a link leads to a second time"].append(path)
            else:
                folders.append(name)
            seen.add(real)
        for name in sorted(set(files) - _SYSTEM_FILES):
            path = os.path.join(parent, name)
            if name[0] == ".":
                left_out[f"files {_HIDDEN}"].append(path)
            elif is_video(name):
                videos.append(path)
            else:
                left_out[_OTHER].append(path)
    told = _in_words(left_out)
    if not videos:
        raise UserError(
            f"{folder} holds no video ({', '.join(sorted(VIDEO_SUFFIXES))})"
            f"{f'. Left out: {told}' if told else ''}"
        )
    if told:
        warnings.warn(f"left out under {folder}: {told}", stacklevel=2)
    return sorted(videos)


def count_videos(folder: Path) -> int:
    """How many videos are in a folder and all below it, by their names."""
    with said_if_long(f"counting the videos in {folder}"):
        return sum(
            sum(map(is_video, names)) + (any(map(is_picture, names)) and holds_pictures(parent))
            for parent, _, names in os.walk(folder)
        )


def _in_words(left_out: Mapping[str, list[str]]) -> str:
    """What is left out, how much and for example what: names by reason."""
    return "; ".join(
        f"{len(names)} {reason} ({shorten(names, 3)})" for reason, names in left_out.items()
    )


def from_class_folders(
    root: Path, folder: Path, videos: dict[str, list[str]]
) -> tuple[Records, list[str]]:
    """Records of the class folders under ``folder``, with paths relative to ``root``."""
    prefix = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
    rows = [
        (f"{prefix}{path}", label)
        for label, paths in enumerate(videos.values())
        for path in paths
    ]  # fmt: skip
    return Records(root, [path for path, _ in rows], [label for _, label in rows]), list(videos)
