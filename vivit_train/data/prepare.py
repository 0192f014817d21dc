"""A copy of a data set that decodes faster: same names, same annotations, same frames."""

import os
import shutil
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from vivit_train.data.check import TOLERANCE
from vivit_train.data.manifest import FILE_NAME, Copy, cannot_write
from vivit_train.data.records import Records, size_and_mtime
from vivit_train.data.shard_index import FILE_NAME as INDEX_NAME
from vivit_train.data.verdicts import FILE_NAME as VERDICTS_NAME
from vivit_train.errors import UserError
from vivit_train.video.container import is_video
from vivit_train.video.decode import DecodeError, VideoReader, why_no_file
from vivit_train.video.decoders.pictures import holds_pictures
from vivit_train.video.guard import CAN_GUARD, Failure
from vivit_train.video.pictures import shrink_pictures
from vivit_train.video.pool import guarded_map
from vivit_train.video.write import Encoding, reencode_video

# What is being written, on the same file system as what it becomes. A scan of class folders
# passes over names with a dot.
PARTIAL = ".partial"
# What data sets read beside videos. Archives and files of features lie there too, and stay there.
ANNOTATION_SUFFIXES = frozenset([".csv", ".json", ".jsonl", ".list", ".tsv", ".txt"])
# What our commands write beside them, about the files of the source.
OWN_NAMES = frozenset([FILE_NAME, INDEX_NAME, VERDICTS_NAME])
# Folders with a file per frame: millions of entries, none of which is an annotation.
FRAME_FOLDERS = frozenset(["flow", "flow_frames", "frames", "rgb", "rgb_frames"])
# The status of a video that holds as long as its file is the same; others are tried again.
LASTING = frozenset(["ok", "truncated", "missing", "unreadable"])


class Job(NamedTuple):
    """One video: its name, where it lies, where its copy goes, and the source's identity.

    ``outside`` is what it is a link to, where that lies outside of the data's root, else empty.
    """

    video: str
    source: Path
    target: Path
    size: int | None
    mtime: int | None
    outside: str = ""


def check_folders(root: Path, output: Path) -> None:
    """Refuses an output that would mix with the source.

    Raises:
        UserError: If one lies in the other, or the output holds something else.
    """
    # Not Path.resolve, which raises where a link leads back to itself.
    source, target = (Path(os.path.realpath(path)) for path in (root, output))
    if source == target or source in target.parents or target in source.parents:
        raise UserError(
            f"--output {output} and data.root={root} must lie beside each other, not one in the "
            "other: name another folder"
        )
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is no folder: name another")
    found = [path for path in output.iterdir() if path.name[0] != "."] if output.is_dir() else []
    if found and not (output / FILE_NAME).is_file():
        raise UserError(
            f"--output {output} holds {found[0].name} and is no prepared data set: empty it or "
            "name another folder"
        )


def jobs_of(splits: Iterable[Records], root: Path, output: Path) -> list[Job]:
    """The videos of some splits, each once, whatever the number of its segments.

    Raises:
        UserError: If a copy under ``output`` would not be found by the same annotations, or no
            video lies within the root.
    """
    jobs: dict[str, Job] = {}
    for records in splits:
        for row in range(len(records)):
            if records.span(row) is not None:
                raise UserError(
                    "videos in shards cannot be prepared: prepare the files, then write the shards"
                )
            source = records.path(row)
            video = Path(os.path.relpath(source, root)).as_posix()
            if video.startswith("../") or os.path.isabs(records.relative_path(row)):
                raise UserError(
                    f"the data set lists {records.relative_path(row)}, which is no path within "
                    f"data.root={root}, so a copy would not be found: list paths relative to "
                    "data.root, and set it to a folder that holds all videos"
                )
            if video not in jobs:
                outside = outside_of(root, source)
                size, mtime = (None, None) if outside else size_and_mtime(source)
                jobs[video] = Job(video, source, output / video, size, mtime, outside)
    if jobs and all(job.outside for job in jobs.values()):
        job = next(iter(jobs.values()))
        raise UserError(
            f"every video of data.root={root} is a link out of it, as {job.video} to "
            f"{job.outside}, and a copy holds only what lies within: set data.root to the folder "
            "that holds the videos"
        )
    return list(jobs.values())


def outside_of(root: Path, path: Path) -> str:
    """What a path within a folder is in truth, if by links it lies outside of it; else empty."""
    real = os.path.realpath(path)
    return "" if Path(real).is_relative_to(os.path.realpath(root)) else real


def jobs_to_do(jobs: Iterable[Job], copies: dict[str, Copy]) -> list[Job]:
    """The jobs without a copy, of which the source or the copy has changed, or to try again."""

    def is_done(job: Job) -> bool:
        copy = copies.get(job.video)
        return (
            copy is not None
            and not job.outside
            and copy.verdict in LASTING
            and (copy.size, copy.mtime) == (job.size, job.mtime)
            and (copy.verdict == "missing" or copy.copy_size == size_and_mtime(job.target)[0])
        )

    return [job for job in jobs if not is_done(job)]


