"""Our own folder: every model, and `load` takes it like a checkpoint."""

from pathlib import Path

from safetensors.torch import save_file

from vivit_train.classifier import Classifier, load_classifier
from vivit_train.export.description import metadata_of, write_description


def write(classifier: Classifier, folder: Path) -> None:
    """Writes ``model.safetensors`` under our own names, and ``vivit_train.json``."""
    # One entry: the library writes several in no fixed order.
    metadata = metadata_of(classifier)
    save_file(classifier.model.state_dict(), folder / "model.safetensors", metadata)
    write_description(classifier, folder)


def read(folder: Path) -> tuple[str, Classifier]:
    """Loads the folder with our own reader."""
    return "vivit-train", load_classifier(folder)
