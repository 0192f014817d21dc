"""Eager attention beside sdpa, ours and Hugging Face's: the rows of Hugging Face's ViViT page.

    python benchmarks/attention.py --layers 1 --precision fp32 --batch 1 2   # CPU, minutes
    python benchmarks/attention.py --device cuda                             # 100 steps, 20 batches

Time and peak memory of training steps of one clip and of predictions of 1, 2, 4 and 8, with the
columns of https://huggingface.co/docs/transformers/model_doc/vivit (speedup is eager / sdpa - 1 in
time, mem saving the same in memory), and ours beside Hugging Face's. All four hold the same
weights and take turns on the same clips; times are medians after warm-up rounds. Training steps
are with fused AdamW; bf16 is autocast; fp32 is without TF32 unless --tf32 says so. Peak memory is
what torch allocates in a fresh process that runs one variant; what does not fit there is left out.
Eager attention's memory in inference is one layer's, so few layers show what many would.
"""

import argparse
import itertools
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from measure import (
    Arguments,
    Machine,
    cell,
    head,
    in_turns,
    machine_line,
    need_transformers,
    ratio,
    set_tf32,
    write_report,
)
from rich.console import Console
from rich.table import Table
from steps import (
    ORIGINS,
    Variant,
    add_kinds,
    add_size,
    build_alike,
    describe,
    make_step,
    memory,
    random_clips,
    sdpa_backend,
    size_of,
)
from torch import nn

ATTENTIONS = ("eager", "sdpa")
NAMES = {"vivit_train": "vivit-train", "huggingface": "Hugging Face"}
# Of training steps and of batches in inference; on a GPU as in the page's tables.
REPEATS = {"cpu": (3, 3), "cuda": (100, 20)}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    need_transformers()
    set_tf32(args.tf32)
    size = size_of(args.model, args.layers)
    models, difference = build_alike(size, itertools.product(ORIGINS, ATTENTIONS), args.device)
    rates, results = {}, []
    for precision in args.precision:
        machine = Machine(args.device, precision)
        for phase in args.phases:
            for batch in args.batch if phase == "inference" else [1]:
                results.append(measure(models, size, phase, precision, batch, machine, args))
        rates[precision] = machine.rates()
    settings = {
        name: getattr(args, name)
        for name in ("device", "model", "steps", "batches", "batch", "tf32")
    } | {"layers": size["num_layers"]}
    report = head(settings, args.device, "torch", "transformers", "vivit-train") | {
        "largest_relative_difference_of_logits": difference,
        "sdpa_backend": {p: sdpa_backend(size, p, args.device) for p in args.precision},
        "machine": rates,
        "results": results,
    }
    print_report(report, size)
    write_report(report, args.output)
    return report


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Arguments(__doc__, "attention_{device}")
    add_size(parser)
    parser.add_argument("--steps", type=int, help="of training; default 3, on a GPU 100")
    parser.add_argument("--batches", type=int, help="of inference; default 3, on a GPU 20")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2, 4, 8], help="clips, of it")
    add_kinds(parser)
    args = parser.parse(argv)
    steps, batches = REPEATS[args.device]
    args.steps, args.batches = args.steps or steps, args.batches or batches
    return args


