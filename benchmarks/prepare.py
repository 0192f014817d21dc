"""Clips read per second from original videos and from copies that `vivit prepare` makes.

    python benchmarks/prepare.py                                # makes its own 10 s videos
    python benchmarks/prepare.py --videos /data/k400/val/*.mp4 --clips 100

A clip is 32 frames at stride 2 from a random place, as in training: the file is opened, the frames
are decoded by one thread and the file is closed. Original and copies are read in turns, the same
frames of each. Times are medians after a warm-up round. Copies are made with the command's
defaults, and with other intervals of key frames for comparison.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measure import Arguments, head, write_report
from rich.console import Console
from rich.table import Table

from vivit_train.errors import UserError
from vivit_train.video.decode import VideoReader
from vivit_train.video.sampling import random_window
from vivit_train.video.write import Encoding, reencode_video, write_video

CLIP_FRAMES, FRAME_STRIDE = 32, 2
DEFAULT = Encoding(short_edge=320, keyframe_interval=16, crf=20)
SIZES = {"1080p": (1080, 1920), "720p": (720, 1280), "256p": (256, 340)}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    with tempfile.TemporaryDirectory() as folder:
        videos = args.videos or make_videos(Path(folder), args.sizes, args.seconds)
        results = [measure(video, Path(folder), args) for video in videos]
    settings = {
        "clip_frames": CLIP_FRAMES,
        "frame_stride": FRAME_STRIDE,
        "clips": args.clips,
        **DEFAULT._asdict(),
    }
    report = head(settings, "cpu", "av", "vivit-train") | {"results": results}
    print_report(report)
    write_report(report, args.output)
    return report


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Arguments(__doc__, "prepare")
    parser.add_argument("--videos", nargs="+", type=Path, metavar="FILE", help="originals")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["1080p", "720p", "256p"])
    parser.add_argument("--seconds", type=float, default=10, help="of the videos that it makes")
    parser.add_argument("--clips", type=int, default=30, help="of each video, after the warm-up")
    parser.add_argument(
        "--keyframe-intervals", nargs="*", type=int, default=[4, 8, 32, 64], metavar="FRAMES",
        help="compared with the default",
    )  # fmt: skip
    return parser.parse(argv)


def make_videos(folder: Path, sizes: Sequence[str], seconds: float) -> list[Path]:
    """Textured, moving videos at 30 fps, by x264's defaults: a key frame every 250 frames."""
    paths = []
    for size in sizes:
        print(f"making {size}", file=sys.stderr, flush=True)
        frames = render(round(30 * seconds), *SIZES[size])
        paths.append(folder / f"{size}.mp4")
        write_video(paths[-1], frames)
    return paths


def render(num_frames: int, height: int, width: int) -> np.ndarray:
    """A textured background that pans under a patch that goes the other way: [T, H, W, 3]."""
    rng = np.random.default_rng(0)
    layers = [
        rng.integers(0, 256, (-(-2 * height // cell), -(-2 * width // cell), 3)).repeat(
            cell, axis=0
        ).repeat(cell, axis=1)[: 2 * height, : 2 * width]
        for cell in (64, 16, 4)
    ]  # fmt: skip
    texture = (np.sum([w * x for w, x in zip((0.6, 0.3, 0.1), layers)], axis=0)).astype(np.uint8)
    patch = texture[: height // 3, : width // 3]
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for t in range(num_frames):
        down, right = (3 * t) % height, (5 * t) % width
        frames[t] = texture[down : down + height, right : right + width]
        top, left = (2 * t) % (height - height // 3), (7 * t) % (width - width // 3)
        frames[t, top : top + height // 3, left : left + width // 3] = patch
    return frames


def measure(video: Path, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One line of the table for the original and each of its copies."""
    print(f"reading {video}", file=sys.stderr, flush=True)
    paths, preparing = {"original": video}, {}
    for interval in [DEFAULT.keyframe_interval, *args.keyframe_intervals]:
        name = f"prepared, {interval}"
        paths[name] = folder / f"{video.stem}_{interval}.mp4"
        start = time.perf_counter()
        reencode_video(video, paths[name], DEFAULT._replace(keyframe_interval=interval))
        preparing[name] = time.perf_counter() - start
    rng = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    with VideoReader(video) as reader:
        num_frames = reader.num_frames
    for clip in range(args.clips + 1):
        indices = random_window(num_frames, CLIP_FRAMES, FRAME_STRIDE, rng)
        # Every other round backwards, so that none always follows the same one.
        for name in paths if clip % 2 else reversed(paths):
            seconds[name].append(read_clip(paths[name], indices))
    medians = {name: statistics.median(s[1:]) for name, s in seconds.items()}
    return {
        "video": video.name,
        "variants": [
            {
                "name": name,
                "megabytes": path.stat().st_size / 1e6,
                "seconds": seconds[name][1:],
                "clips_per_second": 1 / medians[name],
                "speed_ratio": medians["original"] / medians[name],
                "preparing_seconds": preparing.get(name),
            }
            for name, path in paths.items()
        ],
    }


def read_clip(path: Path, indices: np.ndarray) -> float:
    start = time.perf_counter()
    with VideoReader(path) as video:
        video.read(indices)
    return time.perf_counter() - start


def print_report(report: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("", "clips/s", "ratio", "MB", "s to prepare"):
        table.add_column(column, justify="right" if column else "left")
    for result in report["results"]:
        for variant in result["variants"]:
            preparing = variant["preparing_seconds"]
            table.add_row(
                f"{result['video']} {variant['name']}",
                f"{variant['clips_per_second']:.1f}",
                f"{variant['speed_ratio']:.2f}x",
                f"{variant['megabytes']:.2f}",
                f"{preparing:.1f}" if preparing else "",
            )
    settings = report["settings"]
    console = Console(markup=False, highlight=False)
    console.print(
        f"clips of {settings['clip_frames']} frames, stride {settings['frame_stride']}, one "
        f"thread, medians of {settings['clips']}; prepared: short edge {settings['short_edge']}, "
        f"crf {settings['crf']}, frames between key frames as named\n"
    )
    console.print(table)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
