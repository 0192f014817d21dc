"""All that a GPU is measured for, in one process and a few minutes, the most important first.

    python benchmarks/gpu.py                             # all parts, at most 8 minutes
    python benchmarks/gpu.py --parts step,train --minutes 4
    python benchmarks/gpu.py --smoke                     # each part, tiny, on a CPU
    python benchmarks/gpu_page.py                        # the figures into docs/performance.md

ViViT-B at 32x224x224 in bf16 autocast, with AdamW and gradient clipping as `train.py` has them:

    matrix            the rate of a large product of random numbers
    step              a training step, compiled and eager, and which kernels it runs
    train             clips per second of train.py beside those of the step
    transforms        what is done to a batch of clips before the model
    huggingface       ours beside Hugging Face's: eager and compiled, training and inference
    attention_tables  the tables of Hugging Face's ViViT page, ours and theirs
    kernels           torch's kernels of attention
    deterministic     what trainer.deterministic=true costs, and whether it gives the same bits
    nccl              ddp and fsdp with one GPU

Each part has a time limit of its own. The JSON is written after every figure: what was measured
stays, however the script ends. Next to it, the kernels of the step as text. Peak memory is torch's
`max_memory_allocated`, of one variant alone, though others are in the same process.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import measure
import torch
from gpu_runs import deterministic, kill_all, nccl, train
from gpu_steps import (
    Bench,
    Row,
    attention_tables,
    huggingface,
    kernels,
    matrix,
    step,
    transforms,
)
from limits import OutOfTime, time_limit
from measure import Arguments, head, need_transformers


class Part(NamedTuple):
    """A part and the seconds that it may take."""

    measure: Callable[[Bench], Iterator[Row]]
    seconds: float


PARTS = {
    "matrix": Part(matrix, 20),
    "step": Part(step, 80),
    "train": Part(train, 130),
    "transforms": Part(transforms, 30),
    "huggingface": Part(huggingface, 180),
    "attention_tables": Part(attention_tables, 60),
    "kernels": Part(kernels, 30),
    "deterministic": Part(deterministic, 180),
    "nccl": Part(nccl, 60),
}
# A small machine may be busy.
SMOKE_SECONDS = 1800
# After its time the script ends within these seconds, whatever a library is doing.
GRACE_SECONDS = 20


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    need_transformers()
    device = "cpu" if args.smoke else "cuda"
    settings = {"parts": args.parts, "minutes": args.minutes, "model": args.model}
    packages = ("torch", "torchvision", "lightning", "transformers", "vivit-train")
    report = head(settings, device, *packages) | {"parts": {}}
    deadline = time.perf_counter() + 60 * args.minutes
    before = signal.signal(signal.SIGTERM, lambda *_: leave())
    watchdog = threading.Timer(60 * args.minutes + GRACE_SECONDS, leave)
    watchdog.daemon = True
    watchdog.start()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        bench = make_bench(args, device, Path(folder))
        for name in args.parts:
            limit = SMOKE_SECONDS if args.smoke else PARTS[name].seconds
            seconds = min(limit, deadline - time.perf_counter())
            run_part(name, seconds, bench, report, args.output)
    watchdog.cancel()
    signal.signal(signal.SIGTERM, before)
    print(f"written to {args.output}")
    return report


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Arguments(__doc__, "gpu")
    parser.add_argument("--parts", type=_parts, default=list(PARTS), help="of them, as a,b,c")
    parser.add_argument("--minutes", type=float, help="for all together; default 8")
    parser.add_argument("--smoke", action="store_true", help="try every part, tiny, on a CPU")
    args = parser.parse(argv)
    args.model = "tiny" if args.smoke else "b"
    args.minutes = args.minutes or (60 if args.smoke else 8)
    if not args.smoke and not torch.cuda.is_available():
        parser.error("torch finds no GPU: --smoke tries the parts on a CPU")
    return args


def _parts(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(PARTS)}")
    return [name for name in PARTS if name in names]


def make_bench(args: argparse.Namespace, device: str, folder: Path) -> Bench:
    """The sizes of the measurement, or of its try on a CPU."""
    if args.smoke:
        measure.MATRIX_SIDE["cpu"], measure.COPY_BYTES["cpu"] = 64, 1024
        torch._dynamo.config.disable = True  # compiling takes minutes on a small machine
    return Bench(
        device=device,
        model=args.model,
        batches=(1, 2) if args.smoke else (16, 32),
        batches_beside=(2,) if args.smoke else (32, 8),
        batches_of_table=(1, 2) if args.smoke else (1, 2, 4, 8),
        repeats=1 if args.smoke else 5,
        folder=folder,
        profile=args.output.with_suffix(".kernels.txt"),
    )


def run_part(name: str, seconds: float, bench: Bench, report: dict[str, Any], output: Path) -> None:
    """Adds a part's rows to the report as they come, and how it ended."""
    start = time.perf_counter()
    print(f"== {name}, at most {seconds:.0f} s", file=sys.stderr, flush=True)
    part = report["parts"][name] = {"rows": [], "ended": "killed", "seconds": None}
    if seconds <= 0:
        part["ended"] = "not begun: no time was left"
        save(report, output)
        return
    try:
        with time_limit(seconds):
            for row in PARTS[name].measure(bench):
                part["rows"].append(row)
                part["seconds"] = time.perf_counter() - start
                save(report, output)
                print(json.dumps(brief(row)), flush=True)
        part["ended"] = "done"
    except OutOfTime:
        part["ended"] = f"out of time, after {seconds:.0f} s"
    except Exception as error:  # the next part may go well
        traceback.print_exc()
        part["ended"] = f"failed: {type(error).__name__}: {error}"[:2000]
    finally:
        kill_all()
    part["seconds"] = time.perf_counter() - start
    save(report, output)
    print(f"== {name}: {part['ended']}, {part['seconds']:.0f} s", flush=True)


def leave() -> None:
    """Ends the script and what it has started; what was measured is in the file already."""
    kill_all()
    os._exit(1)


def save(report: dict[str, Any], output: Path) -> None:
    """Writes the report in one go: a kill leaves the one before."""
    output.parent.mkdir(parents=True, exist_ok=True)
    new = output.with_suffix(".new")
    new.write_text(json.dumps(report, indent=1) + "\n")
    new.replace(output)


def brief(row: Row) -> Row:
    """A row without its lists of times, for the screen."""
    return {name: value for name, value in row.items() if name not in ("seconds", "profile")}


if __name__ == "__main__":
    main()
