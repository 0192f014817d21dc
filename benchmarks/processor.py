"""The image processor beside Hugging Face's: milliseconds for one clip, and where they go.

    python benchmarks/processor.py                                # CPU, one thread
    python benchmarks/processor.py --device cuda --repeats 50

All run in turns, in one process, on the same frames. ``VivitImageProcessor`` (Pillow, and the
pixels that ours must equal within a grey level) takes a list of arrays, as its users give them;
``VivitVideoProcessor`` (torchvision) takes a tensor, on the device. On a CPU the times are the
process's own, which other programs disturb least. The floor is a copy of the bytes that any
implementation reads and writes.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from measure import Arguments, head, need_transformers, write_report
from rich.console import Console
from rich.table import Table
from torch import Tensor

from vivit_train.transforms.processor import Processor

SIZES = ["340x256", "320x240", "426x240", "640x360", "1280x720"]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    need_transformers()
    torch.set_num_threads(args.threads)
    packages = ("torch", "torchvision", "transformers", "pillow", "vivit-train")
    settings = {name: getattr(args, name) for name in ("device", "frames", "threads")}
    report = head(settings, args.device, *packages) | {
        "results": [
            measure(size, normalize, args) for size in args.sizes for normalize in (False, True)
        ],
    }
    print_report(report)
    write_report(report, args.output)
    return report


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Arguments(__doc__, "processor_{device}")
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="WIDTHxHEIGHT in pixels")
    parser.add_argument("--frames", type=int, default=32, help="of the clip")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7, help="rounds after the warm-up")
    return parser.parse(argv)


def measure(size: str, normalize: bool, args: argparse.Namespace) -> dict[str, Any]:
    """One line of the table; with ``normalize`` the settings are the library's defaults."""
    print(f"{size}, do_normalize={normalize}", file=sys.stderr, flush=True)
    width, height = map(int, size.split("x"))
    generator = torch.Generator().manual_seed(0)
    shape = (1, args.frames, height, width, 3)
    frames = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    processor = Processor.from_huggingface({"do_normalize": normalize})
    runs = variants(processor, frames, normalize, args.device)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(args.repeats + 1):
        # Every other round backwards, so that no variant always follows the same one.
        for name in runs if round_ % 2 else reversed(runs):
            seconds[name].append(timed(runs[name], args.device))
    # Round 0 warms up: allocators, caches, tables of weights.
    medians = {name: 1e3 * statistics.median(times[1:]) for name, times in seconds.items()}
    ours, theirs = runs["processor"]().cpu(), runs["image_processor"]()
    differences = (ours - theirs.transpose(1, 2)).abs()
    return {
        "size": size,
        "do_normalize": normalize,
        "median_milliseconds": medians,
        "speed_ratio": medians["image_processor"] / medians["processor"],
        "speed_ratio_to_video_processor": medians["video_processor"] / medians["processor"],
        "largest_difference": differences.max().item(),
        "differing_share": (differences > 1e-5).float().mean().item(),
    }


def variants(
    processor: Processor, frames: Tensor, normalize: bool, device: str
) -> dict[str, Callable[[], Any]]:
    """What is timed: whole processors, the floor, and our steps one by one."""
    from transformers import VivitImageProcessor, VivitVideoProcessor

    image_processor = VivitImageProcessor(do_normalize=normalize)
    video_processor = VivitVideoProcessor(do_normalize=normalize)
    arrays = list(frames[0].numpy())
    on_device = frames.to(device)
    planar = on_device[0].movedim(-1, 1).contiguous()
    size = processor.resized_size(*frames.shape[2:4])
    corners = processor.corners(*size)

    def resize_and_crop() -> Tensor:
        return processor.crop(processor.resize(on_device, size), corners)

    window = resize_and_crop()
    read = on_device.flatten()[: window.numel()]
    written = torch.empty(read.shape, device=device)
    return {
        "processor": lambda: processor(on_device),
        "image_processor": lambda: image_processor(arrays, return_tensors="pt")["pixel_values"],
        "video_processor": lambda: video_processor(planar, return_tensors="pt"),
        "resize_and_crop": resize_and_crop,
        "to_float": lambda: processor.to_float(window),
        "floor": lambda: written.copy_(read),
    }


def timed(function: Callable[[], Any], device: str) -> float:
    if device == "cpu":
        start = time.process_time()
        function()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def print_report(report: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    columns = ("", "ours ms", "image proc.", "ratio", "video proc.", "ratio")
    for column in (*columns, "resize+crop", "to float", "floor", "differ by", "in"):
        table.add_column(column, justify="right" if column else "left")
    for line in report["results"]:
        names = ("processor", "image_processor", "video_processor")
        steps = ("resize_and_crop", "to_float", "floor")
        shown = {name: f"{ms:.1f}" for name, ms in line["median_milliseconds"].items()}
        ours, image, video = (shown[name] for name in names)
        table.add_row(
            line["size"] + (" normalized" if line["do_normalize"] else ""),
            *(ours, image, f"{line['speed_ratio']:.2f}x"),
            *(video, f"{line['speed_ratio_to_video_processor']:.2f}x"),
            *(shown[name] for name in steps),
            f"{line['largest_difference']:.1e}",
            f"{line['differing_share']:.1%}",
        )
    settings = report["settings"]
    console = Console(markup=False, highlight=False, width=120)
    console.print(
        f"{settings['frames']} frames, {settings['device']}, {settings['threads']} threads"
    )
    console.print(table)


if __name__ == "__main__":
    main()
