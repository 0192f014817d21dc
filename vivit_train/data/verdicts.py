"""The status of each video of a data set: `vivit check` writes it to a file, training reads it."""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from vivit_train.data.records import Records
from vivit_train.errors import UserError
from vivit_train.io.files import user_path
from vivit_train.io.foreign import OwnLines, from_json
from vivit_train.video.sampling import Sampling
from vivit_train.video.watch import Source

FILE_NAME = "vivit_check.jsonl"
VERDICTS = ("ok", "short", "truncated", "missing", "unreadable", "timeout", "crashed")


@dataclass(frozen=True)
class Verdict:
    """What was found of one video, or one segment of a video.

    Attributes:
        video: Path relative to the data set's root, with a segment's times behind ``#t=``.
        verdict: ``ok``, ``truncated``, ``missing``, ``unreadable``, ``timeout`` or ``crashed``.
            ``short`` is none of them: it depends on the clips, see `kind`.
        reason: Why, in words; empty where it is ok.
        frames: Frames that were decoded (``quick``: that the container lists).
        promised: Frames that there should be by the container or the annotation; 0: unknown.
        size: Bytes of the file, or of the shard it lies in, when it was checked; ``None``: there
            was none.
        mtime: Its time of change, in nanoseconds; of a shard its version (`Stat`).
        quick: Whether only the first, middle and last frames were decoded.
        decoder: Who decoded: ``pyav``, ``decord`` or ``torchcodec``.
        fps: Average frames per second; 0: the container does not say, or nobody had looked.
    """

    video: str
    verdict: str
    reason: str = ""
    frames: int = 0
    promised: int = 0
    size: int | None = None
    mtime: int | str | None = None
    quick: bool = False
    decoder: str = "pyav"
    fps: float = 0.0

    def usable(self) -> bool:
        """Whether training takes the video: it is whole, or at least half of it is there."""
        half = self.verdict == "truncated" and 2 * self.frames >= self.promised
        return self.verdict == "ok" or half

    def kind(self, sampling: Sampling) -> str:
        """The status, where a whole video of fewer frames than a clip spans is ``short``."""
        is_short = self.verdict == "ok" and self.frames < sampling.span(self.fps)
        return "short" if is_short else self.verdict

    def holds(self, identity: tuple[int | None, int | str | None], decoder: str) -> bool:
        """Whether it still is true: the file is the same, and so is who decodes it."""
        same_decoder = self.decoder == decoder_of(decoder)
        return same_decoder and (self.size, self.mtime) == identity


def decoder_of(choice: str) -> str:
    """Who decodes under ``data.decoder``."""
    return "pyav" if choice == "auto" else choice


def video_name(records: Records, row: int, root: Path) -> str:
    """The name of a row in the file: relative to the root of the data set."""
    if records.root == root:
        return records.name(row)
    name, path = records.name(row), records.relative_path(row)
    return Path(os.path.relpath(records.root / path, root)).as_posix() + name[len(path) :]


def read_verdicts(path: Path) -> dict[str, Verdict]:
    """Video -> its last status; lines that hold none, such as one cut off, do not count."""
    with path.open("rb") as lines:
        return _last_verdicts(lines)


def _last_verdicts(lines: Iterable[bytes]) -> dict[str, Verdict]:
    found = (from_json(Verdict, line) for line in lines)
    return {v.video: v for v in found if v is not None and v.verdict in VERDICTS}


