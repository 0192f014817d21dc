"""Check every video of a data set: missing, unreadable, truncated, too short, of a wrong class.

  vivit check data=kinetics400 data.root=/data/k400
  vivit check data=folder data.root=/data/mine --quick
  vivit check data=ssv2 data.root=/data/ssv2 --workers 32 --json > summary.json

Decodes each video in several processes. One that hangs or kills its process costs nothing else.
The status of each video is kept in vivit_check.jsonl in the data's root, or in --output. Stop when
you like: the next call checks only what is new or changed. Training then leaves out videos that
cannot be used, and evaluation reports beside its scores what was found. The exit code is 1 if some
video cannot be used.
"""

import argparse
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from vivit_train.commands.videos import (
    STOPPED,
    add_limits,
    all_videos,
    check_limits,
    cut_short,
    work_through,
)
from vivit_train.io.files import user_path
from vivit_train.io.progress import in_words
from vivit_train.io.terminal import say, say_json

if TYPE_CHECKING:
    from vivit_train.data.check import Job
    from vivit_train.data.datamodule import VideoDataModule
    from vivit_train.data.records import Records
    from vivit_train.data.verdicts import Verdict, VerdictFile

# Keys that this command uses; see `is_used`.
USES = (
    "experiment", "data", "-data.batch_size", "-data.eval_views", "-data.val_views",
    "-data.frame_order", "-data.max_bad_fraction", "-data.decode_timeout", "-data.verdicts",
    "model.num_frames",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for train.py")
    parser.add_argument(
        "--quick", action="store_true", help="decode only the first, middle and last frames"
    )
    add_limits(parser)
    parser.add_argument(
        "--output", type=user_path, metavar="FILE", help="where to write the status of each video"
    )
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Checks, and prints the summary."""
    check_limits(arguments)
    data = all_videos(arguments.overrides)

    from vivit_train.data.check import check, jobs_of, jobs_to_do
    from vivit_train.data.verdicts import FILE_NAME, VerdictFile

    data.setup()
    file = VerdictFile(arguments.output or data.root / FILE_NAME)
    jobs = jobs_of(data.records.values(), data.root)
    decoder = data.sampling.decoder
    to_do = jobs_to_do(jobs.values(), file.verdicts, arguments.quick, decoder)
    verdicts = check(
        to_do, decoder=decoder, quick=arguments.quick, timeout=arguments.timeout,
        num_workers=arguments.workers or max(1, data.num_workers),
    )  # fmt: skip

    def done() -> str:
        left = jobs_to_do(to_do, file.verdicts, arguments.quick, decoder)
        return f"{len(jobs) - len(left)} of {len(jobs)} videos have been checked, see {file.path}"

    start = time.perf_counter()
    with closing(file):
        if not work_through(verdicts, len(to_do), file.add, done):
            return STOPPED
    summary = summarise(data, jobs.values(), file)
    summary |= {"checked_now": len(to_do), "seconds": round(time.perf_counter() - start, 3)}
    if arguments.json:
        say_json(summary)
    else:
        for line in summary_lines(summary):
            say(line)
    return 1 if summary["unusable"] else 0


def summarise(
    data: "VideoDataModule", jobs: "Iterable[Job]", file: "VerdictFile"
) -> dict[str, Any]:
    """What was found, as one JSON object."""
    from vivit_train.data.check import class_conflicts
    from vivit_train.data.rates import by_length, by_rate
    from vivit_train.data.verdicts import count_verdicts
    from vivit_train.preflight.recordings import of_the_recordings

    verdicts = file.verdicts
    of_videos = {job.video: verdicts[job.video] for job in jobs}
    timed = [v for v in of_videos.values() if v.usable() and v.fps > 0]
    splits = {data.splits[role]: records for role, records in data.records.items()}
    bad = [
        {"video": name, "verdict": v.verdict, "reason": v.reason, "usable": v.usable()}
        for name, v in of_videos.items()
        if v.verdict != "ok"
    ]
    return {
        "data": data.name,
        "root": str(data.root),
        "verdicts": str(file.path),
        "videos": len(of_videos),
        "counts": count_verdicts(of_videos.values(), data.sampling),
        "unusable": sum(not row["usable"] for row in bad),
        "splits": {
            split: summarise_split(data, records, verdicts) for split, records in splits.items()
        },
        "bad": bad,
        "wrong_class": class_conflicts(splits, data.class_names, data.root),
        "in_training_and_evaluation": shared_videos(data),
        "lengths": by_length(verdict.frames / verdict.fps for verdict in timed),
        "rates": by_rate(verdict.fps for verdict in timed),
        "other_rates": videos_of_other_rates(data, splits, verdicts),
        "advice": of_the_recordings(data),
    }


def summarise_split(
    data: "VideoDataModule", records: "Records", verdicts: "dict[str, Verdict]"
) -> dict[str, Any]:
    """Number, fingerprint and counts of one split, the counts also of each class."""
    from vivit_train.data.verdicts import count_verdicts, video_name

    rows = [verdicts.get(video_name(records, row, data.root)) for row in range(len(records))]
    by_class: dict[str, list[Verdict | None]] = {}
    for row, verdict in enumerate(rows):
        for label in records.classes(row):
            by_class.setdefault(data.class_names[label], []).append(verdict)
    return {
        "videos": len(records),
        "fingerprint": records.fingerprint(data.class_names),
        "counts": count_verdicts(rows, data.sampling),
        "classes": {
            name: count_verdicts(by_class[name], data.sampling) for name in sorted(by_class)
        },
    }


def videos_of_other_rates(
    data: "VideoDataModule", splits: "dict[str, Records]", verdicts: "dict[str, Verdict]"
) -> dict[str, str]:
    """A line for each split with videos whose frame rate is not that of the training videos."""
    from statistics import median

    from vivit_train.data.rates import other_rates
    from vivit_train.data.verdicts import video_name

    def rates(records: "Records") -> dict[str, float]:
        names = (video_name(records, row, data.root) for row in range(len(records)))
        return {name: verdicts[name].fps for name in names if verdicts[name].fps > 0}

    trained = rates(data.records["train"]).values()
    usual = median(trained) if trained else None
    told = {
        split: other_rates(rates(records), usual, data.sampling, "videos")
        for split, records in splits.items()
    }
    return {split: words for split, words in told.items() if words}


def shared_videos(data: "VideoDataModule") -> list[str]:
    """Videos that are trained on and evaluated on as well."""
    from vivit_train.data.check import jobs_of

    train = jobs_of([data.records["train"]], data.root)
    others = [
        records
        for role, records in data.records.items()
        if data.splits[role] != data.splits["train"]
    ]
    return [name for name in jobs_of(others, data.root) if name in train]


def summary_lines(summary: dict[str, Any]) -> Iterator[str]:
    """The splits, the classes that lack videos, and the videos that are not ok."""
    from vivit_train.data.rates import bars

    for split, part in summary["splits"].items():
        yield f"{split}: {part['videos']} videos, fingerprint {part['fingerprint']}"
        yield f"  {in_words(part['counts'])}"
        yield from cut_short(
            f"    {name}: {in_words(counts)}"
            for name, counts in part["classes"].items()
            if set(counts) - {"ok"}
        )
    yield from cut_short(class_table(summary["splits"]))
    for name in ("lengths", "rates"):
        if summary[name]:
            yield f"{name} of {sum(summary[name].values())} videos:"
            yield from bars(summary[name])
    yield from (f"{split}: {words}" for split, words in summary["other_rates"].items())
    yield from cut_short(
        f"{row['verdict']:<10}  {row['video']}: {row['reason']}{'' if row['usable'] else '  *'}"
        for row in sorted(summary["bad"], key=lambda row: row["verdict"])
    )
    yield from cut_short(
        f"wrong class?  {row['video']}: {' or '.join(row['classes'])}"
        for row in summary["wrong_class"]
    )
    shared = summary["in_training_and_evaluation"]
    if shared:
        yield f"{len(shared)} videos are both trained and evaluated on, e.g. {shared[0]}"
    yield from (f"advice: {line}" for line in summary["advice"])
    if summary["unusable"]:
        yield f"{summary['unusable']} cannot be used (*): training leaves them out"
    yield f"{summary['videos']} videos, {summary['checked_now']} of them checked now"
    yield summary["verdicts"]


def class_table(splits: dict[str, Any]) -> Iterator[str]:
    """Videos of each class in each split: a line per class, below one of headings."""
    names = sorted({name for part in splits.values() for name in part["classes"]})
    rows = [
        (name, *(sum(part["classes"].get(name, {}).values()) for part in splits.values()))
        for name in names
    ]
    for name, *counts in [("class", *splits), *rows]:
        padded = (f"{count:>{max(8, len(split) + 2)}}" for count, split in zip(counts, splits))
        yield f"{name:<{max(map(len, [*names, 'class']))}}{''.join(padded)}"
