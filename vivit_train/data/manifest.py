"""What a prepared copy of a data set holds: a file in it that says so, video by video."""

import errno
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vivit_train.errors import UserError
from vivit_train.io.foreign import OwnLines, from_json

FILE_NAME = "vivit_prepare.jsonl"


@dataclass(frozen=True)
class Copy:
    """What became of one video.

    Attributes:
        video: Path relative to the root of the data set, and to that of the copy.
        verdict: ``ok``: re-encoded. Otherwise it is in the copy as it is in the source:
            ``truncated``, ``missing``, ``unreadable``, ``timeout`` or ``crashed`` as `vivit check`
            says, ``failed``: it decodes, but no exact copy of it could be written, or ``outside``:
            a link to what lies outside of the data's root, in whose place an empty file lies.
        reason: Why, in words; empty where it is ok.
        frames: Frames of the copy; 0 where it is not ok.
        size: Bytes of the source; ``None``: there was none.
        mtime: Its time of change, in nanoseconds.
        copy_size: Bytes of the copy; ``None``: there is none.
    """

    video: str
    verdict: str
    reason: str = ""
    frames: int = 0
    size: int | None = None
    mtime: int | None = None
    copy_size: int | None = None


@dataclass(frozen=True)
class _Settings:
    """The line before all others."""

    settings: dict[str, Any]


class Manifest:
    """What a copy holds: its settings, then a line of JSON for each video as it is done.

    Args:
        path: The file; it is made if need be.
        settings: The encoding and the source, which must be those of an earlier call.

    Attributes:
        copies: Video -> what last became of it.

    Raises:
        UserError: If it was made with other settings, or cannot be written.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lines = OwnLines(path, begins=b'{"settings": ')
        except OSError as error:
            raise cannot_write(path.parent, error) from error
        self.path = path
        self.copies: dict[str, Copy] = {}
        earlier = self._read()
        if earlier is None:
            self._add({"settings": settings})
        elif earlier != settings:
            self.close()
            differing = [k for k in settings if earlier.get(k) != settings[k]]
            raise UserError(
                f"{path.parent} was prepared with "
                f"{', '.join(f'{k}={earlier.get(k)}' for k in differing)}; asked for is "
                f"{', '.join(f'{k}={settings[k]}' for k in differing)}. One copy holds videos of "
                "one kind: ask for the same again, name another --output, or delete the folder"
            )

    def add(self, copy: Copy) -> None:
        """Adds a line, which replaces an earlier one on the same video.

        Raises:
            UserError: If it cannot be written.
        """
        self.copies[copy.video] = copy
        self._add(asdict(copy))

    def close(self) -> None:
        """Closes the file."""
        self._lines.close()

    def _add(self, content: dict[str, Any]) -> None:
        try:
            self._lines.add(content)
        except OSError as error:
            raise cannot_write(self.path.parent, error) from error

    def _read(self) -> dict[str, Any] | None:
        """Reads the copies, and returns the settings; lines that were cut off do not count."""
        settings = None
        for line in self._lines:
            if (copy := from_json(Copy, line)) is not None:
                self.copies[copy.video] = copy
            elif (head := from_json(_Settings, line)) is not None:
                settings = head.settings
        return settings


def cannot_write(output: Path, error: OSError) -> UserError:
    """The message for an output that cannot be written."""
    cure = (
        "free some space there and run the same command again: it continues from here"
        if error.errno in (errno.ENOSPC, errno.EDQUOT)
        else "correct that, or name another --output"
    )
    return UserError(f"{output} cannot be written ({error.strerror or error}): {cure}")
