"""Verdicts on the videos of a data set: made in parallel, kept in a file, used by training."""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vivit_train.class_names import match_class_names
from vivit_train.data.records import Records, size_and_mtime
from vivit_train.data.shards import ReadError, Span
from vivit_train.errors import UserError
from vivit_train.video.decode import DecodeError, VideoReader, why_no_file
from vivit_train.video.guard import CAN_GUARD, Failure, Guard, Tell

FILE_NAME = "vivit_check.jsonl"
VERDICTS = ("ok", "short", "truncated", "missing", "unreadable", "timeout", "crashed")
# Rates vary and sound may outlast the picture: what lacks less than this part is whole.
TOLERANCE = 0.05
# Of a longer segment only the first, middle and last frames are decoded.
LONG_SEGMENT = 600  # frames


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
        decoder: Who decoded: ``pyav`` or ``decord``.
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

    def usable(self) -> bool:
        """Whether training takes the video: it is whole, or at least half of it is there."""
        half = self.verdict == "truncated" and 2 * self.frames >= self.promised
        return self.verdict == "ok" or half

    def kind(self, clip_span: int) -> str:
        """The verdict, where a whole video of fewer than ``clip_span`` frames is ``short``."""
        return "short" if self.verdict == "ok" and self.frames < clip_span else self.verdict

    def holds(self, identity: tuple[int | None, int | str | None], decoder: str) -> bool:
        """Whether it still is true: the file is the same, and so is who decodes it."""
        same_decoder = self.decoder == decoder_of(decoder)
        return same_decoder and (self.size, self.mtime) == identity


class Job(NamedTuple):
    """One video to check: its name in the verdicts, then what `Records` says of its row."""

    video: str
    path: str | Path
    segment: tuple[float, float] | None
    span: Span | None = None

    def identity(self) -> tuple[int | None, int | str | None]:
        """Which file it is: see `Records.identity`."""
        return self.span.shard if self.span else size_and_mtime(self.path)


def decoder_of(choice: str) -> str:
    """Who decodes under ``data.decoder``."""
    return "pyav" if choice == "auto" else choice


def video_name(records: Records, row: int, root: Path) -> str:
    """The name of a row in the verdicts: relative to the root of the data set."""
    if records.root == root:
        return records.name(row)
    name, path = records.name(row), records.relative_path(row)
    return Path(os.path.relpath(records.root / path, root)).as_posix() + name[len(path) :]


