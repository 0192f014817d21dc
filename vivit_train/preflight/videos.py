"""What is found by looking at videos with the model that training starts from."""

from collections.abc import Iterator
from typing import Any

from vivit_train.data.datamodule import VideoDataModule
from vivit_train.model.vivit import ViViT
from vivit_train.preflight.copies import of_the_copies
from vivit_train.preflight.features import Features, features_of, on_device
from vivit_train.preflight.finding import Finding
from vivit_train.preflight.flip import judge_flip
from vivit_train.preflight.forecast import forecast, of_the_labels
from vivit_train.preflight.probe import Probe


def look_at_videos(
    config: dict[str, Any], model: ViViT, data: VideoDataModule, seconds: float
) -> Iterator[Finding]:
    """The forecast, the labels, the flip and the copies.

    Args:
        config: The resolved configuration.
        model: With its pretrained weights, on the CPU.
        data: Set up for ``fit``.
        seconds: For looking at videos, in all.
    """
    model = on_device(model, config)
    train = features_of(model, data, "train", seconds / 2)
    val = features_of(model, data, "val", seconds / 2)
    if train is not None and len(train.labels.unique()) > 1:
        probe = Probe(train.values, train.labels, len(data.class_names))
        yield forecast(probe, train, val, config["model"]["pretrained"] is not None)
        labels = of_the_labels(probe, train, data)
        if labels is not None:
            yield labels
    yield of_the_flip(config, train, data)
    yield of_the_copies(data, train, val)


def of_the_flip(
    config: dict[str, Any], features: Features | None, data: VideoDataModule
) -> Finding:
    """Whether the run flips clips that are of another class then."""
    flip, settings = judge_flip(features, data.class_names), config["augment"]
    if not settings["horizontal_flip"]:
        return Finding("ok", "flip", f"off; {flip.text}")
    if settings["flip_labels"] or not flip.pairs:
        return Finding("ok", "flip", f"{flip.text}")
    cure = "set augment.horizontal_flip=0, or have it swap the classes with augment.flip_labels"
    return Finding("warn", "flip", f"{flip.text}, and keep their label: {cure}")
