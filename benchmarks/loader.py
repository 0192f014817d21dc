"""Clips per second of the training loader beside a bare decode loop on as many processes.

    python benchmarks/loader.py                                  # 0 (one process), 1 and 2 workers
    python benchmarks/loader.py --workers 8 --clips 1024 --videos /data/k400/train/abseiling

Both decode the same frames of the same videos with `VideoReader`: the loop does nothing else,
each process taking its share; the loader is what training uses (data set, guarded processes,
workers, collation), with its workers running already. They take turns; figures are medians. Of
the loader nothing touches the frames, as of the loop.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from measure import Arguments, head, write_report
from rich.console import Console
from rich.table import Table

from vivit_train.data.dataset import Sampling, TrainDataset
from vivit_train.data.guarded import GuardedDataset
from vivit_train.data.loader import LazyLoader, available_cores, build_loader
from vivit_train.data.records import Records, list_videos
from vivit_train.data.sampler import Key
from vivit_train.video.write import write_video

WHO = ("loader", "loop")
HEIGHT, WIDTH, FPS = 256, 340, 30  # of Kinetics as most people have it
DECODE_TIMEOUT = 60.0  # seconds: the default of data.decode_timeout


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = args.videos or write_videos(Path(folder), args.seconds)
        dataset = make_dataset(root, args)
        results = [measure(dataset, num_workers, args) for num_workers in args.workers]
    settings = {
        name: getattr(args, name)
        for name in ("clips", "batch", "clip_frames", "frame_stride", "repeats")
    } | {"videos": str(args.videos) if args.videos else f"generated, {args.seconds} s"}
    found = {"cores": available_cores(), "results": results}
    report = head(settings, "cpu", "torch", "av", "vivit-train") | found
    print_report(report)
    write_report(report, args.output)
    return report


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Arguments(__doc__, "loader")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="processes")
    parser.add_argument("--videos", type=Path, help="a folder of videos; default: generated ones")
    parser.add_argument("--seconds", type=float, default=10, help="length of a generated video")
    parser.add_argument("--clips", type=int, default=128, help="clips per round")
    parser.add_argument("--batch", type=int, default=8, help="clips of a batch")
    parser.add_argument("--clip-frames", type=int, default=32)
    parser.add_argument("--frame-stride", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="rounds after the warm-up")
    args = parser.parse(argv)
    for num_workers in args.workers:
        share = args.batch * max(1, num_workers)
        if args.clips % share:
            parser.error(
                f"--clips {args.clips} must be a multiple of {share} (--batch {args.batch} x "
                f"{max(1, num_workers)} processes), or some would have more to do than others"
            )
    return args


def write_videos(folder: Path, seconds: float, count: int = 4) -> Path:
    """Textures that move, with an object before them and a little noise."""
    for number in range(count):
        rng = np.random.default_rng(number)
        scene = sum(
            texture(rng, 2 * HEIGHT, 2 * WIDTH, cell) * share
            for cell, share in ((48, 0.6), (12, 0.3), (3, 0.1))
        )
        thing = texture(rng, 64, 64, 8)
        frames = np.empty((round(seconds * FPS), HEIGHT, WIDTH, 3), np.uint8)
        for t, frame in enumerate(frames):
            y, x = position(t / 40 + number, t / 55, HEIGHT, WIDTH)
            image = scene[y : y + HEIGHT, x : x + WIDTH].copy()
            y, x = position(t / 11, t / 17, HEIGHT - 64, WIDTH - 64)
            image[y : y + 64, x : x + 64] = thing
            frame[:] = (255 * image + rng.normal(0, 2, (HEIGHT, WIDTH, 1))).clip(0, 255)
        write_video(folder / f"{number}.mp4", frames, fps=FPS)
    return folder


def texture(rng: np.random.Generator, height: int, width: int, cell: int) -> np.ndarray:
    """Smooth colours in [0, 1], ``[height, width, 3]``, that change every ``cell`` pixels."""
    small = rng.random((1, 3, height // cell + 2, width // cell + 2), dtype=np.float32)
    large = F.interpolate(torch.from_numpy(small), size=(height, width), mode="bilinear")
    return large[0].permute(1, 2, 0).numpy()


def position(y_phase: float, x_phase: float, height: int, width: int) -> tuple[int, int]:
    """Where something that swings within a height and width is."""
    return int(height / 2 * (1 + np.sin(y_phase))), int(width / 2 * (1 + np.cos(x_phase)))


def make_dataset(root: Path, args: argparse.Namespace) -> TrainDataset:
    names = list(list_videos(root, depth=2))
    if not names:
        raise SystemExit(f"no video under {root}")
    paths = [names[clip % len(names)] for clip in range(args.clips)]
    records = Records(root, paths, [0] * args.clips)
    return TrainDataset(records, Sampling(args.clip_frames, args.frame_stride), seed=0)


def measure(dataset: TrainDataset, num_workers: int, args: argparse.Namespace) -> dict[str, Any]:
    """One line of the table."""
    keys = [Key(row, 0) for row in range(args.clips)]
    guarded = GuardedDataset(dataset, DECODE_TIMEOUT)
    loader = build_loader(guarded, keys, args.batch, num_workers)
    seconds: dict[str, list[float]] = {who: [] for who in WHO}
    for round_ in range(args.repeats + 1):
        print(f"{num_workers} workers: round {round_} of {args.repeats}", file=sys.stderr)
        for who in WHO if round_ % 2 else reversed(WHO):
            taken = (
                run_loader(loader, args.clips)
                if who == "loader"
                else run_loop(dataset, keys, num_workers)
            )
            seconds[who].append(taken)
    # Round 0 warms up: workers start, files come into memory.
    rates = {who: args.clips / statistics.median(seconds[who][1:]) for who in WHO}
    return {
        "workers": num_workers,
        "seconds": {who: seconds[who][1:] for who in WHO},
        "clips_per_second": rates,
        "ratio": rates["loader"] / rates["loop"],
    }


def run_loader(loader: LazyLoader, num_clips: int) -> float:
    start = time.perf_counter()
    seen = sum(len(batch.frames) for batch in loader)
    assert seen == num_clips
    return time.perf_counter() - start


def run_loop(dataset: TrainDataset, keys: Sequence[Key], num_processes: int) -> float:
    """The time from the moment at which all processes are there to the end of the last."""
    if num_processes == 0:
        start = time.perf_counter()
        decode(dataset, keys)
        return time.perf_counter() - start
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(num_processes + 1)

    def work(share: Sequence[Key]) -> None:
        barrier.wait()
        decode(dataset, share)

    processes = [
        context.Process(target=work, args=(keys[number::num_processes],))
        for number in range(num_processes)
    ]
    for process in processes:
        process.start()
    barrier.wait()
    start = time.perf_counter()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return time.perf_counter() - start


def decode(dataset: TrainDataset, keys: Sequence[Key]) -> None:
    for key in keys:
        dataset[key]  # opens, reads, and closes: the frames are dropped


def print_report(report: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("workers", "loader, clips/s", "decode loop, clips/s", "ratio"):
        table.add_column(column, justify="right")
    for line in report["results"]:
        rates = [f"{line['clips_per_second'][who]:.1f}" for who in WHO]
        table.add_row(str(line["workers"]), *rates, f"{line['ratio']:.2f}")
    settings = report["settings"]
    console = Console(markup=False, highlight=False)
    console.print(
        f"{settings['clip_frames']} frames at stride {settings['frame_stride']}, videos: "
        f"{settings['videos']}; {report['cores']} cores, medians of {settings['repeats']}\n"
    )
    console.print(table)


if __name__ == "__main__":
    main()
