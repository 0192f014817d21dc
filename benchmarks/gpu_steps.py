"""The parts of `gpu.py` that run in its own process: steps, transforms, kernels, Hugging Face's.

Each part is a generator of rows; what it has yielded is kept if its time runs out.
"""

import copy
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import attention
import model as beside
import torch
import torch.nn.functional as F
from kernel_times import of_step, table
from limits import OutOfTime, time_limit
from measure import PRECISIONS, Machine, allocated, in_turns, own_peak, set_tf32, timed
from omegaconf import OmegaConf
from steps import (
    FORMS,
    ORIGINS,
    PHASES,
    SIZES,
    Variant,
    build_alike,
    build_ours,
    compiled,
    flops,
    make_step,
    random_clips,
    sdpa_backend,
)
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vivit_train.data.batch import DecodedBatch
from vivit_train.data.clips import Clips
from vivit_train.transforms.augment import Augment
from vivit_train.transforms.processor import Processor

Row = dict[str, Any]

# As `trainer.gradient_clip_val` has it.
LARGEST_NORM = 1.0
BASIC = Path(__file__).parents[1] / "configs" / "augment" / "basic.yaml"
# Of a ragged batch, in turns: Kinetics, older sets, a web video, a wide one.
FRAME_SIZES = ((256, 340), (240, 320), (360, 640), (256, 454))
BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
# Of one form of one model, its compilation included.
FORM_SECONDS = 60