def read_verdicts(path: Path) -> dict[str, Verdict]:
    """Video -> its last verdict; lines that are none, such as one cut off, do not count."""
    names = {field.name for field in fields(Verdict)}
    verdicts = {}
    with path.open(encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            try:
                verdict = Verdict(**{k: v for k, v in json.loads(line).items() if k in names})
            except (ValueError, TypeError, AttributeError):
                continue
            verdicts[verdict.video] = verdict
    return verdicts


class VerdictFile:
    """A file of verdicts, a line of JSON each, to which every new one is added at once.

    Args:
        path: The file; it is made if need be.

    Attributes:
        verdicts: Video -> its last verdict.

    Raises:
        UserError: If it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("a+b")
        except OSError as error:
            raise UserError(
                f"the verdicts cannot be written to {path} ({error.strerror}): name another file "
                "with --output, and let training read it with data.verdicts=FILE"
            ) from None
        self.verdicts = read_verdicts(path)
        if self._file.tell():
            self._file.seek(-1, os.SEEK_END)
            if self._file.read() != b"\n":  # a line was cut off
                self._file.write(b"\n")

    def add(self, verdict: Verdict) -> None:
        """Adds a verdict, which replaces an earlier one on the same video."""
        self.verdicts[verdict.video] = verdict
        # ASCII: names that are not valid text survive as escapes.
        self._file.write(json.dumps(asdict(verdict)).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def jobs_of(splits: Iterable[Records], root: Path) -> dict[str, Job]:
    """The videos of some splits, each once, by name."""
    jobs = {}
    for records in splits:
        for row in range(len(records)):
            name = video_name(records, row, root)
            path, segment = records.source(row)
            jobs[name] = Job(name, path, segment, records.span(row))
    return jobs


def jobs_to_do(
    jobs: Iterable[Job], verdicts: dict[str, Verdict], quick: bool, decoder: str
) -> list[Job]:
    """The jobs without a verdict that holds; a quick look does not do where a full one is due."""

    def is_done(job: Job) -> bool:
        verdict = verdicts.get(job.video)
        return (
            verdict is not None
            and (quick or not (verdict.quick and verdict.verdict == "ok"))
            and verdict.holds(job.identity(), decoder)
        )

    return [job for job in jobs if not is_done(job)]


def check(
    jobs: Sequence[Job],
    *,
    decoder: str = "auto",
    quick: bool = False,
    num_workers: int = 1,
    timeout: float = 60.0,
) -> Generator[Verdict, None, None]:
    """Checks videos in several processes, of which each may hang or die.

    Args:
        jobs: What to check.
        decoder: As `data.decoder`.
        quick: Decode the first, middle and last frames only.
        num_workers: Processes.
        timeout: Seconds without a decoded frame after which a process is ended.

    Yields:
        A verdict per job, in the order in which they are found.

    Raises:
        UserError: On systems other than Linux, or if a store does not give a video.
    """
    if not CAN_GUARD:
        raise UserError("vivit check needs processes that can be forked: run it on Linux")

    def look(job: Job, tell: Tell) -> Verdict:
        return check_video(job, decoder, quick, tell)

    idle = [Guard(look, timeout) for _ in range(min(num_workers, len(jobs)))]
    busy: dict[Guard[Job, Verdict], Verdict] = {}  # what is known before: of which file it is
    waiting = iter(jobs)
    try:
        while True:
            while idle and (job := next(waiting, None)):
                size, mtime = job.identity()
                known = Verdict(
                    job.video, "ok", size=size, mtime=mtime, quick=quick,
                    decoder=decoder_of(decoder),
                )  # fmt: skip
                busy[idle[-1]] = known
                idle.pop().send(job)
            if not busy:
                return
            for guard in _ready(list(busy)):
                try:
                    answered, verdict = guard.receive()
                except Failure as failure:
                    answered, verdict = True, Verdict("", failure.verdict, failure.reason)
                if answered:
                    known = busy.pop(guard)
                    idle.append(guard)
                    yield replace(
                        known, verdict=verdict.verdict, reason=verdict.reason,
                        frames=verdict.frames, promised=verdict.promised,
                    )  # fmt: skip
    finally:
        for guard in [*idle, *busy]:
            guard.close()


def _ready(guards: Sequence[Guard[Job, Verdict]]) -> list[Guard[Job, Verdict]]:
    """Waits for those that have said something, or must have by now."""
    first = min(guard.deadline for guard in guards)
    heard = wait(
        [guard.connection for guard in guards if guard.connection],
        max(0.0, first - time.monotonic()),
    )
    now = time.monotonic()
    return [guard for guard in guards if guard.connection in heard or guard.deadline <= now]


def check_video(job: Job, decoder: str, quick: bool, tell: Tell) -> Verdict:
    """Decodes one video; ``tell`` hears about once a second that it goes on.

    Raises:
        UserError: If a store does not give the video.
    """
    reason = None if job.span else why_no_file(job.path)
    if reason:
        gone = size_and_mtime(job.path) == (None, None)
        return Verdict(job.video, "missing" if gone else "unreadable", reason)
    frames, found, promised, error = 0, 0, 0, ""
    try:
        content = job.span.read(str(job.path)) if job.span else None
        with VideoReader(job.path, decoder, job.segment, data=content) as video:
            found, promised = video.num_frames, video.promised
            if quick or (job.segment and found > LONG_SEGMENT):
                for index in (0, found // 2, found - 1):
                    video.read([index])
                frames = found
            else:
                told = time.monotonic()
                for frames in video.decode_all():
                    if time.monotonic() - told > 1:
                        told = time.monotonic()
                        tell(frames)
    except ReadError as failure:  # which says nothing of the video
        raise UserError(
            f"{failure}. What was found so far is kept: run the same again when it can be read"
        ) from failure
    except DecodeError as failure:
        error = failure.reason
    # A file that was cut off often ends in a damaged frame: that it was cut off is the reason.
    if frames and found < (1 - TOLERANCE) * promised - 1:
        there = f"{frames} of {promised} frames"
        reason = f"{there}: {error}" if error else there
        return Verdict(job.video, "truncated", reason, frames, promised)
    return Verdict(job.video, "unreadable" if error else "ok", error, frames, promised)


def count_verdicts(found: Iterable[Verdict | None], clip_span: int) -> dict[str, int]:
    """How many videos have which verdict, in the order of `VERDICTS`, then ``unchecked``."""
    counts = Counter(verdict.kind(clip_span) if verdict else "unchecked" for verdict in found)
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
        self.path = root / FILE_NAME if choice == "auto" else choice and Path(choice).expanduser()
        if not self.path or not self.path.is_file():
            if choice not in (None, "auto"):
                raise UserError(
                    f"data.verdicts={choice} is not a file: expected auto (the one in data.root), "
                    "null, or a file that `vivit check ... --output FILE` wrote"
                )
            self.path = None

    @cached_property
    def by_video(self) -> dict[str, Verdict]:
        """Name of a video -> its verdict, whether it holds or not."""
        return read_verdicts(self.path) if self.path else {}

    def find(
        self, records: Records, is_wanted: Callable[[Verdict], bool] = lambda _: True
    ) -> dict[int, Verdict]:
        """Rows with a verdict of the kind that is wanted and that holds.

        Looks at the files of these rows alone.
        """
        wanted = {name: verdict for name, verdict in self.by_video.items() if is_wanted(verdict)}
        return {
            row: verdict
            for row in range(len(records) if wanted else 0)
            if (verdict := wanted.get(video_name(records, row, self.root)))
            and verdict.holds(records.identity(row), self.decoder)
        }

    def counts(self, records: Records, clip_span: int) -> dict[str, int] | None:
        """How many rows have which verdict; ``None`` where no check was made.

        Args:
            records: A split.
            clip_span: Frames below which a video is ``short``.
        """
        found = self.find(records)
        every = (found.get(row) for row in range(len(records)))
        return count_verdicts(every, clip_span) if self.path else None


def class_conflicts(
    splits: dict[str, Records], class_names: Sequence[str], root: Path
) -> list[dict[str, Any]]:
    """Videos whose class is in doubt.

    Those that are listed with several classes, and those that lie in a folder which is named as
    another class. With several heads only the former.

    Args:
        splits: Name -> records.
        class_names: In the order of the labels.
        root: Folder of the data set.

    Returns:
        ``{"video": ..., "classes": [...]}`` with the classes that it has.
    """
    found: dict[str, set[tuple[str, ...]]] = {}
    for records in splits.values():
        folders = {Path(records.relative_path(row)).parent.name for row in range(len(records))}
        pairs = match_class_names(sorted(folders), class_names)
        by_folder = {sorted(folders)[i]: class_names[k] for i, k in pairs}
        for row, labels in enumerate(records.labels):
            classes = found.setdefault(video_name(records, row, root), set())
            classes.add(tuple(class_names[label] for label in np.atleast_1d(labels)))
            folder = by_folder.get(Path(records.relative_path(row)).parent.name)
            if folder and labels.ndim == 0:
                classes.add((folder,))
    return [
        {"video": video, "classes": sorted(", ".join(names) for names in classes)}
        for video, classes in found.items()
        if len(classes) > 1
    ]
