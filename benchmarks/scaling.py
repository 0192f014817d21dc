"""How time and memory grow: the paper's four models, frames, resolution, fewer tokens.

    python benchmarks/scaling.py --layers 1 --points models frames=8,32,128   # CPU, minutes
    python benchmarks/scaling.py --device cuda --precision bf16 --repeats 20

ViViT-B alone, at 32x224x224 but for what is varied: ``models`` 1 to 4 beside each other; ``frames``
and ``side``, with the exponent a of time ~ tokens^a by least squares in logarithms, and of memory;
in training ``token_drop`` and activation ``checkpointing``. Points of a kind take turns in one
process beside a large matrix product (MFU is the share of its rate) and a large copy; times are
medians after warm-up rounds. Memory is what torch allocates in a fresh process for each point; the
exponent is of what one step needs beyond weights, optimiser state and clips, which stay. What does
not fit is left out. With matplotlib installed, two plots are drawn beside the JSON file.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from measure import (
    PRECISIONS,
    Arguments,
    Machine,
    cell,
    head,
    in_fresh_process,
    in_turns,
    machine_line,
    peak_memory,
    ratio,
    set_tf32,
    write_report,
)
from rich.console import Console
from rich.table import Table
from steps import (
    PHASES,
    add_size,
    build_ours,
    describe,
    flops,
    make_step,
    random_clips,
    sdpa_backend,
    size_of,
)

from vivit_train.model.arguments import ATTENTIONS
from vivit_train.model.vivit import ViViT

KINDS: dict[str, list[Any]] = {
    "models": list(ATTENTIONS),
    "frames": [8, 16, 32, 64, 128],
    "side": [224, 288, 336, 384, 448],
    "token_drop": [0.0, 0.25, 0.5, 0.75],
    "checkpointing": ["off", "on"],
}
GROWING = ("frames", "side")
ONLY_TRAINING = ("token_drop", "checkpointing")


class Point(NamedTuple):
    """One thing that is measured: ViViT's arguments, and what of them is varied."""

    kind: str
    value: Any
    attention: str
    size: dict[str, Any]
    checkpointing: bool

    def build(self, device: str) -> ViViT:
        """The model, with random weights."""
        torch.manual_seed(0)
        model = build_ours(self.size).to(device)
        for encoder in model.encoders:
            encoder.activation_checkpointing = self.checkpointing
        return model

    def tokens(self, phase: str) -> int:
        """Tubelets of a clip, without those that a training step leaves out."""
        t, h, w = self.size["tubelet_size"]
        side = self.size["image_size"]
        tokens = self.size["num_frames"] // t * (side // h) * (side // w)
        kept = 1 - self.size.get("token_drop", 0.0) if phase == "training" else 1
        return round(tokens * kept)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    set_tf32(args.tf32)
    size = size_of(args.model, args.layers)
    machine = Machine(args.device, args.precision)
    memories: dict[str, Any] = {}  # the same model may be a point of several kinds
    results = []
    for kind, values in args.points.items():
        points = [
            make_point(size, kind, value, attention)
            for attention in (args.attention if kind in GROWING else ATTENTIONS[:1])
            for value in values
        ]
        results += measure(points, machine, memories, args)
    rates = machine.rates()
    for line in results:
        achieved = ratio(line["flops"], line["median_seconds"])
        line["mfu"] = ratio(achieved, 1e12 * rates["matrix_tflops"])
    settings = {
        name: getattr(args, name)
        for name in ("device", "model", "phase", "precision", "batch", "repeats", "tf32", "points")
    } | {"layers": size["num_layers"]}
    report = head(settings, args.device, "torch", "vivit-train") | {
        "sdpa_backend": sdpa_backend(size, args.precision, args.device),
        "machine": {args.precision: rates},
        "results": results,
        "exponents": [
            exponents(results, kind, attention)
            for kind in GROWING
            if kind in args.points
            for attention in args.attention
        ],
    }
    print_report(report, size)
    write_report(report, args.output)
    draw(report, args.output)
    return report


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Arguments(__doc__, "scaling_{phase}_{device}")
    add_size(parser)
    parser.add_argument("--phase", choices=PHASES, default="training")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--batch", type=int, default=1, help="clips")
    parser.add_argument("--repeats", type=int, default=3, help="rounds after the warm-up")
    parser.add_argument(
        "--points",
        nargs="+",
        metavar="KIND[=VALUE,...]",
        help=f"which of {', '.join(KINDS)}; default all that the phase has",
    )
    parser.add_argument(
        "--attention", nargs="+", choices=ATTENTIONS, default=[ATTENTIONS[0]],
        help="whose growth with frames and side",
    )  # fmt: skip
    args = parser.parse(argv)
    kinds = [k for k in KINDS if args.phase == "training" or k not in ONLY_TRAINING]
    try:
        args.points = dict(read_points(word, kinds, args.phase) for word in args.points or kinds)
    except ValueError as error:
        parser.error(str(error))
    return args


