"""What a ViViT is made of and what it costs, found without weights, clips or a device.

Compute is in multiply-accumulates (MACs) of the matrix products, which is what the paper's "FLOPs"
are. Memory is in bytes. Sizes are (t, h, w), as in `vivit_train.model.vivit`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vivit_train.describe.counts import Part, build, count_macs, parts, size
from vivit_train.describe.memory import Memory, training_memory
from vivit_train.describe.paper import PaperRow, paper_row
from vivit_train.model.pos_embed import Grid
from vivit_train.optim import freeze as freeze_parts

__all__ = ["Description", "build", "count_macs", "describe", "training_memory"]


@dataclass(frozen=True)
class Description:
    """A model, what it computes and what training it takes.

    Attributes:
        model: ViViT's arguments, with what ``None`` stands for.
        clip: Frames, height and width of a clip.
        parts: In order.
        tokens: N, of one clip, without class tokens.
        parameters: Of the model.
        trained_parameters: Those that training changes, LoRA's own among them.
        macs: Multiply-accumulates per view, of all blocks whole, as the paper counts.
        computed_macs: Those that a view takes, as the last blocks make only what the head reads.
        views: Temporal and spatial views per video.
        batch_size: Clips per training step.
        precision: Of training, as Lightning calls it.
        optimizer: Of training.
        memory: Of a training step.
        paper: What the paper says about this model, if anything.
    """

    model: dict[str, Any]
    clip: Grid
    parts: list[Part]
    tokens: int
    parameters: int
    trained_parameters: int
    macs: int
    computed_macs: int
    views: tuple[int, int]
    batch_size: int
    precision: str
    optimizer: str
    memory: Memory
    paper: PaperRow | None

    @property
    def macs_per_video(self) -> int:
        """Multiply-accumulates of all views of a video."""
        return self.macs * math.prod(self.views)

    def paper_differences(self) -> dict[str, float]:
        """By how many percent our count is above the paper's: ``macs``, ``parameters``."""
        theirs = {name: getattr(self.paper, name, None) for name in ("macs", "parameters")}
        return {name: 100 * (getattr(self, name) / x - 1) for name, x in theirs.items() if x}

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        plain = asdict(self) | {"macs_per_video": self.macs_per_video}
        plain["memory"]["total"] = self.memory.total
        if self.paper is not None:
            plain["paper"]["differences_percent"] = self.paper_differences()
        return plain


def describe(
    arguments: Mapping[str, Any],
    clip: Grid,
    views: tuple[int, int] = (4, 3),
    batch_size: int = 1,
    precision: str = "32-true",
    optimizer: str = "sgd",
    freeze: str | Sequence[str] | None = None,
    lora_rank: int | None = None,
) -> Description:
    """Describes a ViViT without making its weights.

    Args:
        arguments: As for ``build``.
        clip: Frames, height and width of a clip.
        views: Temporal and spatial views per video.
        batch_size: Clips per training step on one device.
        precision: One of ``PRECISIONS``.
        optimizer: ``sgd`` (with momentum) or ``adamw``.
        freeze: What training leaves alone, see `vivit_train.optim.freeze`.
        lora_rank: See there as well.

    Raises:
        UserError: If a value is wrong.
    """
    model = build(arguments)
    found = parts(model, clip)
    trained = build(arguments)
    freeze_parts(trained, freeze, lora_rank)
    return Description(
        model=model.config,
        clip=clip,
        parts=found,
        tokens=math.prod(found[0].outputs.grid),
        parameters=sum(part.parameters for part in found),
        trained_parameters=size(trained, trained=True),
        macs=sum(part.macs for part in found),
        computed_macs=count_macs(model, clip)[""],
        views=views,
        batch_size=batch_size,
        precision=precision,
        optimizer=optimizer,
        memory=training_memory(trained, clip, batch_size, precision, optimizer),
        paper=paper_row(model, clip),
    )
