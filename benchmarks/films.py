"""Timelines of films: how much of the time is right, and what a long film costs.

    python train.py run_dir=runs/demo
    python benchmarks/films.py --pretrained runs/demo

Accuracy: films of 20 demo clips of known motions with still pictures between them, as mp4, mkv and
mp4 without the frames that repeat. A moment of motion is right if the timeline names it, one of a
pause if it has no class; the shares are those of all the time, of motion, and of pauses. Cost:
`vivit predict --window` of a film of 320x240 with 25 frames a second, beside decoding it alone and
the model alone, and the peak memory of both its processes, for a short and a long film.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from measure import Arguments, head, write_report

from vivit_train import load
from vivit_train.data.demo_clips import CLASS_NAMES, render
from vivit_train.video.decode import VideoReader
from vivit_train.video.write import _encode, write_video

FPS, CLIPS = 25, 20
TICK = Fraction(1, 1000)
WINDOW = 0.64  # seconds that a clip of the demo's model takes
HEIGHT, WIDTH = 240, 320


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    report = head({"seeds": args.seeds, "minutes": args.minutes}, "cpu", "torch", "av")
    report |= {"accuracy": [], "cost": []}
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            for every in args.every:
                row = accuracy(args.pretrained, Path(folder), seed, every)
                right = "; ".join(
                    f"{name} " + ", ".join(f"{of} {share:.3f}" for of, share in shares.items())
                    for name, shares in row["right"].items()
                )
                print(
                    f"seed {seed}, every {every:g} s: {right}; agree {row['agree']:.4f}", flush=True
                )
                report["accuracy"].append(row)
                write_report(report, args.output)
        for minutes in args.minutes:
            row = cost(args.pretrained, Path(folder), minutes)
            times = ", ".join(f"{name} {row[name]:.1f} s" for name in COSTS)
            memory = f"peak {row['memory_mb']} MB, decoder {row['decoder_mb']} MB"
            print(f"{minutes} minutes: {times}; share {row['share']:.2f}; {memory}", flush=True)
            report["cost"].append(row)
            write_report(report, args.output)
    return report


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Arguments(__doc__, "films")
    parser.add_argument("--pretrained", required=True, help="a run of the demo, or its checkpoint")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--every", type=float, nargs="+", default=[0.04, 0.16], help="seconds")
    parser.add_argument("--minutes", type=int, nargs="*", default=[5, 60])
    return parser.parse_args(argv)


def accuracy(run: str, folder: Path, seed: int, every: float) -> dict[str, Any]:
    """Shares of the time for which a timeline is right, by format."""
    frames, motions = content(seed)
    said = {}
    for name, path in write_films(folder, seed, frames).items():
        rows = timeline(run, path, every)[0]
        said[name] = np.array([shown(rows, (i + 0.5) / FPS) for i in range(len(frames))])
    moves = np.array(motions) != ""
    parts = {"all": moves | ~moves, "motion": moves, "pauses": ~moves}
    first, *others = said.values()
    return {
        "seed": seed,
        "every": every,
        "seconds": len(frames) / FPS,
        "right": {
            name: {of: float((s == motions)[part].mean()) for of, part in parts.items()}
            for name, s in said.items()
        },
        "agree": float(np.mean([first == other for other in others])),
    }


def content(seed: int) -> tuple[np.ndarray, list[str]]:
    """Frames uint8 ``[N, H, W, 3]``, and what moves in each; an empty text in a pause."""
    rng = np.random.default_rng([seed, CLIPS])
    order = [CLASS_NAMES[i % len(CLASS_NAMES)] for i in rng.permutation(3 * len(CLASS_NAMES))]
    frames: list[np.ndarray] = []
    motions: list[str] = []
    for name in order[:CLIPS]:
        clip = render(name, rng)
        still = round(FPS * rng.uniform(0.6, 2.0))
        frames += [*clip, *[clip[-1]] * still]
        motions += [name] * len(clip) + [""] * still
    return np.stack(frames), motions


def write_films(folder: Path, seed: int, frames: np.ndarray) -> dict[str, Path]:
    """The same content as mp4, as mkv, and with a frame only where the picture changes."""
    changes = [i for i in range(len(frames)) if i == 0 or (frames[i] != frames[i - 1]).any()]
    every = list(range(len(frames)))
    # The last frame says how long the film is.
    kept = {"film.mp4": every, "film.mkv": every, "variable.mp4": sorted({*changes, every[-1]})}
    paths = {}
    for name, numbers in kept.items():
        paths[name] = folder / f"{seed}_{name}"
        pictures = (
            (1000 * i // FPS, av.VideoFrame.from_ndarray(frames[i], format="rgb24"))
            for i in numbers
        )
        _encode(paths[name], pictures, TICK, Fraction(FPS), "libx264", {"crf": "12"})
    return paths


def timeline(run: str, film: Path, every: float) -> tuple[list[dict[str, str]], float, int, int]:
    """The rows that `vivit predict` writes; its seconds; MB of the command and of its decoder."""
    rows = film.with_suffix(".csv")
    rows.unlink(missing_ok=True)
    words = [str(film), "--window", f"{WINDOW}", "--every", f"{every}", "--timeline", str(rows)]
    program = (
        "import resource, sys\nfrom vivit_train.__main__ import main\n"
        "try:\n    main(sys.argv[1:])\nfinally:\n"
        "    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):\n"
        "        print('kB', resource.getrusage(who).ru_maxrss)"
    )
    start = time.perf_counter()
    out = subprocess.run(
        [sys.executable, "-c", program, "predict", run, *words],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    seconds = time.perf_counter() - start
    own, decoder = (int(line.split()[1]) // 1024 for line in out.splitlines()[-2:])
    with rows.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file)), seconds, own, decoder


def shown(rows: list[dict[str, str]], moment: float) -> str:
    """The class at a moment, in seconds."""
    for row in rows:
        if float(row["start"]) <= moment < float(row["end"]):
            return row["class"]
    return ""


# What the cost of a film is compared with, and the command itself.
COSTS = ("decode", "model", "start", "command")


def cost(run: str, folder: Path, minutes: int) -> dict[str, Any]:
    """Seconds of the command, and of what it cannot do without, one after the other."""
    film = long_film(folder, minutes)
    every = 1.0
    start = time.perf_counter()
    timeline(run, long_film(folder, 0), every)  # of a second: the start of Python and the model
    begun = time.perf_counter() - start
    decode = decoding(film)
    model = forward(run, round(60 * minutes / every))
    _, command, own, decoder = timeline(run, film, every)
    return {
        "minutes": minutes, "every": every, "decode": decode, "model": model, "start": begun,
        "command": command, "share": (command - begun) / (decode + model), "memory_mb": own,
        "decoder_mb": decoder,
    }  # fmt: skip


def decoding(film: Path) -> float:
    """Seconds in which all frames are decoded to RGB and dropped."""
    start = time.perf_counter()
    with VideoReader(str(film)) as video:
        for _ in video.stream(np.arange(len(video.shown_at) - 1)):
            pass
    return time.perf_counter() - start


def forward(run: str, windows: int) -> float:
    """Seconds that the model takes for so many clips, 8 at a time, of frames of the film's size."""
    classifier = load(run)
    frames = classifier.model.arguments.num_frames
    clips = np.zeros((8, frames, HEIGHT, WIDTH, 3), np.uint8)
    classifier(clips)
    start = time.perf_counter()
    for _ in range(min(windows, 400) // 8):
        classifier(clips)
    return (time.perf_counter() - start) * windows / (min(windows, 400) // 8 * 8)


def long_film(folder: Path, minutes: int) -> Path:
    """Textures that move; a minute is encoded once and repeated without encoding. 0: a second."""
    path, minute = folder / f"{minutes}_minutes.mp4", folder / "minute.mp4"
    if path.exists():
        return path
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 256, (45, 60, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    places = [(i % 400, i % 600) for i in range(60 * FPS if minutes else FPS)]
    frames = np.stack([scene[y : y + HEIGHT, x : x + WIDTH] for y, x in places])
    if not minutes:
        write_video(path, frames, FPS)
        return path
    if not minute.exists():
        write_video(minute, frames, FPS)
    with av.open(str(path), "w") as out:
        stream: Any = None
        for number in range(minutes):
            with av.open(str(minute)) as source:
                video = source.streams.video[0]
                stream = stream or out.add_stream_from_template(video)
                shift = round(60 * number / video.time_base)
                for packet in source.demux(video):
                    if packet.dts is not None:
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        packet.stream = stream
                        out.mux(packet)
    return path


if __name__ == "__main__":
    main()
