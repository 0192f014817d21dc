"""Hugging Face's folder, which ``transformers`` load: Model 1 with a class token."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from vivit_train.classifier import Classifier, load_classifier
from vivit_train.errors import UserError
from vivit_train.export.description import contract_of, write_json
from vivit_train.model.weights.checkpoint import KEY
from vivit_train.model.weights.huggingface import CONFIG_KEYS, LAYOUT_V4, MULTI_LABEL


def write(classifier: Classifier, folder: Path) -> None:
    """Writes what ``VivitForVideoClassification`` and ``VivitImageProcessor`` load.

    How clips are taken from videos, for which they have no keys, stands in ``config.json`` under
    ``vivit_train``; `load`, `vivit evaluate` and `vivit predict` keep to it.

    ``config.json``, ``model.safetensors`` under the names of transformers 4, which version 5 loads
    too, and ``preprocessor_config.json``.

    Raises:
        UserError: If they cannot express the model.
    """
    if reasons := what_it_lacks(classifier):
        raise UserError(
            f"--format huggingface cannot hold this model: {'; '.join(reasons)}. "
            "--format safetensors holds every model"
        )
    save_file(state_of(classifier), folder / "model.safetensors", {"format": "pt"})
    write_json(folder / "config.json", config_of(classifier))
    processor = classifier.processor.to_huggingface()
    write_json(folder / "preprocessor_config.json", processor)


def what_it_lacks(classifier: Classifier) -> list[str]:
    """Why Hugging Face's model would compute something else, or nothing."""
    config, processor = classifier.model.config, classifier.processor
    only = {
        "attention": "spatio_temporal",
        "pooling": "cls",
        "representation_size": None,
        "sampled_frames": None,
    }
    reasons = [
        f"model.{name}={config[name]}, and it has only {json.dumps(value)}"
        for name, value in only.items()
        if config[name] != value
    ]
    if classifier.heads:
        reasons.append(f"it has {len(classifier.heads)} heads, and Hugging Face's one")
    # Ours interpolates positions for clips of another size; theirs raises.
    arguments = classifier.model.arguments
    native, frames = arguments.frame_size, arguments.num_frames
    if processor.output_size != native:
        made = "x".join(map(str, processor.output_size or ())) or "any size"
        reasons.append(
            f"the processor makes frames of {made} for a model of {native[0]}x{native[1]}, and it "
            "cannot interpolate positions (image_size=[HEIGHT,WIDTH] here does)"
        )
    clip_frames = classifier.sampling.clip_frames
    if clip_frames != frames:
        reasons.append(
            f"clips have {clip_frames} frames for a model of {frames}, and it cannot "
            f"interpolate positions (num_frames={clip_frames} here does)"
        )
    return reasons


def state_of(classifier: Classifier) -> dict[str, Tensor]:
    """The model's tensors under the names of transformers 4, query, key and value apart."""
    state = {}
    for name, tensor in classifier.model.state_dict().items():
        module, _, leaf = name.rpartition(".")
        if name in LAYOUT_V4:
            module, leaf = name, ""
        *_, index = [part for part in module.split(".") if part.isdigit()] or [""]
        theirs = LAYOUT_V4[module.replace(f".{index}.", ".{i}.") if index else module]
        for part, kind in zip(tensor.chunk(len(theirs)), theirs):
            key = kind.replace("{i}", index) + (f".{leaf}" if leaf else "")
            state[key] = part.contiguous()
    return state


def config_of(classifier: Classifier) -> dict[str, Any]:
    """The content of ``config.json``."""
    names = classifier.class_names
    config = classifier.model.config
    body = {
        "architectures": ["VivitForVideoClassification"],
        "model_type": "vivit",
        **{key: config[name] for name, key in CONFIG_KEYS.items()},
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }
    if classifier.multi_label:
        body["problem_type"] = MULTI_LABEL  # theirs for binary cross-entropy
    contract = contract_of(classifier)
    del contract["sampling"]["clip_frames"]  # num_frames says so
    if contract["sampling"]:
        body[KEY] = {name: contract[name] for name in ("format_version", "sampling")}
    if config["initializer_range"] is not None:
        body["initializer_range"] = config["initializer_range"]
    return body


def read(folder: Path) -> tuple[str, Callable[[Tensor], Tensor]]:
    """Loads the folder with transformers if it is installed, else with our own reader."""
    if importlib.util.find_spec("transformers") is None:
        return "vivit-train (transformers is not installed)", load_classifier(folder)
    import transformers
    from transformers.utils import logging

    had_progress_bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    processor = transformers.VivitImageProcessor.from_pretrained(folder)
    model = transformers.VivitForVideoClassification.from_pretrained(folder).eval()
    if had_progress_bar:
        logging.enable_progress_bar()

    def logits(frames: Tensor) -> Tensor:
        videos: Any = [list(clip) for clip in frames.numpy()]
        return model(**processor(videos, return_tensors="pt")).logits

    return f"transformers {transformers.__version__}", logits
