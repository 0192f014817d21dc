"""What a folder says of its classifier beside the weights: ``vivit_train.json``."""

from pathlib import Path
from typing import Any

from vivit_train.checkpoint import Classifier
from vivit_train.model.weights.checkpoint import DESCRIPTION, FORMAT_VERSION
from vivit_train.terminal import json_text


def write_description(classifier: Classifier, folder: Path) -> None:
    """Writes ``vivit_train.json``."""
    write_json(folder / DESCRIPTION, description_of(classifier))


def description_of(classifier: Classifier) -> dict[str, Any]:
    """All but the weights as plain values: the content of ``vivit_train.json``."""
    return {
        "format_version": FORMAT_VERSION,
        "model": classifier.model.config,
        "class_names": classifier.class_names,
        "processor": classifier.processor.settings(),
        "sampling": {
            "clip_frames": classifier.clip_frames,
            "frame_stride": classifier.frame_stride,
            "eval_views": classifier.eval_views,
        },
        "heads": classifier.heads,
        "config": classifier.config,
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes plain values, indented, with names in any script as they are."""
    path.write_text(json_text(content) + "\n", encoding="utf-8")
