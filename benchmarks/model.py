"""ViViT-B beside Hugging Face's: seconds and memory of a training step and of inference.

    python benchmarks/model.py                                 # CPU, 32x224x224, one clip
    python benchmarks/model.py --device cuda --batch 1 4 16 64 --forms eager compiled --repeats 20

Both models hold the same weights and run interleaved, in one process, on the same clips, beside a
large matrix product in the same precision and a large copy: what the machine does at its best. A
step is forward, loss, backward and AdamW, fused for both as each has it by default; bf16 is
autocast, as in training; fp32 is without TF32 unless --tf32 says so. Compiled is what users of
each do: ours block by block (model.compile=true), Hugging Face's as a whole (torch.compile).
Times are medians after warm-up rounds. Peak memory is what torch allocates in a fresh process
that runs nothing but the one variant; what does not fit there is left out.
"""

import argparse
import copy
import itertools
import math
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import torch
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
    FORMS,
    ORIGINS,
    Variant,
    add_kinds,
    add_size,
    build_alike,
    compiled,
    describe,
    flops,
    make_step,
    memory,
    random_clips,
    sdpa_backend,
    size_of,
)
from torch import nn


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    need_transformers()
    set_tf32(args.tf32)
    size = size_of(args.model, args.layers)
    alike, difference = build_alike(size, [(origin, "sdpa") for origin in ORIGINS], args.device)
    models = {(origin, "eager"): alike[origin, "sdpa"] for origin in ORIGINS}
    if "compiled" in args.forms:
        # Ours compiles in place.
        models |= {
            (origin, "compiled"): compiled(copy.deepcopy(models[origin, "eager"]))
            for origin in ORIGINS
        }
    rates: dict[str, dict[str, float]] = {}
    seconds: dict[Variant, list[float]] = {}
    peaks: dict[Variant, Any] = {}
    for precision in args.precision:
        machine = Machine(args.device, precision)
        for batch in args.batch:
            variants = [
                Variant(origin, phase, precision, batch, form)
                for phase, form, origin in itertools.product(args.phases, args.forms, ORIGINS)
            ]
            if args.memory:
                for variant in variants:
                    print(f"memory of {variant}", file=sys.stderr, flush=True)
                    peaks[variant] = memory(variant, size, args.device)
            fitting = [v for v in variants if not args.memory or peaks[v] is not None]
            seconds |= measure(models, fitting, size, machine, args)
        rates[precision] = machine.rates()
    rows = itertools.product(args.precision, args.batch, args.phases, args.forms)
    results = [
        compare(Variant("vivit_train", phase, precision, batch, form), seconds, peaks, size, rates)
        for precision, batch, phase, form in rows
    ]
    settings = {
        name: getattr(args, name)
        for name in ("device", "model", "batch", "forms", "repeats", "tf32")
    } | {"layers": size["num_layers"]}
    report = head(settings, args.device, "torch", "transformers", "vivit-train") | {
        "forward_gmacs_per_clip": {o: flops(size, "inference", 1, o) / 2e9 for o in ORIGINS},
        "largest_relative_difference_of_logits": difference,
        "sdpa_backend": {p: sdpa_backend(size, p, args.device) for p in args.precision},
        "machine": rates,
        "results": results,
    }
    print_report(report, size)
    write_report(report, args.output)
    return report


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Arguments(__doc__, "model_{device}")
    add_size(parser)
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="clips")
    parser.add_argument("--repeats", type=int, default=3, help="rounds after the warm-up")
    add_kinds(parser)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=["eager"])
    parser.add_argument(
        "--memory",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure peak memory too: two more training steps and a prediction of every variant",
    )
    return parser.parse(argv)


def measure(
    models: dict[tuple[str, str], nn.Module],
    variants: Sequence[Variant],
    size: dict[str, Any],
    machine: Machine,
    args: argparse.Namespace,
) -> dict[Variant, list[float]]:
    """Seconds of each round of variants of one precision and batch."""
    if not variants:
        return {}
    torch.compiler.reset()  # or a second batch size would be compiled for any size
    batch = variants[0].batch
    clips = {origin: random_clips(origin, size, batch, args.device) for origin in ORIGINS}
    steps = {
        v: make_step(models[v.origin, v.form], clips[v.origin], v.phase, v.precision)
        for v in variants
    }
    label = f"{variants[0].precision}, {batch} clips"
    return in_turns(steps, args.repeats, args.device, label, machine)


def compare(
    ours: Variant,
    seconds: dict[Variant, list[float]],
    peaks: dict[Variant, Any],
    size: dict[str, Any],
    rates: dict[str, dict[str, float]],
) -> dict[str, Any]:
    """A line of the table; a speed ratio above 1 is faster, a memory ratio below 1 is less."""
    medians = {variant: statistics.median(times) for variant, times in seconds.items()}
    theirs = ours._replace(origin="huggingface")
    rate = 1e12 * rates[ours.precision]["matrix_tflops"]
    line: dict[str, Any] = {
        name: getattr(ours, name) for name in ("precision", "batch", "phase", "form")
    }
    for variant in (ours, theirs):
        peak = peaks.get(variant) or {}
        work = flops(size, ours.phase, ours.batch, variant.origin) / rate
        line[variant.origin] = {
            "seconds": seconds.get(variant, []),
            "median_seconds": medians.get(variant),
            "mfu": ratio(work, medians.get(variant)),
            "peak_bytes": peak.get("peak_bytes"),
            "resident_bytes": peak.get("resident_bytes"),
        }
    memories = (line[origin]["peak_bytes"] for origin in ORIGINS)
    default = theirs._replace(form="eager")
    return line | {
        "speed_ratio": ratio(medians.get(theirs), medians.get(ours)),
        "speed_ratio_to_huggingface_eager": ratio(medians.get(default), medians.get(ours)),
        "memory_ratio": ratio(*memories),
    }


def print_report(report: dict[str, Any], size: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    columns = ("", "batch", "ours ms", "HF ms", "speed", "to HF eager", "MFU ours / HF")
    for column in (*columns, "ours MB", "HF MB", "memory"):
        table.add_column(column, justify="right" if column else "left")
    for line in report["results"]:
        pair = [line[origin] for origin in ORIGINS]
        table.add_row(
            f"{line['precision']} {line['phase']} {line['form']}",
            str(line["batch"]),
            *(cell(ratio(one["median_seconds"], 1e-3), "{:.1f}") for one in pair),
            cell(line["speed_ratio"], "{:.2f}x"),
            cell(line["speed_ratio_to_huggingface_eager"], "{:.2f}x"),
            " / ".join(cell(one["mfu"], "{:.2f}") for one in pair),
            *(cell(ratio(one["peak_bytes"], 1e6), "{:.0f}") for one in pair),
            cell(line["memory_ratio"], "{:.2f}"),
        )
    gmacs = report["forward_gmacs_per_clip"].values()
    settings, difference = report["settings"], report["largest_relative_difference_of_logits"]
    backends = ", ".join(f"{p} {backend}" for p, backend in report["sdpa_backend"].items())
    console = Console(markup=False, highlight=False, width=120)
    console.print(
        f"ViViT-{settings['model'].upper()}, {describe(size)}, "
        f"{' / '.join(f'{g:.1f}' for g in gmacs)} GMACs forward of a clip, medians of "
        f"{settings['repeats']}\n"
        f"{machine_line(report['hardware'], report['machine'])}\n"
        f"fused attention: {backends}; logits differ by {difference:.1e}\n"
    )
    console.print(table)
    if math.isnan(difference):
        console.print("the logits are not finite: these times mean nothing")


if __name__ == "__main__":
    main()
