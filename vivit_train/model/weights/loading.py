"""Loading weights into a model: every tensor is accounted for, or nothing is loaded."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vivit_train.class_names import match_class_names
from vivit_train.errors import UserError
from vivit_train.model.layers import ACTIVATIONS
from vivit_train.model.pos_embed import Grid, interpolate_positions
from vivit_train.model.vivit import TubeletEmbedding, ViViT
from vivit_train.model.weights.account import Row, by_kind
from vivit_train.model.weights.files import Weights
from vivit_train.model.weights.inflate import FromImage, inflate_positions, inflate_tubelets

# Arguments that decide what the weights mean. Some leave no trace in any shape.
DECISIVE = (
    "attention",
    "attention_order",
    "tubelet_size",
    "num_channels",
    "hidden_size",
    "num_layers",
    "num_heads",
    "mlp_size",
    "temporal_layers",
    "temporal_heads",
    "temporal_mlp_size",
    "activation",
    "layer_norm_eps",
    "qkv_bias",
)
ENCODERS = ("encoder", "temporal_encoder")


def load_weights(
    model: ViViT,
    weights: Weights,
    class_names: Sequence[str] | None = None,
    from_image: FromImage | None = None,
    multi_label: bool | None = None,
) -> list[Row]:
    """Copies weights into a model, accounting for every tensor on both sides.

    Positions of another grid are interpolated. The head's rows are matched by class name, and
    rows that match none keep what the model has. An image ViT starts any of the four video models,
    by the rules of `FromImage`; what it has no weights for keeps what the model has. Anything
    else must fit exactly.

    Args:
        model: Changed in place, or not at all when an error is raised.
        weights: What ``read_weights`` returned.
        class_names: The model's classes in the order of its head's rows. ``None``: the caller
            has none, so the head is taken as it is.
        from_image: How tubelets, positions and Model 3's attentions come out of an image model;
            ``None``: as ``FromImage()`` says.
        multi_label: What the model's logits mean; a head that means something else is not taken.

    Returns:
        One row per tensor of the model, then one per unused tensor of the file.

    Raises:
        UserError: If anything does not fit, is left over or missing, with names and shapes.
    """
    if class_names is not None and len(class_names) != model.num_classes:
        raise UserError(
            f"{len(class_names)} class names do not fit model.num_classes={model.num_classes}"
        )
    plan = _Plan(model, weights, from_image or FromImage())
    plan.settings()
    plan.pooling()
    plan.architecture()
    plan.head(class_names, multi_label)
    plan.tubelets()
    for encoder in ENCODERS:
        plan.positions(encoder)
    plan.the_rest()
    plan.carry_out()
    return plan.rows()


@dataclass
class _Plan:
    """Decides what becomes of each tensor, and copies only when all is decided.

    Each step takes its tensors out of ``state``; what remains in the end is left over.
    """

    model: ViViT
    weights: Weights
    from_image: FromImage
    values: dict[str, Tensor] = field(default_factory=dict)
    account: dict[str, Row] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    misfits: list[tuple[str, str]] = field(default_factory=list)  # (tensor, what is wrong)

    def __post_init__(self) -> None:
        self.state = dict(self.weights.state)
        self.target = self.model.state_dict()
        self.unused |= self.weights.unused
        told = self.weights.model
        embeds_frames = list(told.get("tubelet_size", ()))[:1] == [1]
        # A Scenic file looks the same for an image model and for a video model that embeds
        # single frames; Scenic takes both alike.
        self.is_image = self.weights.is_image or ("attention" not in told and embeds_frames)

    def settings(self) -> None:
        """Arguments that the file contains must be the model's."""
        told, ours, attention = self.weights.model, self.model.config, self.model.attention
        for name in DECISIVE:
            if name in told and not self._agree(name, told[name], ours[name]):
                file = list(told[name]) if isinstance(told[name], tuple) else told[name]
                self.faults.append(f"model.{name}={ours[name]}, but the file's is {file}")
        same_tensors = ("spatio_temporal", "factorised_dot_product")
        untold = "attention" not in told and not self.is_image
        if untold and attention not in same_tensors:
            either = " or ".join(same_tensors)
            self.faults.append(f"model.attention={attention}, but the file's is {either}")

    def _agree(self, name: str, file: Any, model: Any) -> bool:
        if name == "activation" and file in ACTIVATIONS:  # equal under other names
            return repr(ACTIVATIONS[file]()) == repr(ACTIVATIONS[model]())
        if name == "tubelet_size":
            # One frame can be spread over a tubelet's frames; nothing else has a rule.
            return list(file[1:]) == list(model[1:]) and file[0] in (1, model[0])
        return file == model

    def pooling(self) -> None:
        """Takes out the class tokens where the model has none."""
        for encoder in ENCODERS:
            cls, table = f"{encoder}.cls_token", f"{encoder}.pos_embed"
            if cls in self.target and cls not in self.state:
                if not self.is_image and table in self.state:
                    self.faults.append(
                        "model.pooling=cls, but the file has no class token: set it to mean"
                    )
            elif cls in self.state and cls not in self.target and table in self.target:
                del self.state[cls]
                reason = f"model.pooling={self.model.pooling} has no class token"
                self.unused |= {cls: reason, f"{table}, first row": reason}
                if table in self.state:
                    self.state[table] = self.state[table][:, 1:]

    def architecture(self) -> None:
        """Fits an image model into the parts that a video model has beside its own."""
        if not self.is_image:
            return
        attention = self.model.attention
        cls = "encoder.cls_token"
        if cls in self.target and (cls not in self.state or attention == "factorised_encoder"):
            self.state.pop(cls, None)  # as in Scenic: an image's is not one frame's
            self.keep(cls, "missing", "not taken from an image model")
        for name in self.target:
            if name.startswith("temporal_encoder."):
                self.keep(name, "missing", "an image model has no temporal encoder")
        if attention == "factorised_self_attention":
            for name in self.target:
                if ".temporal_norm." in name:
                    self.keep(name, "missing", "an image model has no temporal attention")
                elif ".temporal_attn." in name:
                    self.temporal_attention(name)
            if self.from_image.spatial_attention == "random":
                for name in [n for n in self.target if ".attn." in n]:
                    self.state.pop(name, None)
                    self.keep(name, "missing", "model.from_image.spatial_attention=random")

    def temporal_attention(self, name: str) -> None:
        """One tensor of Model 3's attention over time, from the image's attention."""
        choice = self.from_image.temporal_attention
        source = name.replace(".temporal_attn.", ".attn.")
        if choice == "random" or source not in self.weights.state:
            self.keep(name, "missing", "an image model has no temporal attention")
        elif choice == "zero" and ".proj." in name:
            self.take(name, torch.zeros_like(self.target[name]), "zero")
        elif self.weights.state[source].shape != self.target[name].shape:
            self.misfits.append((name, f"cannot be {_shape(self.weights.state[source])}"))
        else:
            self.take(name, self.weights.state[source], "loaded", "copied from the image's")

    def head(self, class_names: Sequence[str] | None, multi_label: bool | None) -> None:
        """Matches the head's rows by name; with it goes the layer before it, ``pre_logits``."""
        names = [name for name in self.target if name.startswith(("pre_logits.", "head."))]
        before = {n: t.shape for n, t in self.state.items() if n.startswith("pre_logits.")}
        ours = {n: self.target[n].shape for n in names if n.startswith("pre_logits.")}
        if self.weights.is_image:
            self.image_head(before, ours)
            return
        if "head.weight" not in self.state:
            for name in names:
                self.keep(name, "missing", "the file has no head")
            return
        if class_names is None:
            return  # as any other tensor
        if before != ours:
            for name in names:
                self.keep(name, "replaced head", "model.representation_size differs")
            for name in (*before, "head.weight", "head.bias"):
                self.state.pop(name, None)
            self.unused |= dict.fromkeys(before, "model.representation_size differs")
            return

        theirs, detail = self.weights.class_names, "the file names no classes"
        if multi_label not in (None, self.weights.multi_label):
            theirs, detail = None, "trained with the other data.multi_label"
        pairs = [] if theirs is None else match_class_names(class_names, theirs)
        if theirs is not None:
            detail = f"{len(pairs)} of {len(class_names)} classes found by name"
        status = "replaced head"
        if theirs is not None and len(pairs) == len(class_names) == len(theirs):
            status = "loaded"
            detail = "" if all(i == j for i, j in pairs) else "rows reordered by class name"
        for name in ("head.weight", "head.bias"):
            found = self.state.get(name)
            current = self.target[name]
            if found is None or found.shape[1:] != current.shape[1:]:
                continue  # a misfit, as with any other tensor
            del self.state[name]
            value = current.clone()
            if pairs:
                i, j = zip(*pairs)
                value[list(i)] = found[list(j)].to(value)
            self.take(name, value, status, detail)

    def image_head(self, before: dict[str, torch.Size], ours: dict[str, torch.Size]) -> None:
        """An image's classes are never a video's; the layer before the head is taken if it fits."""
        for name in ("head.weight", "head.bias"):
            self.state.pop(name, None)
            self.keep(name, "replaced head", "an image model's classes are not a video's")
        if before != ours:
            for name in before:
                del self.state[name]
                self.unused[name] = "model.representation_size differs"
            for name in ours:
                self.keep(name, "missing", "model.representation_size differs")

    def tubelets(self) -> None:
        """Spreads an embedding of single frames over the model's tubelets."""
        found, current = self.state.get("embed.weight"), self.target["embed.weight"]
        inflation = self.from_image.inflation
        if found is None or found.ndim != 5 or found.shape[2] != 1:
            return
        if inflation is None:
            for name in ("embed.weight", "embed.bias"):
                self.state.pop(name, None)
                self.keep(name, "missing", "model.from_image.inflation=null")
        elif current.shape[2] > 1 and self._fits(found, current):
            del self.state["embed.weight"]
            value = inflate_tubelets(found, current.shape[2], inflation)
            self.take("embed.weight", value, "inflated", f"{inflation} over {current.shape[2]}")

    @staticmethod
    def _fits(found: Tensor, current: Tensor) -> bool:
        return (*found.shape[:2], *found.shape[3:]) == (*current.shape[:2], *current.shape[3:])

    def positions(self, encoder: str) -> None:
        """Fits an encoder's positions to the model's grid, where the file's is another."""
        name = f"{encoder}.pos_embed"
        found, current = self.state.get(name), self.target.get(name)
        if found is None or current is None or name in self.account:
            return
        if found.ndim != 3 or found.shape[::2] != current.shape[::2]:
            return  # a misfit, as with any other tensor
        if self.is_image and self.from_image.positions is None:
            del self.state[name]
            self.keep(name, "missing", "model.from_image.positions=null")
            return
        ours = self.model.encoder if encoder == "encoder" else self.model.temporal_encoder
        assert ours is not None
        # Rows before the grid's: the class token's, if the file and the model have one.
        prefix = int(f"{encoder}.cls_token" in self.weights.state and ours.num_prefix)
        rows = found.shape[1] - prefix
        source, detail = self._source_grid(encoder, rows, same=found.shape == current.shape)
        if source is None:
            self.misfits.append((name, f"{_shape(found)} {detail}"))
        elif math.prod(source) != rows:
            self.misfits.append(
                (name, f"{_shape(found)}, but the file's clips make {_by(source)} tokens")
            )
        else:
            self._resample(name, found, source, ours.grid, prefix, ours.num_prefix, detail)
        del self.state[name]

    def _source_grid(self, encoder: str, rows: int, same: bool) -> tuple[Grid | None, str]:
        """The file's grid for an encoder, and what is to be said of it."""
        told, attention = _grid(self.weights.model), self.weights.model.get("attention")
        ours = self.model.encoder.grid
        if encoder == "temporal_encoder":
            return (told[0] if told else rows, 1, 1), ""
        if told is not None:
            return (1, *told[1:]) if attention == "factorised_encoder" else told, ""
        if same:
            return ours, f"taken as {_by(ours)} tokens, as the file does not say"
        side = math.isqrt(rows)
        if (self.is_image or attention == "factorised_encoder") and side * side == rows:
            return (1, side, side), "taken as a square, as the file does not say"
        return None, (
            f"should be of {_by(ours)} tokens, and the file does not say what its own grid is. "
            "Write a folder that does: vivit export ... --format safetensors image_size=... "
            "num_frames=..."
        )

    def _resample(
        self,
        name: str,
        found: Tensor,
        source: Grid,
        target: Grid,
        prefix: int,
        our_prefix: int,
        detail: str,
    ) -> None:
        value, status = found, "loaded"
        if source != target:
            if self.is_image:
                status, how = "inflated", self.from_image.positions
                assert how is not None
                try:
                    value = inflate_positions(found, source, target, prefix, how)
                except UserError as error:
                    self.faults.append(str(error))
                    return
            else:
                status = "interpolated"
                value = interpolate_positions(found, source, target, prefix)
            change = f"{_by(source)} -> {_by(target)}"
            detail = f"{change}; {detail}" if detail else change
        if prefix < our_prefix:  # an image model without a class token
            value = torch.cat([self.target[name][:, :our_prefix].to(value), value], dim=1)
        self.take(name, value, status, detail)

    def the_rest(self) -> None:
        """What no other step took must have the same name and shape."""
        wrong = {name for name, _ in self.misfits}
        for name, current in self.target.items():
            if name in self.account or name in wrong:
                continue
            found = self.state.pop(name, None)
            if found is None:
                self.misfits.append((name, f"{_shape(current)} is not in the file"))
            elif found.shape != current.shape:
                self.misfits.append((name, f"{_shape(found)} should be {_shape(current)}"))
            else:
                self.take(name, found, "loaded")
        for name, found in self.state.items():
            self.misfits.append((name, f"{_shape(found)} has no place in the model"))

    def take(self, name: str, value: Tensor, status: str, detail: str = "") -> None:
        self.values[name] = value
        self.account[name] = Row(name, status, detail)

    def keep(self, name: str, status: str, detail: str) -> None:
        self.account[name] = Row(name, status, f"{detail}; stays as initialised")

    @torch.no_grad()
    def carry_out(self) -> None:
        """Copies all values, or raises and copies none."""
        for name, value in self.values.items():
            if not value.isfinite().all():
                self.misfits.append((name, "holds NaN or infinite values: training diverged"))
        if self.faults or self.misfits:
            lines = [*self.faults, *(f"{name} {what}" for name, what, _ in by_kind(self.misfits))]
            shown = [f"  {line}" for line in lines[:20]]
            if len(lines) > len(shown):
                shown.append(f"  and {len(lines) - len(shown)} more")
            heading = f"{self.weights.origin} does not fit the model; nothing was loaded:"
            raise UserError("\n".join([heading, *shown]))
        for name, value in self.values.items():
            self.target[name].copy_(value)

    def rows(self) -> list[Row]:
        """The loading report, in the model's order."""
        unused = [Row(name, "unused", reason) for name, reason in self.unused.items()]
        return [self.account[name] for name in self.target] + unused


def _grid(arguments: dict[str, Any]) -> Grid | None:
    """Tokens along (t, h, w) at a file's native size; ``None`` where the file does not say."""
    if "image_size" not in arguments or "num_frames" not in arguments:
        return None
    size = arguments["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    embedding = TubeletEmbedding(1, 1, arguments["tubelet_size"], arguments.get("sampled_frames"))
    return embedding.grid(arguments["num_frames"], height, width)


def _by(grid: Grid) -> str:
    return "x".join(map(str, grid))


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))
