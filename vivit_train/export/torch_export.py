"""A graph for ``torch.export.load``."""

from pathlib import Path

import torch
from torch import nn

from vivit_train.classifier import Classifier
from vivit_train.export.description import metadata_of, write_description
from vivit_train.export.graph import trace
from vivit_train.model.weights.checkpoint import KEY


def write(classifier: Classifier, folder: Path) -> None:
    """Writes ``model.pt2``, with the contract inside, and ``vivit_train.json``."""
    extra = {f"{KEY}.json": metadata_of(classifier)[KEY]}
    torch.export.save(trace(classifier), folder / "model.pt2", extra_files=extra)
    write_description(classifier, folder)


def read(folder: Path) -> tuple[str, nn.Module]:
    """Loads the folder with ``torch.export.load``."""
    return f"torch {torch.__version__}", torch.export.load(folder / "model.pt2").module()
