"""Whole epochs beside a plain Hugging Face recipe's: clips per second, and where the time goes.

    python benchmarks/end_to_end.py                              # CPU, a small model: minutes
    python benchmarks/end_to_end.py --model b --clips 8 --videos 1 --repeats 1
    python benchmarks/end_to_end.py --device cuda --model b --workers 16 --clips 1024

Ours is what `train.py` builds from its configuration, meters and csv log included. The recipe is
what users of the library write: a data set whose items are decoded and go through
`VivitImageProcessor` in the worker, PyTorch's own collation, `VivitForVideoClassification` (sdpa)
and AdamW in a loop; in evaluation each of 4 clips of a video is an item, cropped 3 times. The
videos, the decoder, the pixels, the size of the model, the batch, the workers and the precision
are the same on both sides. Neither augments.

They take turns, an epoch each, in a process each, ours with the environment that `train.py` gives
itself; every epoch starts its workers. An epoch's time runs from `trainer.fit` or `trainer.test` to
the epoch's end; ratios are medians over the rounds. The small model is there for the CPU: its step
costs about as much as decoding the clip, as that of ViViT-B does where a GPU does it and CPU cores
decode.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import torch
from lightning import Callback, LightningModule, Trainer
from loader import write_videos
from measure import Arguments, head, need_transformers, write_report
from recipe import (
    CLASSES,
    EPOCHS,
    FRAME_STRIDE,
    IMAGE_SIZE,
    LEARNING_RATE,
    MODELS,
    PARTS,
    SPATIAL_VIEWS,
    TEMPORAL_VIEWS,
    Recipe,
)
from rich.console import Console
from rich.table import Table
from torch import nn

from vivit_train import build
from vivit_train.config import compose_config, to_plain
from vivit_train.data.loader import LazyLoader, available_cores
from vivit_train.io.quiet import hush_lightning
from vivit_train.launch import devices
from vivit_train.launch.entry import leave_cores_to_workers

WHO = ("ours", "recipe")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    need_transformers()
    with ExitStack() as stack:
        root = write_data(Path(stack.enter_context(tempfile.TemporaryDirectory())), args)
        sides = {"recipe": stack.enter_context(OwnProcess(Recipe, root, args))}
        leave_cores_to_workers()
        sides["ours"] = stack.enter_context(OwnProcess(Ours, root, args))
        results = [measure(sides, epoch, args) for epoch in EPOCHS]
    names = ("model", "clips", "videos", "batch", "workers", "repeats", "seconds")
    settings = {name: getattr(args, name) for name in names}
    precision = devices.resolve_precision("auto", args.device)
    settings |= {"precision": precision, "cores": available_cores()}
    packages = ("torch", "torchvision", "lightning", "transformers", "av", "vivit-train")
    report = {**head(settings, args.device, *packages), "results": results}
    print_report(report)
    write_report(report, args.output)
    return report


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Arguments(__doc__, "end_to_end_{device}")
    parser.add_argument("--model", choices=MODELS, default="small")
    parser.add_argument("--clips", type=int, default=96, help="of a training epoch")
    parser.add_argument("--videos", type=int, default=16, help="of an evaluation, 4x3 views each")
    parser.add_argument("--batch", type=int, default=8, help="clips of a batch")
    parser.add_argument("--workers", type=int, default=available_cores(), help="processes")
    parser.add_argument("--seconds", type=float, default=10, help="length of a video")
    parser.add_argument("--repeats", type=int, default=5, help="rounds after the warm-up")
    args = parser.parse(argv)
    if args.clips % args.batch:
        parser.error(f"--clips {args.clips} must be a multiple of --batch {args.batch}")
    return args


def write_data(root: Path, args: argparse.Namespace) -> Path:
    """Four videos, listed as often as an epoch has clips."""
    (root / "videos").mkdir()
    names = sorted(path.name for path in write_videos(root / "videos", args.seconds).iterdir())
    for split, count in (("train", args.clips), ("val", args.videos)):
        rows = [f"videos/{names[i % len(names)]},{CLASSES[i % 2]}\n" for i in range(count)]
        (root / f"{split}.csv").write_text("".join(rows))
    return root


class OwnProcess:
    """One side in a new Python, with the environment of now; it runs epochs as they are asked for.

    Args:
        side: `Ours` or `Recipe`.
        root: The data.
        args: The command's.
    """

    def __init__(self, side: type["Ours | Recipe"], root: Path, args: argparse.Namespace) -> None:
        self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        how = multiprocessing.get_start_method()
        self._pool.submit(_begin, how, side, root, args).result()

    def run(self, epoch: str) -> dict[str, float]:
        """Seconds of an epoch, and of its parts."""
        return self._pool.submit(_run, epoch).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()


def _begin(how: str, side: type["Ours | Recipe"], root: Path, args: argparse.Namespace) -> None:
    global _side
    # Workers start as a program's of its own do; "spawn" would pass on from this process to them.
    multiprocessing.set_start_method(how, force=True)
    hush_lightning()
    _side = side(root, args)


def _run(epoch: str) -> dict[str, float]:
    return getattr(_side, epoch)()


class Ours:
    """The DataModule, module and trainer of a run."""

    def __init__(self, root: Path, args: argparse.Namespace) -> None:
        settings = {
            **{f"model.{name}": value for name, value in MODELS[args.model].items()},
            "model.image_size": IMAGE_SIZE,
            "data.root": root,
            "data.batch_size": args.batch,
            "data.num_workers": args.workers,
            "data.frame_stride": FRAME_STRIDE,
            "data.eval_views": [TEMPORAL_VIEWS, SPATIAL_VIEWS],
            "optim.lr": LEARNING_RATE,
            "optim.warmup_epochs": 0,
            "trainer.accelerator": args.device,
            "trainer.devices": 1,
            "trainer.max_epochs": 1,
            "trainer.limit_val_batches": 0,
            "trainer.enable_progress_bar": False,
            "run_dir": root / "run",
        }
        words = ["data=folder", "augment=none", "processor=huggingface"]
        words += [f"{name}={value}".replace(" ", "") for name, value in settings.items()]
        self.config = to_plain(compose_config(words))
        self.data = build.build_data(self.config)
        self.data.setup()
        self.module = build.build_module(self.config, self.data)

    def training(self) -> dict[str, float]:
        """Seconds of an epoch, and of its parts."""
        trainer, clock = self._trainer()
        trainer.fit(self.module, datamodule=self.data)
        return clock.seconds

    def evaluation(self) -> dict[str, float]:
        """The same for the test on all views."""
        trainer, clock = self._trainer()
        trainer.test(self.module, datamodule=self.data, verbose=False)
        return clock.seconds

    def _trainer(self) -> tuple[Trainer, "Clock"]:
        trainer, _ = build.build_trainer(self.config, Path(self.config["run_dir"]))
        clock = Clock(self.data.augment, self.data.processor)
        trainer.callbacks.insert(0, clock)
        return trainer, clock


class Clock(Callback):
    """Times an epoch from the trainer's call to the epoch's end, and its parts.

    Args:
        augment: What makes a batch of clips in training.
        processor: The same in evaluation.
    """

    def __init__(self, augment: nn.Module, processor: nn.Module) -> None:
        self.modules = (augment, processor)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Starts: the trainer has been called."""
        self.seconds = dict.fromkeys(PARTS, 0.0)
        # In training the processor works within the augmentation, if at all.
        watched = self.modules[0 if stage == "fit" else 1]
        self.hooks = [
            watched.register_forward_pre_hook(lambda *_: self._add("process", -1)),
            watched.register_forward_hook(lambda *_: self._add("process", +1)),
        ]
        self.start = time.perf_counter()

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Adds what decoding the batch took in its worker."""
        self.seconds["decode"] += args[3].decode_seconds

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """The same."""
        self.seconds["decode"] += args[3].decode_seconds

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops before the checkpoint is written."""
        self._stop(trainer.train_dataloader)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops."""
        self._stop(trainer.test_dataloaders)

    def _add(self, part: str, sign: int) -> None:
        self.seconds[part] += sign * time.perf_counter()

    def _stop(self, loader: LazyLoader) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        total = time.perf_counter() - self.start
        self.seconds["wait"] = loader.wait_seconds
        self.seconds["step"] = total - self.seconds["wait"] - self.seconds["process"]
        self.seconds["total"] = total
        for hook in self.hooks:
            hook.remove()


def measure(sides: dict[str, OwnProcess], epoch: str, args: argparse.Namespace) -> dict[str, Any]:
    """One kind of epoch on both sides."""
    clips = args.clips if epoch == "training" else args.videos * TEMPORAL_VIEWS * SPATIAL_VIEWS
    rounds: dict[str, list[dict[str, float]]] = {who: [] for who in WHO}
    for round_ in range(args.repeats + 1):
        print(f"{epoch}: round {round_} of {args.repeats}", file=sys.stderr, flush=True)
        for who in WHO if round_ % 2 else reversed(WHO):
            rounds[who].append(sides[who].run(epoch))
    # Round 0 warms up: files come into memory, allocators and kernels find their sizes.
    counted = {who: rounds[who][1:] for who in WHO}
    ratios = [
        recipe["total"] / ours["total"] for ours, recipe in zip(counted["ours"], counted["recipe"])
    ]
    return {
        "epoch": epoch,
        "clips": clips,
        "rounds": counted,
        "clips_per_second": {
            who: clips / statistics.median(r["total"] for r in counted[who]) for who in WHO
        },
        "milliseconds_per_clip": {
            who: {
                part: 1e3 / clips * statistics.median(r[part] for r in counted[who])
                for part in PARTS
            }
            for who in WHO
        },
        "ratios": ratios,
        "ratio": statistics.median(ratios),
    }


def print_report(report: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("epoch", "", "clips/s", *PARTS, "ratio"):
        table.add_column(column, justify="left" if column in ("epoch", "") else "right")
    for line in report["results"]:
        for who in WHO:
            parts = line["milliseconds_per_clip"][who]
            table.add_row(
                line["epoch"] if who == "ours" else "",
                who,
                f"{line['clips_per_second'][who]:.1f}",
                *(f"{parts[part]:.1f}" for part in PARTS),
                f"{line['ratio']:.2f}x" if who == "ours" else "",
            )
    settings = report["settings"]
    console = Console(markup=False, highlight=False, width=120)
    console.print(
        f"{report['hardware'].get('gpu', report['hardware']['cpu'])}, {settings['cores']} cores, "
        f"{settings['workers']} workers; model {settings['model']}, {settings['precision']}, "
        f"batches of {settings['batch']}; milliseconds per clip, medians of "
        f"{settings['repeats']}.\nThe recipe decodes and processes in workers, ours decodes there; "
        "an epoch is wait + step, of ours + process.\n"
    )
    console.print(table)


if __name__ == "__main__":
    main()
