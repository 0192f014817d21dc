"""What a folder says of its classifier beside the weights: ``vivit_train.json``."""

import json
from pathlib import Path
from typing import Any

from vivit_train.classifier import Classifier
from vivit_train.io.terminal import json_text
from vivit_train.model.weights.checkpoint import DESCRIPTION, FORMAT_VERSION, KEY


def write_description(classifier: Classifier, folder: Path) -> None:
    """Writes ``vivit_train.json``."""
    write_json(folder / DESCRIPTION, description_of(classifier))


def description_of(classifier: Classifier) -> dict[str, Any]:
    """All but the weights as plain values: the content of ``vivit_train.json``."""
    return contract_of(classifier) | {
        "model": classifier.model.config,
        "config": classifier.config,
    }


def contract_of(classifier: Classifier) -> dict[str, Any]:
    """What whoever runs the model must keep to: how frames are taken, and what logits mean.

    It goes into every format, under the key ``vivit_train`` where the format has none of its own.
    What the checkpoint does not tell is left out.
    """
    sampling: dict[str, Any] = {"clip_frames": classifier.sampling.clip_frames}
    if classifier.tells_sampling:
        sampling = classifier.sampling.contract() | {"video_rate": classifier.video_rate}
    if classifier.tells_eval_views:
        sampling["eval_views"] = list(classifier.eval_views)
    return {
        "format_version": FORMAT_VERSION,
        "class_names": classifier.class_names,
        "processor": classifier.processor.settings(),
        "sampling": sampling,
        "heads": classifier.heads,
        "multi_label": classifier.multi_label,
    }


def metadata_of(classifier: Classifier) -> dict[str, str]:
    """The contract as the metadata of a file: text by name."""
    return {KEY: json.dumps(contract_of(classifier))}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes plain values, indented, with names in any script as they are."""
    path.write_text(json_text(content) + "\n", encoding="utf-8")