@dataclass
class Bench:
    """What all parts are measured with.

    Attributes:
        device: ``cpu`` or ``cuda``.
        model: One of ``SIZES``, of what runs in this process.
        batches: Of our training step and of `train.py`.
        batches_beside: Of the comparison with Hugging Face's.
        batches_of_table: Of inference in the attention tables.
        repeats: Rounds that count.
        folder: For what the parts write; it is thrown away.
        profile: Where the table of kernels goes, as text.
        rates: The matrix rate by precision, once it is measured.
        step_clips_per_second: Of our compiled step by batch, once it is measured.
        train_clips_per_second: Of `train.py` by batch, once it is measured; ``None`` if it failed.
    """

    device: str
    model: str
    batches: tuple[int, ...]
    batches_beside: tuple[int, ...]
    batches_of_table: tuple[int, ...]
    repeats: int
    folder: Path
    profile: Path
    rates: dict[str, dict[str, float]] = field(default_factory=dict)
    step_clips_per_second: dict[int, float] = field(default_factory=dict)
    train_clips_per_second: dict[int, float | None] = field(default_factory=dict)

    @property
    def size(self) -> dict[str, Any]:
        """ViViT's arguments."""
        return SIZES[self.model]

    @property
    def is_full(self) -> bool:
        """Whether this is the measurement, and no try of the script on a CPU."""
        return self.device == "cuda"

    def rate(self, precision: str) -> dict[str, float]:
        """The machine's rates, measured where they are asked for first."""
        if precision not in self.rates:
            machine = Machine(self.device, precision)
            for _ in range(10 * self.repeats):
                machine.sample()
            self.rates[precision] = machine.rates()
        return self.rates[precision]

    def sync(self) -> None:
        """Waits for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def matrix(bench: Bench) -> Iterator[Row]:
    """What the device does at its best: a product of random matrices, and a copy."""
    for precision in PRECISIONS:
        yield {"precision": precision, **bench.rate(precision)}


def step(bench: Bench) -> Iterator[Row]:
    """Our training step, compiled and eager, and which kernels its time goes to."""
    work = flops(bench.size, "training", 1) / (1e12 * bench.rate("bf16")["matrix_tflops"])
    for form, batch in itertools.product(reversed(FORMS), bench.batches):
        torch.compiler.reset()  # or a second batch size would be compiled for any size
        before = allocated(bench.device)
        torch.manual_seed(0)
        model = build_ours(bench.size).to(bench.device)
        model = compiled(model) if form == "compiled" else model
        clips = random_clips("vivit_train", bench.size, batch, bench.device)
        run = make_step(model, clips, "training", "bf16", LARGEST_NORM)
        first = timed(run, bench.device)
        run()
        peak = own_peak(run, bench.device, before)
        label = f"step, {form}, {batch} clips"
        seconds = in_turns({"": run}, 2 * bench.repeats, bench.device, label)[""]
        median = statistics.median(seconds)
        if form == "compiled":
            bench.step_clips_per_second[batch] = batch / median
        yield {
            "form": form,
            "batch": batch,
            "seconds": seconds,
            "median_seconds": median,
            "clips_per_second": batch / median,
            "mfu": work * batch / median,
            "peak_bytes": peak,
            "first_step_seconds": first,
        }
        if form == "compiled" and batch == bench.batches[-1]:
            found = of_step(run, bench.device)
            bench.profile.parent.mkdir(parents=True, exist_ok=True)
            bench.profile.write_text(table(found))
            yield {"form": form, "batch": batch, "profile": found}
        del model, clips, run


def transforms(bench: Bench) -> Iterator[Row]:
    """What training and evaluation do to a batch of clips of several sizes, on the device."""
    count, frames = (16, 32) if bench.is_full else (2, 4)
    batch = ragged_batch(count, frames).to(bench.device)
    processor = Processor()
    settings = OmegaConf.to_container(OmegaConf.load(BASIC))
    assert isinstance(settings, dict)
    augment = Augment(processor, **{str(name): value for name, value in settings.items()})
    rules = augment.rules(["a", "b"], {}, count)
    ways: dict[str, Callable[[], Any]] = {
        "augment": lambda: batch.augmented(augment, rules, (0, 0, 0)),
        "processor": lambda: [processor(clip[None]) for clip in batch.frames],
    }
    for name, run in ways.items():
        host, whole = [], []
        for round_ in range(3 + 2 * bench.repeats):
            bench.sync()
            start = time.perf_counter()
            run()
            issued = time.perf_counter() - start
            bench.sync()
            if round_ >= 3:
                host.append(issued)
                whole.append(time.perf_counter() - start)
        found = of_step(run, bench.device)
        rate = bench.step_clips_per_second.get(count)
        seconds = statistics.median(whole)
        yield {
            "what": name,
            "clips": count,
            "median_seconds": seconds,
            "host_seconds": statistics.median(host),
            "kernel_seconds": found["seconds"],
            "launches": found["launches"],
            "share_of_step": None if rate is None else seconds * rate / count,
        }


def ragged_batch(count: int, frames: int) -> DecodedBatch:
    """Clips of ``FRAME_SIZES`` in turns, of random pixels."""
    sizes = itertools.islice(itertools.cycle(FRAME_SIZES), count)
    random = torch.Generator().manual_seed(0)
    clips = [
        torch.randint(0, 256, (frames, *size, 3), dtype=torch.uint8, generator=random)
        for size in sizes
    ]
    return DecodedBatch(
        labels=torch.zeros(count, dtype=torch.int64),
        indices=torch.arange(count),
        decoded=torch.ones(count, dtype=torch.bool),
        seeds=list(range(count)),
        frames=Clips(clips),
        shrunk=[False] * count,
    )


def huggingface(bench: Bench) -> Iterator[Row]:
    """Ours and Hugging Face's interleaved, eager and compiled; each form has its own limit."""
    alike, difference = build_alike(bench.size, [(o, "sdpa") for o in ORIGINS], bench.device)
    models = {origin: alike[origin, "sdpa"].cpu() for origin in ORIGINS}
    for phase, batch in itertools.product(PHASES, bench.batches_beside):
        torch.compiler.reset()
        runs: dict[Variant, Callable[[], None]] = {}
        peaks: dict[Variant, Any] = {}
        left_out = {}
        for form, origin in itertools.product(FORMS, ORIGINS):
            variant = Variant(origin, phase, "bf16", batch, form)
            before = allocated(bench.device)
            try:
                with time_limit(FORM_SECONDS):
                    runs[variant], peaks[variant] = _prepared(bench, models, variant, before)
            except (OutOfTime, torch.OutOfMemoryError) as error:
                left_out[f"{origin} {form}"] = _why(error)
        label = f"{phase}, {batch} clips"
        seconds = {}
        try:
            seconds = in_turns(runs, bench.repeats, bench.device, label)
        except torch.OutOfMemoryError as error:
            left_out |= {f"{variant.origin} {variant.form}": _why(error) for variant in runs}
        del runs
        rates = {"bf16": bench.rate("bf16")}
        for form in FORMS:
            ours = Variant("vivit_train", phase, "bf16", batch, form)
            line = beside.compare(ours, seconds, peaks, bench.size, rates)
            yield {**line, "left_out": left_out, "logits_differ": difference}