def prepare(
    jobs: Sequence[Job], output: Path, encoding: Encoding, num_workers: int, timeout: float
) -> Generator[Copy, None, None]:
    """Copies videos in several processes, of which each may hang or die.

    Args:
        jobs: What to copy.
        output: Root of the copy.
        encoding: Size and quality.
        num_workers: Processes.
        timeout: Seconds without a frame after which a process is ended.

    Yields:
        A copy per job, in the order in which they are done.

    Raises:
        UserError: If the output cannot be written, or on systems other than Linux.
    """
    if not CAN_GUARD:
        raise UserError("vivit prepare needs processes that can be forked: run it on Linux")
    partial = output / PARTIAL

    def work(job: Job) -> Copy:
        return prepare_video(job, partial, encoding)

    try:
        shutil.rmtree(partial, ignore_errors=True)  # what a process that was killed left
        partial.mkdir(parents=True)
        for job, copy in guarded_map(work, jobs, min(num_workers, len(jobs)), timeout):
            if isinstance(copy, Failure):
                copy = Copy(job.video, copy.verdict, copy.reason)
            if copy.verdict != "ok":
                copy_as_it_is(job, partial)
            yield replace(
                copy, size=job.size, mtime=job.mtime, copy_size=size_and_mtime(job.target)[0]
            )
    except OSError as error:
        raise cannot_write(output, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def prepare_video(job: Job, partial: Path, encoding: Encoding) -> Copy:
    """Re-encodes one video, or shrinks a folder of pictures.

    Raises:
        OSError: If the copy cannot be written.
    """
    broken = why_broken(job)
    if broken:
        return broken
    finished = partial / f"{os.getpid()}{job.target.suffix}"
    is_folder = job.source.is_dir()
    try:
        if is_folder:
            shutil.rmtree(finished, ignore_errors=True)
            frames = shrink_pictures(job.source, finished, encoding.short_edge)
        else:
            frames = reencode_video(job.source, finished, encoding)
    except DecodeError as error:
        return Copy(job.video, "unreadable", error.reason)
    except ValueError as error:
        return Copy(job.video, "failed", str(error))
    job.target.parent.mkdir(parents=True, exist_ok=True)
    if is_folder:  # no other folder takes the place of one that is not empty
        shutil.rmtree(job.target, ignore_errors=True)
    os.replace(finished, job.target)
    return Copy(job.video, "ok", frames=frames)


def why_broken(job: Job) -> Copy | None:
    """The status of a video of which no copy should be made; ``None`` if it opens and is whole.

    A copy of one that was cut off would pass for whole.
    """
    if job.outside:
        return Copy(job.video, "outside", f"a link to {job.outside}, which is not copied")
    reason = why_no_file(job.source)
    if reason:
        return Copy(job.video, "missing" if job.size is None else "unreadable", reason)
    try:
        with VideoReader(job.source, "pyav") as video:
            found, promised = video.num_frames, video.promised
    except DecodeError as error:
        return Copy(job.video, "unreadable", error.reason)
    if found < (1 - TOLERANCE) * promised - 1:
        return Copy(job.video, "truncated", f"{found} of {promised} frames")
    return None


def copy_as_it_is(job: Job, partial: Path) -> None:
    """Puts a broken video into the copy, so that its splits list the same videos.

    Left out of a folder it would leave the split unseen, and the score would be of fewer videos.
    For a link to nothing or out of the root, a pipe, a folder or what may not be read an empty
    file stands in, as undecodable as it; what the annotations alone name stays missing.
    """
    if not os.path.lexists(job.source):
        return
    staged = partial / "as_it_is"
    if job.source.is_dir() and holds_pictures(job.source) and not job.outside:
        shutil.copytree(job.source, staged, dirs_exist_ok=True)
        shutil.rmtree(job.target, ignore_errors=True)
    elif job.source.is_file() and os.access(job.source, os.R_OK) and not job.outside:
        shutil.copy2(job.source, staged)
    else:
        staged.write_bytes(b"")
    job.target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(staged, job.target)


def copy_annotations(root: Path, output: Path) -> tuple[int, list[str]]:
    """Copies the annotations of a tree, where they are new or changed, with their times.

    Args:
        root: Folder of the data set.
        output: Root of the copy.

    Returns:
        How many files were copied now; and the links, to annotations or folders, that lead out of
        the root, of which nothing is copied.

    Raises:
        UserError: If the output cannot be written.
    """
    copied, outside = 0, []
    partial = output / f"{PARTIAL}_annotation"
    try:
        for name in _annotations(root):
            target = output / name
            if outside_of(root, root / name):
                outside.append(name)
                continue
            if size_and_mtime(root / name) == size_and_mtime(target):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, partial)
            os.replace(partial, target)
            copied += 1
    except OSError as error:
        raise cannot_write(output, error) from error
    finally:
        partial.unlink(missing_ok=True)
    return copied, outside


def _annotations(root: Path) -> Iterator[str]:
    """Paths, relative to the root, of all that a data set may read beside its videos.

    Links to folders outside of the root are among them, but nothing that lies there.
    """
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [f for f in sorted(folders) if f[0] != "." and f not in FRAME_FOLDERS]
        outside = [f for f in folders if outside_of(root, Path(folder, f))]
        folders[:] = [f for f in folders if f not in outside]
        for name in [*outside, *sorted(files)]:
            path = Path(folder, name)
            is_annotation = (
                path.suffix.lower() in ANNOTATION_SUFFIXES
                and name[0] != "."
                and name not in OWN_NAMES
                and path.is_file()
            )
            if is_annotation or name in outside:
                yield path.relative_to(root).as_posix()


def unlisted_videos(root: Path, jobs: Iterable[Job]) -> int:
    """How many videos lie in the tree that no split lists; they are not copied."""
    listed = {job.video for job in jobs}
    found = 0
    for folder, folders, files in os.walk(root):
        folders[:] = [f for f in folders if f[0] != "." and f not in FRAME_FOLDERS]
        names = (Path(os.path.relpath(os.path.join(folder, f), root)).as_posix() for f in files)
        found += sum(is_video(name) and name not in listed for name in names)
    return found