def read_points(word: str, kinds: Sequence[str], phase: str) -> tuple[str, list[Any]]:
    """``frames=8,32`` -> (``frames``, [8, 32]); without values, the usual ones."""
    kind, _, values = word.partition("=")
    if kind not in kinds:
        raise ValueError(f"--points {word}: with --phase {phase} there are {', '.join(kinds)}")
    if not values:
        return kind, KINDS[kind]
    read = type(KINDS[kind][0])
    found = [read(value) for value in values.split(",")]
    if read is str and not set(found) <= set(KINDS[kind]):
        raise ValueError(f"--points {word}: {kind} are {', '.join(KINDS[kind])}")
    return kind, found


def make_point(base: dict[str, Any], kind: str, value: Any, attention: str) -> Point:
    attention = value if kind == "models" else attention
    size = base | {"attention": attention}
    if attention == "factorised_encoder":
        size["temporal_layers"] = max(1, size["num_layers"] // 3)  # the paper's 4 of 12
    elif attention != "spatio_temporal":
        size["pooling"] = "mean"
    name = {"frames": "num_frames", "side": "image_size", "token_drop": "token_drop"}.get(kind)
    size |= {name: value} if name else {}
    return Point(kind, value, attention, size, kind == "checkpointing" and value == "on")


def measure(
    points: Sequence[Point], machine: Machine, memories: dict[str, Any], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """A line for each point of one kind."""
    peaks = []
    for point in points:
        key = json.dumps([point.size, point.checkpointing], sort_keys=True)
        if key not in memories:
            print(f"memory of {point.kind} {point.value}", file=sys.stderr, flush=True)
            run = (point, args.phase, args.precision, args.batch, args.device)
            memories[key] = in_fresh_process(memory, *run)
        peaks.append(memories[key])
    steps = {
        i: step_of(point, args.phase, args.precision, args.batch, args.device)
        for i, point in enumerate(points)
        if peaks[i] is not None
    }
    seconds = in_turns(steps, args.repeats, args.device, points[0].kind, machine)
    lines: list[dict[str, Any]] = []
    for i, point in enumerate(points):
        peak, times = peaks[i] or {}, seconds.get(i, [])
        lines.append(
            {
                "kind": point.kind,
                "value": point.value,
                "attention": point.attention,
                "tokens": point.tokens(args.phase),
                "flops": flops(point.size, args.phase, args.batch),
                "seconds": times,
                "median_seconds": statistics.median(times) if times else None,
                "peak_bytes": peak.get("peak_bytes"),
                "step_bytes": peak["peak_bytes"] - peak["kept_bytes"] if peak else None,
                "resident_bytes": peak.get("resident_bytes"),
            }
        )
    for line in lines:
        first = next(other for other in lines if other["attention"] == line["attention"])
        first = lines[0] if line["kind"] == "models" else first
        line["time_ratio"] = ratio(line["median_seconds"], first["median_seconds"])
        line["memory_ratio"] = ratio(line["peak_bytes"], first["peak_bytes"])
    return lines


def step_of(
    point: Point, phase: str, precision: str, batch: int, device: str
) -> Callable[[], None]:
    clips = random_clips("vivit_train", point.size, batch, device)
    return make_step(point.build(device), clips, phase, precision)


def memory(point: Point, phase: str, precision: str, batch: int, device: str) -> dict[str, Any]:
    """`measure.peak_memory` of a point; for a fresh process."""
    return peak_memory(
        lambda: step_of(point, phase, precision, batch, device),
        device,
        warmups=int(phase == "training"),
    )


def exponents(lines: Sequence[dict[str, Any]], kind: str, attention: str) -> dict[str, Any]:
    """How time and memory of one model grow along one kind of point."""
    mine = [line for line in lines if (line["kind"], line["attention"]) == (kind, attention)]
    return {
        "kind": kind,
        "attention": attention,
        "time": fit([(line["tokens"], line["median_seconds"]) for line in mine]),
        "memory": fit([(line["tokens"], line["step_bytes"]) for line in mine]),
    }


def fit(points: Sequence[tuple[float, float | None]]) -> dict[str, float] | None:
    """y = factor * x^exponent by least squares in logarithms; ``None`` for less than two points."""
    known = [(x, y) for x, y in points if y]
    if len({x for x, _ in known}) < 2:
        return None
    x, y = np.log(np.array(known)).T
    exponent, offset = np.polyfit(x, y, 1)
    return {"exponent": float(exponent), "factor": float(np.exp(offset))}


def print_report(report: dict[str, Any], size: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    columns = ("tokens", "ms", "ratio", "MFU", "peak MB", "ratio", "of the step MB")
    for column in ("", *columns):
        table.add_column(column, justify="right" if column else "left")
    for line in report["results"]:
        model = f"{line['attention']} " if line["kind"] in GROWING else ""
        table.add_row(
            f"{model}{line['kind']} {line['value']}",
            str(line["tokens"]),
            cell(ratio(line["median_seconds"], 1e-3), "{:.1f}"),
            cell(line["time_ratio"], "{:.2f}"),
            cell(line["mfu"], "{:.2f}"),
            cell(ratio(line["peak_bytes"], 1e6), "{:.0f}"),
            cell(line["memory_ratio"], "{:.2f}"),
            cell(ratio(line["step_bytes"], 1e6), "{:.0f}"),
        )
    settings = report["settings"]
    console = Console(markup=False, highlight=False, width=120)
    console.print(
        f"{settings['phase']} of ViViT-{settings['model'].upper()}, {describe(size)}, "
        f"{settings['batch']} clip(s), {settings['precision']}, medians of {settings['repeats']}\n"
        f"{machine_line(report['hardware'], report['machine'])}\n"
        f"fused attention: {report['sdpa_backend']}; ratios are to the first of a kind\n"
    )
    console.print(table)
    for found in report["exponents"]:
        for what in ("time", "memory"):
            if found[what]:
                exponent = found[what]["exponent"]
                told = f"{what} ~ tokens^{exponent:.2f}"
                console.print(f"{found['attention']}, {found['kind']}: {told}")


def draw(report: dict[str, Any], path: Path) -> None:
    """Time and memory against tokens, as ``<name>_time.png`` and ``<name>_memory.png``."""
    if not any(found["time"] for found in report["exponents"]):
        return
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator
    except ImportError:
        print("no plots: they need matplotlib (pip install matplotlib)", file=sys.stderr)
        return
    settings = report["settings"]
    quantities = {
        "time": ("median_seconds", 1e-3, "milliseconds of a step"),
        "memory": ("step_bytes", 1e6, "MB that a step needs beyond weights and optimiser"),
    }
    for what, (key, unit, label) in quantities.items():
        figure = Figure(figsize=(7, 5), layout="constrained")
        axes = figure.subplots()
        for number, found in enumerate(report["exponents"]):
            if not found[what]:
                continue
            lines = [
                line
                for line in report["results"]
                if (line["kind"], line["attention"]) == (found["kind"], found["attention"])
                and line[key] is not None
            ]
            along = np.array(sorted(line["tokens"] for line in lines))
            fitted = found[what]["factor"] * along ** found[what]["exponent"]
            name = f"{found['attention']}, {found['kind']}: slope {found[what]['exponent']:.2f}"
            colour, marker = f"C{number}", "os^D"[number % 4]
            axes.plot(along, fitted / unit, "-", color=colour, label=name)
            measured = [line[key] / unit for line in lines]
            axes.plot([line["tokens"] for line in lines], measured, marker, color=colour)
        ticks: list[int] = []
        growing = [line["tokens"] for line in report["results"] if line["kind"] in GROWING]
        for tokens in sorted(growing):
            if not ticks or tokens > 1.2 * ticks[-1]:  # or the labels would overlap
                ticks.append(tokens)
        axes.set(xscale="log", yscale="log", xlabel="tokens of a clip", ylabel=label)
        axes.minorticks_off()
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_title(
            f"{settings['phase']}, blocks: {settings['layers']}, {settings['precision']}, "
            f"{report['hardware'].get('gpu', report['hardware']['cpu'])}"
        )
        axes.grid(alpha=0.3)
        axes.legend()
        target = path.with_name(f"{path.stem}_{what}.png")
        figure.savefig(target, dpi=120)
        print(f"drawn: {target}")


if __name__ == "__main__":
    main()
