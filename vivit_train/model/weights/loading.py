"""Loading weights into a model: every tensor is accounted for, or nothing is loaded."""

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

# Arguments that decide what the weights mean. Some leave no trace in any shape.
DECISIVE = (
    "attention",
    "tubelet_size",
    "num_channels",
    "hidden_size",
    "num_layers",
    "num_heads",
    "mlp_size",
    "activation",
    "layer_norm_eps",
    "qkv_bias",
)


def load_weights(
    model: ViViT, weights: Weights, class_names: Sequence[str] | None = None
) -> list[Row]:
    """Copies weights into a model, accounting for every tensor on both sides.

    Positions of another grid are interpolated. The head's rows are matched by class name, and
    rows that match none keep what the model has. Anything else must fit exactly.

    Args:
        model: Changed in place, or not at all when an error is raised.
        weights: What ``read_weights`` returned.
        class_names: The model's classes in the order of its head's rows. ``None``: the caller
            has none, so the head is taken as it is.

    Returns:
        One row per tensor of the model, then one per unused tensor of the file.

    Raises:
        UserError: If anything does not fit, is left over or missing, with names and shapes.
    """
    if class_names is not None and len(class_names) != model.num_classes:
        raise UserError(
            f"{len(class_names)} class names do not fit model.num_classes={model.num_classes}"
        )
    plan = _Plan(model, weights)
    plan.settings()
    plan.pooling()
    plan.head(class_names)
    plan.positions()
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
    values: dict[str, Tensor] = field(default_factory=dict)
    account: dict[str, Row] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    misfits: list[tuple[str, str]] = field(default_factory=list)  # (tensor, what is wrong)

    def __post_init__(self) -> None:
        self.state = dict(self.weights.state)
        self.target = self.model.state_dict()
        self.unused |= self.weights.unused

    def settings(self) -> None:
        """Arguments that the file tells must be the model's."""
        for name in DECISIVE:
            if name in self.weights.model:
                file, model = self.weights.model[name], self.model.config[name]
                if _meaning(name, file) != _meaning(name, model):
                    file = list(file) if isinstance(file, tuple) else file
                    self.faults.append(f"model.{name}={model}, but the file's is {file}")

    def pooling(self) -> None:
        """Takes out the class token where the model has none."""
        if "cls_token" in self.target and "cls_token" not in self.state:
            self.faults.append("model.pooling=cls, but the file has no class token: set it to mean")
        elif "cls_token" in self.state and "cls_token" not in self.target:
            del self.state["cls_token"]
            reason = "model.pooling=mean has no class token"
            self.unused |= {"cls_token": reason, "pos_embed, first row": reason}
            if "pos_embed" in self.state:
                self.state["pos_embed"] = self.state["pos_embed"][:, 1:]

    def head(self, class_names: Sequence[str] | None) -> None:
        """Matches the head's rows by name; with it goes the layer before it, ``pre_logits``."""
        names = [name for name in self.target if name.startswith(("pre_logits.", "head."))]
        if "head.weight" not in self.state:
            for name in names:
                self.keep(name, "missing", "the file has no head")
            return
        if class_names is None:
            return  # as any other tensor
        before = {n: t.shape for n, t in self.state.items() if n.startswith("pre_logits.")}
        if before != {n: self.target[n].shape for n in names if n.startswith("pre_logits.")}:
            for name in names:
                self.keep(name, "replaced head", "model.representation_size differs")
            for name in (*before, "head.weight", "head.bias"):
                self.state.pop(name, None)
            self.unused |= dict.fromkeys(before, "model.representation_size differs")
            return

        theirs = self.weights.class_names
        if theirs is None:
            pairs, detail = [], "the file names no classes"
        else:
            pairs = match_class_names(class_names, theirs)
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

    def positions(self) -> None:
        """Interpolates the positions where the file's grid is another."""
        found, current = self.state.get("pos_embed"), self.target["pos_embed"]
        grid = _grid(self.weights.model)
        if found is None or found.shape[::2] != current.shape[::2]:
            return  # a misfit, as with any other tensor
        model_grid, prefix = self.model.grid, self.model.num_prefix
        if grid is None:
            if found.shape == current.shape:
                detail = f"taken as {_by(model_grid)} tokens, which the file does not tell"
                self.take("pos_embed", self.state.pop("pos_embed"), "loaded", detail)
            return
        if found.shape[1] != prefix + grid[0] * grid[1] * grid[2]:
            self.misfits.append(
                ("pos_embed", f"{_shape(found)}, but the file's clips make {_by(grid)} tokens")
            )
        elif grid == model_grid:
            return
        else:
            value = interpolate_positions(found.to(current), grid, model_grid, prefix)
            self.take("pos_embed", value, "interpolated", f"{_by(grid)} -> {_by(model_grid)}")
        del self.state["pos_embed"]

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
        """The account, in the model's order."""
        unused = [Row(name, "unused", reason) for name, reason in self.unused.items()]
        return [self.account[name] for name in self.target] + unused


def _meaning(name: str, value: Any) -> Any:
    """A value to compare by: lists equal tuples, activations equal under their other names."""
    if name == "activation" and value in ACTIVATIONS:
        return repr(ACTIVATIONS[value]())
    return list(value) if isinstance(value, tuple) else value


def _grid(arguments: dict[str, Any]) -> Grid | None:
    """Tokens along (t, h, w) at a file's native size; ``None`` where the file does not tell."""
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
