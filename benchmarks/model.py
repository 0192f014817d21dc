"""ViViT-B beside Hugging Face's: seconds and memory of a training step and of inference.

    python benchmarks/model.py                                 # CPU, 32x224x224, one clip
    python benchmarks/model.py --device cuda --batch 16 --forms eager compiled --repeats 20

Both models hold the same weights and run in turns, in one process, on the same clip, beside a
large matrix product in the same precision: what the machine does at its best. A step is forward,
loss, backward and AdamW; bf16 is autocast, as in training. Times are medians after a warm-up
round. Peak memory is that of a fresh process which runs nothing but the one variant: resident
memory on a CPU, allocated memory on a GPU.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import itertools
import json
import math
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from vivit_train.model.vivit import ViViT
from vivit_train.model.weights import load_weights, read_weights

ORIGINS = ("vivit_train", "huggingface")
FORMS = ("eager", "compiled")
PHASES = ("training", "inference")
PRECISIONS = ("fp32", "bf16")
# ViViT's arguments.
MODELS: dict[str, dict[str, Any]] = {
    "b": {
        "num_classes": 400,
        "image_size": 224,
        "num_frames": 32,
        "tubelet_size": [2, 16, 16],
        "hidden_size": 768,
        "num_layers": 12,
        "num_heads": 12,
        "mlp_size": 3072,
    },
    "tiny": {
        "num_classes": 5,
        "image_size": 32,
        "num_frames": 4,
        "tubelet_size": [2, 16, 16],
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 2,
        "mlp_size": 64,
    },
}
# Side of the square matrices multiplied: large enough to run at full rate, a fraction of a step.
MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}


class Variant(NamedTuple):
    """One thing that is measured."""

    origin: str
    form: str
    phase: str
    precision: str


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    try:
        import transformers  # noqa: F401
    except ImportError:
        raise SystemExit(
            "this benchmark compares with Hugging Face transformers, which is not installed: "
            'pip install -e ".[dev]"'
        ) from None
    if args.memory_of is not None:
        print(peak_memory(Variant(*args.memory_of), args.model, args.batch, args.device))
        return {}

    matrix_rates, results = {}, []
    with tempfile.TemporaryDirectory() as folder:
        models, difference = build_pair(args.model, args.device, Path(folder))
    for precision in args.precision:
        seconds, matrix_rates[precision] = measure(models, precision, args)
        for form, phase in itertools.product(args.forms, args.phases):
            results.append(compare(form, phase, precision, seconds, matrix_rates, args))
    report = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "hardware": hardware(args.device),
        "settings": {"model": args.model, "batch": args.batch, "repeats": args.repeats},
        "forward_gmacs": args.batch * forward_macs(MODELS[args.model]) / 1e9,
        "largest_relative_difference_of_logits": difference,
        "matrix_tflops": {p: rate / 1e12 for p, rate in matrix_rates.items()},
        "results": results,
    }
    print_report(report)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {args.output}")
    return report


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", choices=MODELS, default="b")
    parser.add_argument("--batch", type=int, default=1, help="clips")
    parser.add_argument("--repeats", type=int, default=3, help="rounds after the warm-up")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=["eager"])
    parser.add_argument(
        "--memory",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure peak memory too: two more steps of every variant",
    )
    parser.add_argument("--output", type=Path, help="JSON; default results/model_DEVICE.json here")
    # How the script calls itself, in a fresh process for each variant.
    parser.add_argument("--memory-of", nargs=len(Variant._fields), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.output is None:
        args.output = Path(__file__).parent / "results" / f"model_{args.device}.json"
    return args


def build_huggingface(name: str) -> nn.Module:
    from transformers import VivitConfig, VivitForVideoClassification

    size = MODELS[name]
    config: dict[str, Any] = {
        "image_size": size["image_size"],
        "num_frames": size["num_frames"],
        "tubelet_size": size["tubelet_size"],
        "hidden_size": size["hidden_size"],
        "num_hidden_layers": size["num_layers"],
        "num_attention_heads": size["num_heads"],
        "intermediate_size": size["mlp_size"],
        "num_labels": size["num_classes"],
        "attn_implementation": "sdpa",
    }
    return VivitForVideoClassification(VivitConfig(**config))


def build_pair(name: str, device: str, folder: Path) -> tuple[dict[str, nn.Module], float]:
    """Both models with the same random weights, and how far their logits differ."""
    torch.manual_seed(0)
    theirs = build_huggingface(name)
    with quiet():
        theirs.save_pretrained(folder)  # type: ignore[operator]
    weights = read_weights(folder)
    ours = ViViT(**weights.model)
    load_weights(ours, weights)
    models = {"vivit_train": ours.to(device), "huggingface": theirs.to(device)}
    with torch.inference_mode():
        logits = {
            origin: predict(origin, model.eval(), random_clips(origin, name, 1, device))
            for origin, model in models.items()
        }
    ours_logits, their_logits = logits["vivit_train"], logits["huggingface"]
    difference = (ours_logits - their_logits).abs().max() / their_logits.abs().max()
    return models, difference.item()


def random_clips(origin: str, name: str, batch: int, device: str) -> Tensor:
    """The same clips for both, each in the order of axes that the origin asks for."""
    size = MODELS[name]
    side = size["image_size"]
    generator = torch.Generator().manual_seed(0)
    clips = torch.rand(batch, 3, size["num_frames"], side, side, generator=generator) * 2 - 1
    clips = clips if origin == "vivit_train" else clips.transpose(1, 2).contiguous()
    return clips.to(device)


def predict(origin: str, model: Callable[[Tensor], Any], clips: Tensor) -> Tensor:
    output = model(clips)
    return output if origin == "vivit_train" else output.logits


def make_step(
    variant: Variant, model: nn.Module, name: str, batch: int, device: str
) -> Callable[[], None]:
    """What is timed: one training step or one prediction."""
    clips = random_clips(variant.origin, name, batch, device)
    labels = torch.arange(batch, device=device) % MODELS[name]["num_classes"]
    run = torch.compile(model) if variant.form == "compiled" else model

    def forward() -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=variant.precision == "bf16"):
            return predict(variant.origin, run, clips)

    def infer() -> None:
        model.eval()
        with torch.inference_mode():
            forward()

    def train() -> None:
        model.train()
        loss = F.cross_entropy(forward().float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    if variant.phase == "inference":
        return infer
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    return train


def measure(
    models: dict[str, nn.Module], precision: str, args: argparse.Namespace
) -> tuple[dict[Variant, list[float]], float]:
    """Seconds of each round for each variant, and the matrix rate in FLOP/s."""
    variants = [
        Variant(origin, form, phase, precision)
        for form, phase, origin in itertools.product(args.forms, args.phases, ORIGINS)
    ]
    steps = {
        v: make_step(v, models[v.origin], args.model, args.batch, args.device) for v in variants
    }
    side = MATRIX_SIDE[args.device]
    matrix = torch.randn(side, side, device=args.device)
    matrix = matrix.bfloat16() if precision == "bf16" else matrix
    products: list[float] = []
    seconds: dict[Variant, list[float]] = {variant: [] for variant in variants}
    for round_ in range(args.repeats + 1):
        print(f"{precision}: round {round_} of {args.repeats}", file=sys.stderr, flush=True)
        # Every other round backwards, so that no variant always follows the same one.
        for variant in variants if round_ % 2 else reversed(variants):
            products.append(timed(lambda: matrix @ matrix, args.device))
            seconds[variant].append(timed(steps[variant], args.device))
    # Round 0 warms up: allocators, caches, compilation.
    products = products[len(variants) :]
    return {v: s[1:] for v, s in seconds.items()}, 2 * side**3 / statistics.median(products)


def timed(function: Callable[[], Any], device: str) -> float:
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - start


def compare(
    form: str,
    phase: str,
    precision: str,
    seconds: dict[Variant, list[float]],
    matrix_rates: dict[str, float],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """One line of the table."""
    # Backward is two matrix products for each one of forward.
    flops = 2 * args.batch * forward_macs(MODELS[args.model]) * (3 if phase == "training" else 1)
    line: dict[str, Any] = {"precision": precision, "form": form, "phase": phase}
    for origin in ORIGINS:
        variant = Variant(origin, form, phase, precision)
        median = statistics.median(seconds[variant])
        line[origin] = {
            "median_seconds": median,
            "seconds": seconds[variant],
            "share_of_matrix_rate": flops / median / matrix_rates[precision],
            "peak_memory_gib": memory_in_fresh_process(variant, args) if args.memory else None,
        }
    ours, theirs = (line[origin]["median_seconds"] for origin in ORIGINS)
    return line | {"speed_ratio": theirs / ours}


def forward_macs(size: dict[str, Any]) -> int:
    """Multiply-accumulates of one clip's forward pass; 451.5 G for B at 32x224x224."""
    t, h, w = size["tubelet_size"]
    width, layers = size["hidden_size"], size["num_layers"]
    tokens = size["num_frames"] // t * (size["image_size"] // h) * (size["image_size"] // w)
    embedding = tokens * 3 * t * h * w * width
    tokens += 1  # the class token
    projections = 4 * tokens * width**2
    attention = 2 * tokens**2 * width
    mlp = 2 * tokens * width * size["mlp_size"]
    return embedding + layers * (projections + attention + mlp) + width * size["num_classes"]