def measure(
    models: dict[tuple[str, str], nn.Module],
    size: dict[str, Any],
    phase: str,
    precision: str,
    batch: int,
    machine: Machine,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """A row of each table: both origins, eager and sdpa."""
    variants = {
        (origin, attention): Variant(origin, phase, precision, batch, attention=attention)
        for origin, attention in itertools.product(ORIGINS, ATTENTIONS)
    }
    peaks = {}
    for kind, variant in variants.items():
        print(f"memory of {variant}", file=sys.stderr, flush=True)
        peaks[kind] = memory(variant, size, args.device)
    clips = {origin: random_clips(origin, size, batch, args.device) for origin in ORIGINS}
    steps = {
        kind: make_step(models[kind], clips[kind[0]], phase, precision)
        for kind in variants
        if peaks[kind] is not None
    }
    repeats = args.steps if phase == "training" else args.batches
    label = f"{precision} {phase}, {batch} clips"
    seconds = in_turns(steps, repeats, args.device, label, machine)
    return compare(phase, precision, batch, seconds, peaks)


def compare(
    phase: str,
    precision: str,
    batch: int,
    seconds: Mapping[tuple[str, str], list[float]],
    peaks: Mapping[tuple[str, str], dict[str, Any] | None],
) -> dict[str, Any]:
    """The row, of each (origin, attention)'s seconds and peak memory; what is missing is None."""
    row: dict[str, Any] = {"phase": phase, "precision": precision, "batch": batch}
    for origin in ORIGINS:
        found: dict[str, dict[str, Any]] = {}
        for attention in ATTENTIONS:
            times, peak = seconds.get((origin, attention)), peaks.get((origin, attention)) or {}
            found[attention] = {
                "seconds": times or [],
                "median_seconds": statistics.median(times) if times else None,
                "peak_bytes": peak.get("peak_bytes"),
                "resident_bytes": peak.get("resident_bytes"),
            }
        eager, sdpa = (found[attention] for attention in ATTENTIONS)
        row[origin] = found | {
            "speedup_percent": percent(eager["median_seconds"], sdpa["median_seconds"]),
            "memory_saving_percent": percent(eager["peak_bytes"], sdpa["peak_bytes"]),
        }
    ours, theirs = (row[origin] for origin in ORIGINS)
    for attention in ATTENTIONS:
        mine, other = ours[attention], theirs[attention]
        row[f"{attention}_speed_ratio"] = ratio(other["median_seconds"], mine["median_seconds"])
        row[f"{attention}_memory_ratio"] = ratio(mine["peak_bytes"], other["peak_bytes"])
    return row


def percent(eager: float | None, sdpa: float | None) -> float | None:
    """By how much eager takes more than sdpa, as the page's columns say it."""
    share = ratio(eager, sdpa)
    return None if share is None else 100 * (share - 1)


def print_report(report: dict[str, Any], size: dict[str, Any]) -> None:
    settings = report["settings"]
    backends = ", ".join(f"{p} {backend}" for p, backend in report["sdpa_backend"].items())
    console = Console(markup=False, highlight=False, width=120)
    console.print(
        f"ViViT-{settings['model'].upper()}, {describe(size)}\n"
        f"{machine_line(report['hardware'], report['machine'])}\n"
        f"fused attention: {backends}; logits differ by "
        f"{report['largest_relative_difference_of_logits']:.1e}"
    )
    for phase, counted in (("training", "steps"), ("inference", "batches")):
        rows = [row for row in report["results"] if row["phase"] == phase]
        if rows:
            console.print(f"\n{phase}, medians of {settings[counted]} {counted}")
            console.print(table_of(rows))


def table_of(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    columns = ("batch", "eager ms", "sdpa ms", "speedup %", "eager MB", "sdpa MB", "mem saving %")
    for column in ("", *columns, "sdpa to HF's: speed", "memory"):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        for origin in ORIGINS:
            found, is_ours = row[origin], origin == "vivit_train"
            pair = [found[attention] for attention in ATTENTIONS]
            table.add_row(
                f"{NAMES[origin]} {row['precision']}",
                str(row["batch"]),
                *(cell(ratio(one["median_seconds"], 1e-3), "{:.1f}") for one in pair),
                cell(found["speedup_percent"], "{:.1f}"),
                *(cell(ratio(one["peak_bytes"], 1e6), "{:.1f}") for one in pair),
                cell(found["memory_saving_percent"], "{:.1f}"),
                cell(row["sdpa_speed_ratio"], "{:.2f}x") if is_ours else "",
                cell(row["sdpa_memory_ratio"], "{:.2f}") if is_ours else "",
            )
    return table


if __name__ == "__main__":
    main()