class VerdictFile:
    """The file of `vivit check`: a line of JSON for each video, added as soon as it is checked.

    Args:
        path: The file; it is made if need be.

    Attributes:
        verdicts: Video -> its last status.

    Raises:
        UserError: If it cannot be written, or something else is there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._lines = OwnLines(path, begins=b'{"video": ')
        except OSError as error:
            raise UserError(
                f"the results cannot be written to {path} ({error.strerror}): name another file "
                "with --output, and let training read it with data.verdicts=FILE"
            ) from None
        self.verdicts = _last_verdicts(self._lines)

    def add(self, verdict: Verdict) -> None:
        """Adds the status of a video, which replaces an earlier one."""
        self.verdicts[verdict.video] = verdict
        self._lines.add(asdict(verdict))

    def close(self) -> None:
        """Closes the file."""
        self._lines.close()


def count_verdicts(found: Iterable[Verdict | None], sampling: Sampling) -> dict[str, int]:
    """How many videos have which status, in the order of `VERDICTS`, then ``unchecked``."""
    counts = Counter(verdict.kind(sampling) if verdict else "unchecked" for verdict in found)
    return {kind: counts[kind] for kind in (*VERDICTS, "unchecked") if counts[kind]}


class Verdicts:
    """What an earlier check found, as far as it holds: the files must be the same as then.

    Args:
        choice: ``data.verdicts``: a file; ``auto``, the one in the root if there is one; or
            ``None``.
        root: Folder of the data set.
        decoder: As `data.decoder`.

    Attributes:
        path: The file; ``None`` if there is none.

    Raises:
        UserError: If a file is named and does not exist.
    """

    def __init__(self, choice: str | None, root: Path, decoder: str) -> None:
        self.root = root
        self.decoder = decoder
        self.path = root / FILE_NAME if choice == "auto" else choice and user_path(choice)
        if not self.path or not self.path.is_file():
            if choice not in (None, "auto"):
                raise UserError(
                    f"data.verdicts={choice} is not a file: expected auto (the one in data.root), "
                    "null, or a file that `vivit check ... --output FILE` wrote"
                )
            self.path = None

    @cached_property
    def by_video(self) -> dict[str, Verdict]:
        """Name of a video -> its status, whether it still holds or not."""
        return read_verdicts(self.path) if self.path else {}

    def find(
        self, records: Records, is_wanted: Callable[[Verdict], bool] = lambda _: True
    ) -> dict[int, Verdict]:
        """Rows with a status of the kind that is wanted and that still holds.

        Looks at the files of these rows alone.
        """
        wanted = {name: verdict for name, verdict in self.by_video.items() if is_wanted(verdict)}
        return {
            row: verdict
            for row in range(len(records) if wanted else 0)
            if (verdict := wanted.get(video_name(records, row, self.root)))
            and verdict.holds(records.identity(row), self.decoder)
        }

    def counts(self, records: Records, sampling: Sampling) -> dict[str, int] | None:
        """How many rows have which status; ``None`` where no check was made.

        Args:
            records: A split.
            sampling: How clips are taken: by it a video is ``short``.
        """
        found = self.find(records)
        every = (found.get(row) for row in range(len(records)))
        return count_verdicts(every, sampling) if self.path else None

    def without_unusable(self, records: Records, data_name: str) -> Records:
        """Training rows less those that were found to be of no use; says how many.

        Args:
            records: The training split.
            data_name: The data set's, for the messages.

        Raises:
            UserError: If none is left.
        """
        bad = self.find(records, lambda verdict: not verdict.usable())
        if not bad:
            return records
        if len(bad) == len(records):
            worst = next(iter(bad.values()))
            raise UserError(
                f"{data_name}: none of the {len(records)} training videos can be used, by "
                f"{self.path}, e.g. {worst.video}: {worst.reason}. Repair the files and run "
                "`vivit check` again, or set data.verdicts=null"
            )
        rank_zero_warn(
            f"{data_name}: {len(bad)} of the {len(records)} training videos are left out, as "
            f"{self.path} says that they cannot be used"
        )
        return records.subset([row for row in range(len(records)) if row not in bad])

    def refused(self, records: Records) -> dict[Source, str]:
        """Videos that hung or killed the decoder, and why they are not opened again."""
        deadly = self.find(records, lambda v: v.verdict in ("timeout", "crashed"))
        return {
            records.source(row): f"not opened: {verdict.reason}" for row, verdict in deadly.items()
        }
