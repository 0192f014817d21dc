"""A graph for ONNX runtimes."""

import importlib.util
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from vivit_train.classifier import Classifier
from vivit_train.errors import UserError
from vivit_train.export.description import metadata_of, write_description
from vivit_train.export.graph import trace


def write(classifier: Classifier, folder: Path) -> None:
    """Writes ``model.onnx``, with the contract in its metadata, and ``vivit_train.json``.

    Raises:
        UserError: If a package is missing.
    """
    packages = ("onnx", "onnxscript", "onnxruntime")
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"--format onnx needs {', '.join(missing)}: pip install 'vivit-train[export]'"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about itself
        program = torch.onnx.export(
            trace(classifier),
            dynamo=True,
            input_names=["frames"],
            output_names=["logits"],
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props["class_names"] = json.dumps(classifier.class_names)
    program.model.metadata_props.update(metadata_of(classifier))
    program.save(folder / "model.onnx")
    write_description(classifier, folder)


def read(folder: Path) -> tuple[str, Callable[[Tensor], Tensor]]:
    """Loads the folder with ONNX Runtime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        folder / "model.onnx", providers=["CPUExecutionProvider"]
    )

    def logits(frames: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"frames": frames.numpy()})[0])

    return f"onnxruntime {onnxruntime.__version__}", logits
