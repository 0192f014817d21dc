"""Copy a data set into one that decodes several times faster, with the same names and frames.

  vivit prepare data=kinetics400 data.root=/data/k400 --output /data/k400_320
  vivit prepare data=folder data.root=/data/mine --output /data/mine_256 --short-edge 256

Each video that a split lists is re-encoded: smaller, H.264 with a key frame every few frames, no
sound, upright. Annotations are copied, so data.root=DIR is all that changes in a training command.
Stop when you like: the next call does only what is missing or changed. Broken videos are copied as
they are and listed at the end. Links that lead out of data.root are listed and not copied. The exit
code is 1 if there are broken videos or such links.
"""

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vivit_train.commands.videos import (
    STOPPED,
    add_limits,
    all_videos,
    check_limits,
    cut_short,
    work_through,
)
from vivit_train.errors import UserError
from vivit_train.io.files import user_path
from vivit_train.io.progress import in_words
from vivit_train.io.terminal import say

if TYPE_CHECKING:
    from vivit_train.data.datamodule import VideoDataModule
    from vivit_train.data.manifest import Copy

# Keys that this command uses; see `is_used`.
USES = (
    "experiment", "data", "-data.clip_frames", "-data.frame_stride", "-data.frame_rate",
    "-data.clip_seconds", "-data.sampling", "-data.batch_size",
    "-data.eval_views", "-data.val_views", "-data.frame_order", "-data.decoder",
    "-data.max_bad_fraction", "-data.decode_timeout", "-data.verdicts", "processor",
    "model.image_size",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for train.py")
    parser.add_argument(
        "--output", type=user_path, required=True, metavar="DIR", help="the copy's root"
    )
    parser.add_argument(
        "--short-edge", type=int, default=320, metavar="PIXELS",
        help="of the copies; smaller videos keep their size (default 320)",
    )  # fmt: skip
    parser.add_argument(
        "--keyframe-interval", type=int, default=16, metavar="FRAMES",
        help="at most, from one key frame to the next (default 16)",
    )  # fmt: skip
    parser.add_argument(
        "--crf", type=int, default=20, help="x264's quality, 0 (lossless) to 51 (default 20)"
    )
    add_limits(parser)


def run(arguments: argparse.Namespace) -> int:
    """Copies, and prints what was done."""
    check_options(arguments)
    data = all_videos(arguments.overrides)

    from vivit_train.data.manifest import FILE_NAME, Manifest
    from vivit_train.data.prepare import (
        check_folders,
        copy_annotations,
        jobs_of,
        jobs_to_do,
        prepare,
        unlisted_videos,
    )
    from vivit_train.video.write import Encoding

    check_short_edge(arguments.short_edge, data)
    check_folders(data.root, arguments.output)
    data.setup()
    root, output = data.root.absolute(), arguments.output.absolute()
    jobs = jobs_of(data.records.values(), root, output)
    encoding = Encoding(arguments.short_edge, arguments.keyframe_interval, arguments.crf)
    with locked(output):
        settings = {"root": str(root.resolve()), **encoding._asdict()}
        manifest = Manifest(output / FILE_NAME, settings)
        to_do = jobs_to_do(jobs, manifest.copies)
        workers = arguments.workers or max(1, data.num_workers)
        copies = prepare(to_do, output, encoding, workers, arguments.timeout)

        def done() -> str:
            left = jobs_to_do(to_do, manifest.copies)
            return f"{len(jobs) - len(left)} of {len(jobs)} videos are done"

        with closing(manifest):
            annotations, outside = copy_annotations(root, output)
            if not work_through(copies, len(to_do), manifest.add, done):
                return STOPPED
    copied = [manifest.copies[job.video] for job in jobs]
    unlisted = unlisted_videos(root, jobs)
    for line in summary_lines(copied, len(to_do), annotations, unlisted, outside, manifest.path):
        say(line)
    say(output)
    return 1 if outside or any(copy.verdict != "ok" for copy in copied) else 0


def check_options(arguments: argparse.Namespace) -> None:
    """Refuses numbers that are out of range.

    Raises:
        UserError: If one is.
    """
    check_limits(arguments)
    if arguments.short_edge < 2 or arguments.short_edge % 2:
        raise UserError(
            f"--short-edge must be even, as the edges of H.264 are, got {arguments.short_edge}"
        )
    if arguments.keyframe_interval < 1:
        raise UserError(
            f"--keyframe-interval must be 1 frame or more, got {arguments.keyframe_interval}"
        )
    if not 0 <= arguments.crf <= 51:
        raise UserError(f"--crf must be from 0 (lossless) to 51, got {arguments.crf}")


def check_short_edge(short_edge: int, data: "VideoDataModule") -> None:
    """Refuses copies that are smaller than what the processor makes of them.

    Raises:
        UserError: If they would be.
    """
    processor = data.processor
    if processor.do_resize:
        needed = processor.size if isinstance(processor.size, int) else min(processor.size)
    else:
        needed = min(processor.crop_size)
    if short_edge < needed:
        raise UserError(
            f"--short-edge {short_edge} is below the {needed} pixels that this configuration "
            f"resizes or crops videos to: name {needed + needed % 2} or more"
        )


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Within, no other call writes to the same folder.

    Raises:
        UserError: If one does already, or the folder cannot be made.
    """
    from filelock import FileLock, Timeout

    from vivit_train.data.manifest import cannot_write

    lock = FileLock(output / ".lock")
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"another vivit prepare is writing to {output}: wait for it, or name another --output"
        ) from None
    except OSError as error:
        raise cannot_write(output, error) from error
    try:
        yield
    finally:
        lock.release()


def summary_lines(
    copies: "Iterable[Copy]",
    done_now: int,
    annotations: int,
    unlisted: int,
    outside: Sequence[str],
    manifest: Path,
) -> Iterator[str]:
    """What the copy holds: the broken videos, counts and bytes."""
    copies = list(copies)
    broken = [copy for copy in copies if copy.verdict != "ok"]
    told = [
        f"{copy.verdict:<10}  {copy.video}: {copy.reason}"
        for copy in sorted(broken, key=lambda copy: copy.verdict)
    ]
    yield from cut_short(told, manifest)
    yield from (f"outside     {name}: a link out of data.root" for name in outside)
    yield in_words(Counter(copy.verdict for copy in copies))
    num_outside = sum(copy.verdict == "outside" for copy in copies)
    if len(broken) > num_outside:
        yield f"{len(broken) - num_outside} are copied unchanged, or missing as they were"
    if num_outside or outside:
        yield (
            "what lies outside of data.root was not copied: put it there, or set data.root to a "
            "folder that holds all"
        )
    if unlisted:
        yield f"{unlisted} videos that no split lists were left out"
    before = sum(copy.size or 0 for copy in copies)
    after = sum(copy.copy_size or 0 for copy in copies)
    yield f"{before / 1e6:.1f} MB before, {after / 1e6:.1f} MB after"
    yield f"{len(copies)} videos, {done_now} of them and {annotations} annotations copied now"
