"""Show a model's parts, its compute and the memory to train it, beside the paper's figures.

  vivit describe model=vivit_b_fe data=kinetics400
  vivit describe model=vivit_l_fe model.num_frames=128 data.batch_size=4 trainer.accelerator=gpu
  vivit describe model=vivit_b data=folder --num-classes 12 --json
  vivit describe model=vivit_b data=folder optim=adamw optim.lora_rank=8 --num-classes 12

KEY=VALUE are those of train.py, and so are the defaults; no data is read and no weights are made.
Compute is in multiply-accumulates (MACs), which the paper calls FLOPs. Memory is an estimate for
one device: backward's own buffers, the libraries and the allocator's waste come on top. To plan
for a GPU on a machine without one, set trainer.accelerator=gpu.
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from vivit_train.errors import UserError
from vivit_train.io.terminal import say_json

if TYPE_CHECKING:
    from rich.console import Console

    from vivit_train.describe import Description
    from vivit_train.describe.counts import Part
    from vivit_train.video.sampling import Sampling

# (size, name, decimals)
UNITS = ((1e12, "T", 2), (1e9, "G", 1), (1e6, "M", 1), (1e3, "K", 1))

# No video is read: seconds are given for this frame rate, which many videos have.
USUAL_RATE = 30.0

# Keys that this command uses; see `is_used`.
USES = (
    "experiment", "model", "-model.name", "-model.pretrained", "-model.from_image",
    "-model.activation_checkpointing", "-model.attention_kernel", "-model.compile",
    "data.clip_frames", "data.frame_stride", "data.frame_rate", "data.clip_seconds",
    "data.sampling", "data.batch_size", "data.eval_views", "processor", "optim.name",
    "optim.freeze", "optim.lora_rank", "trainer.accelerator", "trainer.precision",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for train.py")
    parser.add_argument(
        "--num-classes", type=int, default=400, metavar="N", help="of the head (default 400)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def run(arguments: argparse.Namespace) -> int:
    """Describes the configured model."""
    from vivit_train.config import compose_config, to_plain

    if arguments.num_classes < 1:
        raise UserError(f"--num-classes must be 1 or more, got {arguments.num_classes}")
    config = to_plain(compose_config(arguments.overrides), needs_weights=False)

    from vivit_train.recipe.preset import without_auto
    from vivit_train.video.sampling import SPACINGS, Sampling

    data = without_auto(config)["data"]
    spacing = {name: data[name] for name in SPACINGS}
    sampling = Sampling(data["clip_frames"], **spacing, sampling=data["sampling"] or "window")
    description = describe_config(config, arguments.num_classes)
    if arguments.json:
        say_json(description.to_dict())
    else:
        from rich.console import Console

        # No markup: shapes have brackets.
        console = Console(markup=False, highlight=False, soft_wrap=True)
        print_model(description, clip_in_words(sampling), console)
        print_memory(description, console)
    return 0


def describe_config(config: dict[str, Any], num_classes: int) -> "Description":
    """Describes the model of a resolved configuration on the clips that it would get."""
    from vivit_train.describe import describe
    from vivit_train.describe.memory import SHORT_PRECISIONS
    from vivit_train.io.quiet import hush_lightning
    from vivit_train.launch.devices import resolve_precision
    from vivit_train.model.arguments import arguments_in
    from vivit_train.recipe.preset import without_auto
    from vivit_train.transforms.processor import Processor

    hush_lightning()
    model = arguments_in(config["model"])
    native = model["image_size"]
    native = (native, native) if isinstance(native, int) else native
    height, width = Processor.from_config(config["processor"]).output_size or native
    trainer, data = config["trainer"], without_auto(config)["data"]
    precision = str(resolve_precision(trainer["precision"], trainer["accelerator"]))
    return describe(
        {**model, "num_classes": num_classes},
        (data["clip_frames"], height, width),
        (data["eval_views"][0], data["eval_views"][1]),
        data["batch_size"],
        SHORT_PRECISIONS.get(precision, precision),
        config["optim"]["name"],
        config["optim"]["freeze"],
        config["optim"]["lora_rank"],
    )


def clip_in_words(sampling: "Sampling") -> str:
    """How clips are taken, also in seconds, with the frame rate where it is assumed."""
    seconds = sampling.seconds(USUAL_RATE)
    if seconds is None:
        return str(sampling)
    condition = f" if the videos have {USUAL_RATE:g} frames/s" if sampling.frame_stride else ""
    return f"{sampling}: {seconds:.3g} s{condition}"


def print_model(description: "Description", clip: str, console: "Console") -> None:
    """Prints the parts, the totals and the paper's figures; ``clip`` says how clips are taken."""
    from rich.table import Table

    frames, height, width = description.clip
    console.print(
        f"{description.model['attention']}, {description.model['num_classes']} classes "
        f"(--num-classes), clips of {frames}x{height}x{width}\n"
        f"a clip is {clip}\n"
        "in, out: tokens [t,h,w] + class tokens, and their width\n"
    )
    table = Table("part", "in", "out", box=None, pad_edge=False)
    table.add_column("parameters", justify="right")
    table.add_column("MACs", justify="right")
    for column in table.columns:
        column.no_wrap = True
    for name, part in lines(description.parts):
        numbers = [in_units(n) if n else "-" for n in (part.parameters, part.macs)]
        table.add_row(name, str(part.inputs), str(part.outputs), *numbers)
    console.print(table)
    temporal, spatial = description.views
    console.print(
        f"\n{in_units(description.parameters)} parameters, {description.tokens} tokens\n"
        f"{in_units(description.macs)} MACs per view, {in_units(description.macs_per_video)} per "
        f"video of {temporal} x {spatial} views"
    )
    if (trained := description.trained_parameters) != description.parameters:
        share = 100 * trained / description.parameters
        console.print(f"{in_units(trained)} parameters are trained, {share:.1f} % of the model")
    if description.computed_macs < description.macs:
        console.print(
            f"{in_units(description.computed_macs)} per view are computed: the last block makes "
            "only what the head reads"
        )
    paper, differences = description.paper, description.paper_differences()
    if paper is not None:
        theirs = ", ".join(
            f"{in_units(getattr(paper, name))} {'MACs per view' if name == 'macs' else name} "
            f"(ours {difference:+.1f} %)"
            for name, difference in differences.items()
        )
        console.print(f"{paper.source}: {theirs}")


def print_memory(description: "Description", console: "Console") -> None:
    """Prints the estimated memory of a training step."""
    from rich.table import Table

    memory = description.memory
    table = Table("", box=None, pad_edge=False, show_header=False)
    table.add_column(justify="right")
    for name in ("parameters", "gradients", "optimizer_state", "activations", "total"):
        table.add_row(name.replace("_", " "), f"{getattr(memory, name) / 2**30:.2f} GiB")
    console.print(
        f"\nTraining memory, estimated: batches of {description.batch_size}, "
        f"{description.precision}, {description.optimizer}"
    )
    console.print(table)


def lines(parts: "Sequence[Part]", indent: str = "") -> "Iterator[tuple[str, Part]]":
    """Parts and what they consist of, with their names indented."""
    for part in parts:
        repeats = f" x {part.repeats}" if part.parts and part.repeats > 1 else ""
        yield f"{indent}{part.name}{repeats}", part
        yield from lines(part.parts, indent + "  ")


def in_units(number: float) -> str:
    """A count, rounded: ``768``, ``89.0 M``, ``451.5 G``, ``3.98 T``."""
    for scale, unit, digits in UNITS:
        if number >= scale:
            return f"{number / scale:.{digits}f} {unit}"
    return str(number)
