"""Our own folder: every model, and `load` takes it like a checkpoint."""

from pathlib import Path

from safetensors.torch import save_file

from vivit_train.checkpoint import Classifier, load_classifier
from vivit_train.export.description import write_description


def write(classifier: Classifier, folder: Path) -> None:
    """Writes ``model.safetensors`` under our own names, and ``vivit_train.json``."""
    save_file(classifier.model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    write_description(classifier, folder)


def read(folder: Path) -> tuple[str, Classifier]:
    """Loads the folder with our own reader."""
    return "vivit-train", load_classifier(folder)