def memory_in_fresh_process(variant: Variant, args: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "--memory-of", *variant]
    command += ["--model", args.model, "--batch", str(args.batch), "--device", args.device]
    print(f"memory of {' '.join(variant)}", file=sys.stderr, flush=True)
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(output.splitlines()[-1])


def peak_memory(variant: Variant, name: str, batch: int, device: str) -> float:
    """GiB, after two steps: the first also makes the optimiser's state."""
    build_huggingface("tiny")  # transformers loads lazily: its code counts in every peak
    model = build_huggingface(name) if variant.origin == "huggingface" else ViViT(**MODELS[name])
    step = make_step(variant, model.to(device), name, batch, device)
    for _ in range(2 if variant.phase == "training" else 1):
        step()
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30
    # Not getrusage: on Linux its peak starts from that of the parent process.
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 2**20


def versions() -> dict[str, str]:
    packages = ("torch", "transformers", "vivit-train")
    return {"python": platform.python_version()} | {
        package: importlib.metadata.version(package) for package in packages
    }


def hardware(device: str) -> dict[str, Any]:
    cpu = platform.processor()
    with contextlib.suppress(OSError):  # Linux only
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(": ")[1] for line in lines if "model name" in line), cpu)
    found = {
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    return found | ({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {})


def print_report(report: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("", "vivit-train", "Hugging Face", "ratio", "of matrix rate", "peak GiB"):
        table.add_column(column, justify="right" if column else "left")
    for line in report["results"]:
        ours, theirs = (line[origin] for origin in ORIGINS)
        form = "" if line["form"] == "eager" else f" {line['form']}"
        pairs = [
            f"{ours[key]:.2f} / {theirs[key]:.2f}" if ours[key] is not None else "-"
            for key in ("share_of_matrix_rate", "peak_memory_gib")
        ]
        table.add_row(
            f"{line['precision']} {line['phase']}{form}",
            f"{1e3 * ours['median_seconds']:.1f} ms",
            f"{1e3 * theirs['median_seconds']:.1f} ms",
            f"{line['speed_ratio']:.2f}x",
            *pairs,
        )
    settings, machine = report["settings"], report["hardware"]
    size = MODELS[settings["model"]]
    side = size["image_size"]
    console = Console(markup=False, highlight=False)
    console.print(
        f"ViViT-{settings['model'].upper()}, {settings['batch']} x {size['num_frames']}x{side}x"
        f"{side}, {report['forward_gmacs']:.1f} GMACs forward, medians of {settings['repeats']}\n"
        f"{machine.get('gpu', machine['cpu'])}, {machine['threads']} threads; matrix rate "
        + ", ".join(f"{p} {r:.3g} TFLOP/s" for p, r in report["matrix_tflops"].items())
        + f"\nlogits differ by {report['largest_relative_difference_of_logits']:.1e}\n"
    )
    console.print(table)
    if math.isnan(report["largest_relative_difference_of_logits"]):
        console.print("the logits are not finite: these times mean nothing")


@contextlib.contextmanager
def quiet() -> Any:
    """Without transformers' progress bars."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


if __name__ == "__main__":
    main()
