"""Checks the videos of a data set, in parallel: each gets a status."""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from vivit_train.class_names import match_class_names
from vivit_train.data.records import Records, size_and_mtime
from vivit_train.data.shards import ReadError, Span
from vivit_train.data.verdicts import Verdict, decoder_of, video_name
from vivit_train.errors import UserError
from vivit_train.video.decode import DecodeError, VideoReader, why_no_file
from vivit_train.video.guard import CAN_GUARD, Failure
from vivit_train.video.pool import guarded_map

# Rates vary and sound may outlast the picture: what lacks less than this part is whole.
TOLERANCE = 0.05
# Of a longer segment only the first, middle and last frames are decoded.
LONG_SEGMENT = 600  # frames


class Job(NamedTuple):
    """One video to check: its name in the results, then what `Records` says of its row."""

    video: str
    path: str | Path
    segment: tuple[float, float] | None
    span: Span | None = None
    picture_rate: float | None = None

    def identity(self) -> tuple[int | None, int | str | None]:
        """Which file it is: see `Records.identity`."""
        return self.span.shard if self.span else size_and_mtime(self.path)


def jobs_of(splits: Iterable[Records], root: Path) -> dict[str, Job]:
    """The videos of some splits, each once, by name."""
    jobs = {}
    for records in splits:
        for row in range(len(records)):
            name = video_name(records, row, root)
            path, segment = records.source(row)
            jobs[name] = Job(name, path, segment, records.span(row), records.picture_rate)
    return jobs


def jobs_to_do(
    jobs: Iterable[Job], verdicts: dict[str, Verdict], quick: bool, decoder: str
) -> list[Job]:
    """The jobs without a valid status; a quick check does not do where a full one is due."""

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
        The status of each job, in the order in which they are found.

    Raises:
        UserError: On systems other than Linux, or if a store does not give a video.
    """
    if not CAN_GUARD:
        raise UserError("vivit check needs processes that can be forked: run it on Linux")

    def look(identified: tuple[Job, Any]) -> Verdict:
        return check_video(identified[0], decoder, quick)

    # Which file it is, is noted before it is opened: one that changes meanwhile is due again.
    identified = ((job, job.identity()) for job in jobs)
    found = guarded_map(look, identified, min(num_workers, len(jobs)), timeout)
    for (job, (size, mtime)), verdict in found:
        if isinstance(verdict, Failure):
            verdict = Verdict(job.video, verdict.verdict, verdict.reason)
        yield replace(verdict, size=size, mtime=mtime, quick=quick, decoder=decoder_of(decoder))


def check_video(job: Job, decoder: str, quick: bool) -> Verdict:
    """Decodes one video.

    Raises:
        UserError: If a store does not give the video.
    """
    reason = None if job.span else why_no_file(job.path)
    if reason:
        gone = size_and_mtime(job.path) == (None, None)
        return Verdict(job.video, "missing" if gone else "unreadable", reason)
    frames, found, promised, fps, error = 0, 0, 0, 0.0, ""
    try:
        content = job.span.read(str(job.path)) if job.span else None
        with VideoReader(
            job.path, decoder, job.segment, data=content, picture_rate=job.picture_rate
        ) as video:
            found, promised, fps = video.num_frames, video.promised, video.fps
            if quick or (job.segment and found > LONG_SEGMENT):
                for index in (0, found // 2, found - 1):
                    video.read([index])
                frames = found
            else:
                for _ in video.decode_all():
                    frames += 1
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
        return Verdict(job.video, "truncated", reason, frames, promised, fps=fps)
    verdict = "unreadable" if error else "ok"
    return Verdict(job.video, verdict, error, frames, promised, fps=fps)


def class_conflicts(
    splits: dict[str, Records], class_names: Sequence[str], root: Path
) -> list[dict[str, Any]]:
    """Videos whose class is in doubt.

    Those that are listed with several classes, and those that lie in a folder which is named as
    another class. With several heads, or any number of classes, only the former.

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
        for row in range(len(records)):
            classes = found.setdefault(video_name(records, row, root), set())
            classes.add(tuple(class_names[label] for label in records.classes(row)))
            folder = by_folder.get(Path(records.relative_path(row)).parent.name)
            if folder and records.labels.ndim == 1:
                classes.add((folder,))
    return [
        {"video": video, "classes": sorted(", ".join(names) or "none" for names in classes)}
        for video, classes in found.items()
        if len(classes) > 1
    ]
