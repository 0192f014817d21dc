"""What the benchmarks share: interleaved times, the machine's own rates, memory, the report."""

import argparse
import contextlib
import datetime
import gc
import importlib.metadata
import json
import multiprocessing
import os
import platform
import re
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile, record_function

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Rounds that are not counted: allocators, caches, clocks, compilation.
WARMUP_ROUNDS = {"cpu": 1, "cuda": 3}
# Side of the square matrices multiplied: large enough to run at full rate, a fraction of a step.
MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
# Far more than any cache holds.
COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}
# What a fresh process has loaded; what is not installed is passed over.
PRELOAD = [
    "torch.profiler",
    "vivit_train.describe",
    "vivit_train.model.weights",
    "transformers.models.vivit.modeling_vivit",
]
RESULTS = Path(__file__).parent / "results"

Key = TypeVar("Key", bound=Hashable)


class Machine:
    """What a device does at its best, sampled between the runs that are compared with it.

    Args:
        device: ``cpu`` or ``cuda``.
        precision: One of ``PRECISIONS``, of the matrix product.
    """

    def __init__(self, device: str, precision: str) -> None:
        side = MATRIX_SIDE[device]
        self.device = device
        self.matrix = torch.randn(side, side, device=device).to(PRECISIONS[precision])
        self.source = torch.ones(COPY_BYTES[device], dtype=torch.uint8, device=device)
        self.target = self.source.clone()
        self.seconds: dict[str, list[float]] = {"matrix": [], "copy": []}
        self._run()  # the first of each is slow

    def sample(self) -> None:
        """Times one matrix product and one copy."""
        for name, seconds in self._run().items():
            self.seconds[name].append(seconds)

    def rates(self) -> dict[str, float]:
        """Medians: ``matrix_tflops``, and ``copy_gb_per_second``, read and written together."""
        matrix, copy = (statistics.median(self.seconds[name]) for name in ("matrix", "copy"))
        return {
            "matrix_tflops": 2 * len(self.matrix) ** 3 / matrix / 1e12,
            "copy_gb_per_second": 2 * self.source.nbytes / copy / 1e9,
        }

    def _run(self) -> dict[str, float]:
        return {
            "matrix": timed(lambda: self.matrix @ self.matrix, self.device),
            "copy": timed(lambda: self.target.copy_(self.source), self.device),
        }


def in_turns(
    steps: dict[Key, Callable[[], Any]],
    repeats: int,
    device: str,
    label: str = "",
    machine: Machine | None = None,
) -> dict[Key, list[float]]:
    """Seconds of each round of each step, without the rounds that warm up.

    Args:
        steps: What to run; one round runs each once.
        repeats: Rounds that count.
        device: ``cpu`` or ``cuda``.
        label: Of the progress on stderr.
        machine: Sampled before each step.
    """
    warmup, seconds = WARMUP_ROUNDS[device], {key: list[float]() for key in steps}
    for round_ in range(warmup + repeats):
        print(f"{label}: round {round_ + 1} of {warmup + repeats}", file=sys.stderr, flush=True)
        # Every other round backwards, so that no step always follows the same one.
        for key in steps if round_ % 2 else reversed(steps):
            if machine is not None:
                machine.sample()
            seconds[key].append(timed(steps[key], device))
    return {key: values[warmup:] for key, values in seconds.items()}


