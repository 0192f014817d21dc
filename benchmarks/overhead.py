"""What a run's bookkeeping costs: averaging, resuming exactly, watching for faults, meters.

    python benchmarks/overhead.py                       # ViViT-S at 16x112x112 on a CPU, minutes
    python benchmarks/overhead.py --device cuda model=vivit_b data.batch_size=16

Trains on generated clips as `train.py` does, with averaged weights and everything logged that is
logged by default, and times each hook of each callback within the step. Writing checkpoints is not
part of it: it is as often as callbacks.every_n_train_steps says, and timed by itself.
"""

import argparse
import contextlib
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from measure import Arguments, head, write_report
from rich.console import Console
from rich.table import Table

from vivit_train import build
from vivit_train.config import compose_config, to_plain
from vivit_train.io.quiet import hush_lightning

# Of one step, in order; `Ema` works in a hook of the optimiser's.
HOOKS = (
    "on_train_batch_start",
    "on_before_backward",
    "on_before_optimizer_step",
    "update",
    "on_train_batch_end",
)
# Steps that are not counted: workers start, memory is asked for.
WARMUP_STEPS = 5
SETTINGS = (
    "model=vivit_s",
    "model.image_size=112",
    "model.num_frames=16",
    "data=demo",
    "data.batch_size=8",
    "callbacks.ema_decay=0.999",
    "trainer.limit_val_batches=0",
    "trainer.enable_progress_bar=false",
    "trainer.max_epochs=1000",
    "optim.warmup_epochs=0",
)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    hush_lightning()
    with tempfile.TemporaryDirectory() as folder:
        words = [*SETTINGS, f"data.root={folder}/demo", "data.train_per_class=16"]
        words += ["data.val_per_class=1", f"trainer.accelerator={args.device}"]
        words += [f"trainer.max_steps={WARMUP_STEPS + args.steps}", f"run_dir={folder}/run"]
        config = to_plain(compose_config([*words, *args.overrides]))
        data = build.build_data(config)
        data.setup()
        module = build.build_module(config, data)
        trainer, checkpoints = build.build_trainer(config, Path(folder) / "run")
        watch = Watch(trainer, args.device)
        trainer.fit(module, datamodule=data)
        checkpoint = watch.timed(lambda: trainer.save_checkpoint(checkpoints.last))
    steps = watch.steps[WARMUP_STEPS:]
    step = statistics.median(steps)
    settings = {"steps": args.steps, "overrides": [*SETTINGS, *args.overrides]}
    report = head(settings, args.device, "torch", "lightning", "vivit-train") | {
        "parameters": sum(p.numel() for p in module.parameters()),
        "step_seconds": step,
        "checkpoint_seconds": checkpoint,
        "callbacks": {
            name: {
                "median_seconds": statistics.median(seconds[WARMUP_STEPS:]),
                "share": sum(seconds[WARMUP_STEPS:]) / sum(steps),
            }
            for name, seconds in watch.seconds.items()
        },
    }
    print_report(report)
    write_report(report, args.output)
    return report


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Arguments(__doc__, "overhead_{device}")
    parser.add_argument("--steps", type=int, default=40, help="that count")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the run")
    return parser.parse(argv)


class Watch:
    """Times the steps of a trainer, and in each the hooks of each callback.

    On a GPU it waits for the device before and after each hook: what the hook starts there counts
    as its own, and the steps take longer than without the watch.

    Attributes:
        steps: Seconds from one batch's start to the next's.
        seconds: For each callback its seconds in each step.
    """

    def __init__(self, trainer: Trainer, device: str) -> None:
        self.synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
        self.steps: list[float] = []
        self.seconds: dict[str, list[float]] = {}
        self._last: float | None = None
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        for callback in filter(works_in_a_step, callbacks):
            self.seconds[type(callback).__name__] = []
            for hook in HOOKS:
                if hasattr(callback, hook):
                    self._wrap(callback, hook)
        first, begin = callbacks[0], callbacks[0].on_train_batch_start

        @functools.wraps(begin)
        def begins_step(*args: Any, **kwargs: Any) -> None:
            now = time.perf_counter()
            if self._last is not None:
                self.steps.append(now - self._last)
            self._last = now
            for seconds in self.seconds.values():
                seconds.append(0.0)
            begin(*args, **kwargs)

        first.on_train_batch_start = begins_step  # type: ignore[method-assign]

    def timed(self, function: Callable[[], Any]) -> float:
        """Seconds from an idle device to an idle device."""
        self.synchronize()
        start = time.perf_counter()
        function()
        self.synchronize()
        return time.perf_counter() - start

    def _wrap(self, callback: Callback, hook: str) -> None:
        name, inner = type(callback).__name__, getattr(callback, hook)

        @functools.wraps(inner)
        def watched(*args: Any, **kwargs: Any) -> Any:
            with self._counted(name):
                return inner(*args, **kwargs)

        setattr(callback, hook, watched)

    @contextlib.contextmanager
    def _counted(self, name: str) -> Iterator[None]:
        self.synchronize()
        start = time.perf_counter()
        yield
        self.synchronize()
        if self.seconds[name]:
            self.seconds[name][-1] += time.perf_counter() - start


def works_in_a_step(callback: Callback) -> bool:
    """Whether a callback has a hook of its own among them."""
    return any(
        getattr(type(callback), hook, None) not in (None, getattr(Callback, hook, None))
        for hook in HOOKS
    )


def print_report(report: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("callback", "ms of a step", "share"):
        table.add_column(column, justify="left" if column == "callback" else "right")
    shares = {name: found["share"] for name, found in report["callbacks"].items()}
    for name, found in report["callbacks"].items():
        table.add_row(name, f"{1e3 * found['median_seconds']:.2f}", f"{found['share']:.2%}")
    table.add_row("together", "", f"{sum(shares.values()):.2%}")
    console = Console(markup=False, highlight=False)
    console.print(
        f"{report['parameters'] / 1e6:.1f} million parameters, a step takes "
        f"{1e3 * report['step_seconds']:.0f} ms, a checkpoint {report['checkpoint_seconds']:.2f} s"
    )
    console.print(table)


if __name__ == "__main__":
    main()