def _prepared(
    bench: Bench, models: dict[str, torch.nn.Module], variant: Variant, before: int
) -> tuple[Callable[[], None], dict[str, Any]]:
    """A variant's step, which has run, and its peak memory."""
    print(f"first steps of {variant}", file=sys.stderr, flush=True)
    model = copy.deepcopy(models[variant.origin]).to(bench.device)
    model = compiled(model) if variant.form == "compiled" else model
    clips = random_clips(variant.origin, bench.size, variant.batch, bench.device)
    run = make_step(model, clips, variant.phase, variant.precision)
    run()
    run()
    return run, {"peak_bytes": own_peak(run, bench.device, before)}


def _why(error: BaseException) -> str:
    return f"over {FORM_SECONDS} s" if isinstance(error, OutOfTime) else "out of memory"


def attention_tables(bench: Bench) -> Iterator[Row]:
    """The rows and columns of Hugging Face's page: eager beside sdpa, ours and theirs, fp32."""
    set_tf32(False)
    kinds = list(itertools.product(ORIGINS, attention.ATTENTIONS))
    models, difference = build_alike(bench.size, kinds, bench.device)
    for model in models.values():
        model.cpu()
    shapes = [("training", 1), *(("inference", batch) for batch in bench.batches_of_table)]
    for phase, batch in shapes:
        runs: dict[tuple[str, str], Callable[[], None]] = {}
        peaks: dict[tuple[str, str], Any] = {}
        for kind in kinds:
            before = allocated(bench.device)
            model = copy.deepcopy(models[kind]).to(bench.device)
            clips = random_clips(kind[0], bench.size, batch, bench.device)
            runs[kind] = make_step(model, clips, phase, "fp32")
            runs[kind]()
            peaks[kind] = {"peak_bytes": own_peak(runs[kind], bench.device, before)}
        label = f"attention, {phase}, {batch} clips"
        seconds = in_turns(runs, bench.repeats, bench.device, label)
        del runs, model, clips
        row = attention.compare(phase, "fp32", batch, seconds, peaks)
        yield {**row, "logits_differ": difference}


def kernels(bench: Bench) -> Iterator[Row]:
    """torch's kernels of attention at the model's shape, forward and with backward."""
    batch, heads, tokens, width = shape = (16, 12, 3137, 64) if bench.is_full else (1, 2, 33, 16)
    work = 4 * batch * heads * tokens**2 * width
    q, k, v = (
        torch.randn(shape, device=bench.device, dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    )
    chosen = sdpa_backend(bench.size, "bf16", bench.device)
    for name, backend in BACKENDS.items():
        row: Row = {"kernel": name, "shape": list(shape), "chosen_by_torch": chosen}
        try:
            with sdpa_kernel(backend):
                both = {"forward": _forward(q, k, v), "both": _forward_and_backward(q, k, v)}
                for way, run in both.items():
                    seconds = in_turns({"": run}, 2 * bench.repeats, bench.device, name)[""]
                    row[f"{way}_seconds"] = statistics.median(seconds)
                    operations = work * (1 if way == "forward" else 3.5)
                    row[f"{way}_tflops"] = operations / row[f"{way}_seconds"] / 1e12
        except RuntimeError as error:  # not on this device, or out of memory
            row["left_out"] = str(error).splitlines()[0]
        yield row


def _forward(q: Tensor, k: Tensor, v: Tensor) -> Callable[[], Any]:
    return lambda: F.scaled_dot_product_attention(q.detach(), k.detach(), v.detach())


def _forward_and_backward(q: Tensor, k: Tensor, v: Tensor) -> Callable[[], Any]:
    def run() -> None:
        x = F.scaled_dot_product_attention(q, k, v)
        torch.autograd.grad(x, (q, k, v), x.detach())

    return run