def timed(function: Callable[[], Any], device: str) -> float:
    """Seconds from an idle device to an idle device."""
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - start


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """What a function of a module returns in a process that has loaded libraries and run nothing.

    Returns:
        ``None`` if it did not fit into memory: torch says so on a GPU; on a CPU the system kills
        the process, which is also what any other sudden end looks like.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler takes no GPU for an error
    # Forked from a server that only imports: seconds less for each than a new Python. Not with a
    # GPU, which some libraries look for when imported, and which does not survive a fork.
    has_gpu = torch.cuda.is_available()
    context = multiprocessing.get_context("spawn" if has_gpu else "forkserver")
    if not has_gpu:
        context.set_forkserver_preload(PRELOAD)
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(function, *args).result()
    except (BrokenProcessPool, torch.OutOfMemoryError) as error:
        print(f"left out, out of memory: {str(error).splitlines()[0]}", file=sys.stderr, flush=True)
        return None


def peak_memory(
    prepare: Callable[[], Callable[[], None]], device: str, warmups: int = 1
) -> dict[str, int | None]:
    """Bytes at the peak of one step, as torch's allocator counts them.

    On a CPU that is every allocation and release in torch's profiler, those inside of its kernels
    included; buffers of MKL and oneDNN are in the resident memory only.

    Args:
        prepare: Makes what the step needs (model, clips, optimiser) and returns the step.
        device: ``cpu`` or ``cuda``.
        warmups: Steps before the one that counts; a first training step also makes the
            optimiser's state.

    Returns:
        ``peak_bytes``; ``kept_bytes``, what was there before the step: weights, optimiser state,
        clips; and ``resident_bytes``, by how much the process grew, ``None`` on a GPU.
    """
    if device == "cuda":
        step = prepare()
        for _ in range(max(1, warmups)):
            step()
        torch.cuda.synchronize()
        kept = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
        return {"peak_bytes": peak, "kept_bytes": kept, "resident_bytes": None}
    resident = high_water()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step = prepare()
        for _ in range(warmups):
            step()
        with record_function("measured step"):
            step()
    resident = high_water() - resident
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    (begin,) = (event["ts"] for event in events if event["name"] == "measured step")
    changes = sorted(
        ((event["ts"], event["args"]) for event in events if event["name"] == "[memory]"),
        key=lambda change: change[0],
    )
    # What an earlier profile in this process saw allocated and not its release stays in the total.
    before = changes[0][1]["Total Allocated"] - changes[0][1]["Bytes"]
    totals = [(ts, change["Total Allocated"] - before) for ts, change in changes]
    kept = max((ts, total) for ts, total in totals if ts < begin)[1]
    peak = max(total for ts, total in totals if ts >= begin)
    return {"peak_bytes": peak, "kept_bytes": kept, "resident_bytes": resident}


def own_peak(step: Callable[[], Any], device: str, before: int) -> int | None:
    """Bytes at the peak of one step on a GPU, of what was allocated since ``before`` was.

    So that a variant's peak can be measured in a process that holds others as well.

    Args:
        step: Has run before, so that the optimiser has its state.
        device: ``cpu`` or ``cuda``; ``None`` comes back for a CPU.
        before: `allocated` before the variant's model was made.
    """
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def allocated(device: str) -> int:
    """Bytes that tensors hold on a GPU now, once what nobody refers to is gone; 0 on a CPU."""
    gc.collect()
    if device != "cuda":
        return 0
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated()


def high_water() -> int:
    """The most bytes of memory that this process has had resident."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Not getrusage: on Linux its peak starts from that of the parent process.
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024


def need_transformers() -> None:
    """Ends the program with advice where Hugging Face's library is missing."""
    try:
        import transformers  # noqa: F401
    except ImportError:
        raise SystemExit(
            "this benchmark compares with Hugging Face transformers, which is not installed: "
            'pip install -e ".[dev]"'
        ) from None


def set_tf32(allowed: bool) -> None:
    """Whether a GPU may round the factors of fp32 matrix products and convolutions to TF32."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def head(settings: dict[str, Any], device: str, *packages: str) -> dict[str, Any]:
    """The beginning of every report: when, with what, on what."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(*packages),
        "hardware": hardware(device),
        "settings": settings,
    }


def versions(*packages: str) -> dict[str, str]:
    """Of Python and these packages; what runs from its folder without an installation has none."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def hardware(device: str) -> dict[str, Any]:
    """The processor, and the GPU if it is what is measured."""
    cpu = platform.processor()
    with contextlib.suppress(OSError):  # Linux only
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(": ")[1] for line in lines if "model name" in line), cpu)
    found = {
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    if device == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return found


def machine_line(hardware: Mapping[str, Any], rates: Mapping[str, Mapping[str, float]]) -> str:
    """The machine in words, with its rates by precision."""
    told = [
        f"{precision} {rate['matrix_tflops']:.3g} TFLOP/s, copy {rate['copy_gb_per_second']:.3g} "
        "GB/s"
        for precision, rate in rates.items()
    ]
    threads = f"{hardware['threads']} threads"
    return f"{hardware.get('gpu', hardware['cpu'])}, {threads}; matrix product {'; '.join(told)}"


class Arguments(argparse.ArgumentParser):
    """What the benchmarks are called with: their text as help, ``--device``, ``--output``.

    Args:
        description: The script's docstring.
        result: Name of the JSON in ``results``, made of arguments as in ``parts_{device}``.
            ``--device`` is taken by those that have it in the name.
    """

    def __init__(self, description: str | None, result: str) -> None:
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        self.result = result
        if "{device}" in result:
            self.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
        told = re.sub(r"{(\w+)}", lambda name: name[1].upper(), result)
        self.add_argument("--output", type=Path, help=f"JSON; default results/{told}.json here")

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """The arguments, of the command line if ``None``, with the path of the JSON."""
        args = self.parse_args(argv)
        if args.output is None:
            args.output = RESULTS / f"{self.result.format_map(vars(args))}.json"
        return args


def write_report(report: dict[str, Any], path: Path) -> None:
    """Writes it as JSON and says where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {path}")


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    """``None`` where one of them was not measured."""
    return None if numerator is None or denominator is None else numerator / denominator


def cell(value: float | None, form: str) -> str:
    """A table's cell: the value by ``str.format``, or a dash where there is none."""
    return "-" if value is None else form.format(value)
