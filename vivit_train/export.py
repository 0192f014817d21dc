"""Exports of a classifier: a folder in another format, checked before it appears."""

import contextlib
import importlib.util
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vivit_train.checkpoint import Classifier, load_classifier
from vivit_train.data.demo_clips import CLASS_NAMES, render
from vivit_train.errors import UserError
from vivit_train.model.weights.checkpoint import DESCRIPTION, FORMAT_VERSION
from vivit_train.model.weights.huggingface import CONFIG_KEYS, LAYOUT_V4
from vivit_train.transforms.processor import Processor
from vivit_train.video.decode import DecodeError, VideoReader
from vivit_train.video.sampling import spread_windows

# uint8 frames [B, T, H, W, 3] -> logits [B, K].
Logits = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Format:
    """A format to export to.

    Attributes:
        write: Writes a classifier into an empty folder.
        read: Loads the folder as those who use it will: (what it was loaded with, its function).
        tolerance: By how much logits may differ from the classifier's, relative to
            max(1, abs(logit)).
    """

    write: Callable[[Classifier, Path], None]
    read: Callable[[Path], tuple[str, Logits]]
    tolerance: float


@dataclass(frozen=True)
class Report:
    """What came of an export.

    Attributes:
        reader: What loaded the export for the check, e.g. ``transformers 5.23.0``.
        difference: Largest difference of the logits, relative to max(1, abs(logit)).
        tolerance: What was allowed.
    """

    reader: str
    difference: float
    tolerance: float


@torch.no_grad()
def export(classifier: Classifier, format_name: str, output: Path, clips: Tensor) -> Report:
    """Writes a classifier in a format, loads it back and compares logits.

    The folder appears under its name only when it is whole and agrees; after any failure nothing
    is left.

    Args:
        classifier: What to export, in evaluation mode on the CPU.
        format_name: One of ``FORMATS``.
        output: The folder to write; must not exist, or be empty.
        clips: uint8 ``[2, T, H, W, 3]``, T the classifier's ``clip_frames``. They are compared as
            a batch of two and the first alone.

    Returns:
        How well it agrees.

    Raises:
        UserError: If the format cannot hold the model, the folder exists, or logits differ.
    """
    form = FORMATS[format_name]
    with staged(output) as folder:
        form.write(classifier, folder)
        reader, logits = form.read(folder)
        batches = (clips, clips[:1])
        ours, reference = (torch.cat([f(batch) for batch in batches]) for f in (logits, classifier))
        difference = relative_difference(ours, reference)
        if not difference <= form.tolerance:  # so that NaN fails as well
            raise UserError(
                f"--format {format_name}: loaded with {reader}, the logits differ from the "
                f"checkpoint's by {difference:.2g}, and at most {form.tolerance:.0e} is allowed; "
                "nothing was written. Use --format safetensors, and report this"
            )
    return Report(reader, difference, form.tolerance)


def relative_difference(ours: Tensor, reference: Tensor) -> float:
    """Largest abs(ours - reference) / max(1, abs(reference)); NaN if either holds one."""
    return float(((ours - reference).abs() / reference.abs().clamp(min=1)).max())


def check_output(output: Path) -> None:
    """Raises UserError if something is at ``output`` that an export would overwrite."""
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(
            f"--output {output} exists already and is never overwritten: delete it or choose "
            "another folder"
        )


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """A folder beside ``output`` to write in, renamed to it unless the block raises.

    Raises:
        UserError: If ``output`` is taken, or its parent cannot be written.
    """
    output = output.absolute()
    check_output(output)
    made = [parent for parent in output.parents if not parent.exists()]
    folder = output.with_name(f"{output.name}.partial-{os.getpid()}")
    try:
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise UserError(f"--output {output} cannot be made: {error.strerror}") from error
        yield folder
        check_output(output)
        folder.replace(output)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in made:
            with contextlib.suppress(OSError):  # not made, or another's files are in it
                parent.rmdir()
        raise


def demo_clips(classifier: Classifier) -> Tensor:
    """Two drawn clips, larger than what the processor resizes to.

    Returns:
        uint8 ``[2, T, H, W, 3]``.
    """
    height, width = _pair(classifier.model.config["image_size"])
    if classifier.processor.output_size is not None:  # else they keep their size
        height, width = classifier.processor.resized_size(height, width)
        # A portrait crop would no longer fit into something wider.
        height, width = 5 * height // 4, 5 * width // (3 if width >= height else 4)
    rng = np.random.default_rng(0)
    drawn = [render(n, rng, classifier.clip_frames, height, width) for n in CLASS_NAMES[:2]]
    return torch.from_numpy(np.stack(drawn))


def video_clips(classifier: Classifier, path: str | Path) -> Tensor:
    """Two clips of a video, from its start and its end, sampled as for the model.

    Returns:
        uint8 ``[2, T, H, W, 3]``.

    Raises:
        UserError: If the video cannot be decoded.
    """
    try:
        with VideoReader(path) as video:
            sampling = (video.num_frames, classifier.clip_frames, classifier.frame_stride)
            windows = spread_windows(*sampling, 2)
            frames = video.read(windows.ravel())
    except DecodeError as error:
        raise UserError(f"--video {error}") from error
    return torch.from_numpy(frames).unflatten(0, windows.shape)


def describe(classifier: Classifier) -> dict[str, Any]:
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


def write_safetensors(classifier: Classifier, folder: Path) -> None:
    """Writes ``model.safetensors`` under our own names, and ``vivit_train.json``."""
    save_file(classifier.model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    _write_json(folder / DESCRIPTION, describe(classifier))


def read_safetensors(folder: Path) -> tuple[str, Logits]:
    """Loads the folder with our own reader."""
    return "vivit-train", load_classifier(folder)


def write_huggingface(classifier: Classifier, folder: Path) -> None:
    """Writes what ``VivitForVideoClassification`` and ``VivitImageProcessor`` load.

    ``config.json``, ``model.safetensors`` under the names of transformers 4, which version 5 loads
    too, and ``preprocessor_config.json``.

    Raises:
        UserError: If they cannot express the model.
    """
    if reasons := _beyond_huggingface(classifier):
        raise UserError(
            f"--format huggingface cannot hold this model: {'; '.join(reasons)}. "
            "--format safetensors holds every model"
        )
    save_file(huggingface_state(classifier), folder / "model.safetensors", {"format": "pt"})
    _write_json(folder / "config.json", huggingface_config(classifier))
    processor = classifier.processor.to_huggingface()
    _write_json(folder / "preprocessor_config.json", processor)


def _beyond_huggingface(classifier: Classifier) -> list[str]:
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
    native, frames = _pair(config["image_size"]), config["num_frames"]
    if processor.output_size != native:
        made = "x".join(map(str, processor.output_size or ())) or "any size"
        reasons.append(
            f"the processor makes frames of {made} for a model of {native[0]}x{native[1]}, and it "
            "cannot interpolate positions (image_size=[HEIGHT,WIDTH] here does)"
        )
    if classifier.clip_frames != frames:
        reasons.append(
            f"clips have {classifier.clip_frames} frames for a model of {frames}, and it cannot "
            f"interpolate positions (num_frames={classifier.clip_frames} here does)"
        )
    return reasons


def huggingface_state(classifier: Classifier) -> dict[str, Tensor]:
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


def huggingface_config(classifier: Classifier) -> dict[str, Any]:
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
    if config["initializer_range"] is not None:
        body["initializer_range"] = config["initializer_range"]
    return body


def read_huggingface(folder: Path) -> tuple[str, Logits]:
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


class FramesToLogits(nn.Module):
    """A classifier as one graph for frames of any size: the processor's steps and the model.

    Runtimes round differently when they resize. Here resizing and cropping are matrix products
    with Pillow's own arithmetic, so that every runtime makes the very pixels that
    `Processor` makes on the CPU. Only frames more than twice as tall as wide may differ, by one
    grey level: Pillow then resizes in the other order.

    Args:
        classifier: What to export.

    Raises:
        UserError: If the processor makes frames of no fixed size.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.processor: Processor = classifier.processor
        self.model = classifier.model
        if self.processor.output_size is None:
            raise UserError(
                "a graph needs a processor that makes frames of one size, and this one does not "
                "crop (do_center_crop=False): use --format safetensors"
            )
        self.output_size = self.processor.output_size
        self.resample = self.processor.resample if self.processor.do_resize else "bilinear"

    def forward(self, frames: Tensor) -> Tensor:
        """Class logits.

        Args:
            frames: uint8 ``[B, T, H, W, 3]``, RGB.

        Returns:
            Float ``[B, K]``.
        """
        height, width = frames.shape[2:4]
        # Floats of 64 bits hold the integers up to 2**31 that Pillow computes with.
        images = frames.movedim(-1, 2).double()  # [B, T, 3, H, W]
        new_height, new_width = self.resized_size(height, width)
        crop_height, crop_width = self.output_size
        across = resize_matrix(self.resample, width, new_width, crop_width)
        down = resize_matrix(self.resample, height, new_height, crop_height)
        images = round_to_pixels(images @ across.T)  # [B, T, 3, H, w]
        images = round_to_pixels(down @ images).float()  # [B, T, 3, h, w]
        # As in Processor.to_float, but not in place, which exporters do not all understand.
        channels = zip(images.unbind(2), self.processor.affine())
        scaled = [(channel - shift) / scale for channel, (shift, scale) in channels]
        return self.model(torch.stack(scaled, dim=1))  # of [B, 3, T, h, w]

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """As ``Processor.resized_size``, without asking which side is the shorter."""
        size = self.processor.size
        if not self.processor.do_resize:
            return height, width
        if isinstance(size, tuple):
            return size
        shortest: Any = torch.sym_min(height, width)  # an int, or the symbol of one
        return size * height // shortest, size * width // shortest


def resize_matrix(resample: str, size: int, resized: int, crop: int) -> Tensor:
    """Pillow's resize of one axis, then the centre crop, as a matrix.

    Args:
        resample: "nearest", "bilinear" or "bicubic".
        size: Pixels before.
        resized: Pixels after resizing.
        crop: How many of these are kept.

    Returns:
        float64 ``[crop, size]``; rows sum to 1, in steps of 2**-22 as in Pillow.
    """
    start = (resized - crop) // 2
    scale = torch.ones((), dtype=torch.float64) * size / resized
    if resample == "nearest":
        # Pillow adds up steps, and the sum's rounding error decides between equally near pixels.
        steps = torch.cat([scale[None] / 2, scale.expand(resized - 1)])
        taken = steps.cumsum(0).narrow(0, start, crop).floor()
        return (torch.arange(size) == taken[:, None]).double()
    centres = (torch.arange(resized, dtype=torch.float64) + 0.5).narrow(0, start, crop) * scale
    # Distances of pixels from the centres, [crop, size]; the filter widens when shrinking.
    x = (torch.arange(size, dtype=torch.float64) + 0.5 - centres[:, None]).abs()
    x = x / scale.clamp(min=1)
    if resample == "bilinear":
        weights = (1 - x).clamp(min=0)
    else:
        near = (1.5 * x - 2.5) * x * x + 1
        far = -0.5 * (((x - 5) * x + 8) * x - 4)
        weights = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    weights = weights / weights.sum(dim=1, keepdim=True)
    return weights.sign() * (weights.abs() * 2**22 + 0.5).floor() / 2**22


def round_to_pixels(values: Tensor) -> Tensor:
    """Whole numbers from 0 to 255, halves up, as Pillow rounds after each axis."""
    return (values + 0.5).floor().clamp(0, 255)


def trace(classifier: Classifier) -> torch.export.ExportedProgram:
    """The graph of uint8 ``[B, T, H, W, 3]`` -> float ``[B, K]``, with B, H and W dynamic."""
    module = FramesToLogits(classifier).eval()
    # Smaller sides would be other graphs: one pixel, or a crop that never fits.
    least = (2, 2) if classifier.processor.do_resize else module.output_size
    height, width = (torch.export.Dim(n, min=m) for n, m in zip(("height", "width"), least))
    program = torch.export.export(
        module,
        (demo_clips(classifier),),
        dynamic_shapes=({0: torch.export.Dim("batch"), 2: height, 3: width},),
        # Traces also what the model asks of Python, such as a tensor's len().
        strict=True,
        # Whether a crop fits is known only when frames come.
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    program.example_inputs = None  # a clip, which would be saved too
    return program


def write_torch_export(classifier: Classifier, folder: Path) -> None:
    """Writes ``model.pt2`` with ``torch.export.save``, and ``vivit_train.json``."""
    torch.export.save(trace(classifier), folder / "model.pt2")
    _write_json(folder / DESCRIPTION, describe(classifier))


def read_torch_export(folder: Path) -> tuple[str, Logits]:
    """Loads the folder with ``torch.export.load``."""
    return f"torch {torch.__version__}", torch.export.load(folder / "model.pt2").module()


def write_onnx(classifier: Classifier, folder: Path) -> None:
    """Writes ``model.onnx``, with the class names in its metadata, and ``vivit_train.json``.

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
    program.save(folder / "model.onnx")
    _write_json(folder / DESCRIPTION, describe(classifier))


def read_onnx(folder: Path) -> tuple[str, Logits]:
    """Loads the folder with ONNX Runtime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        folder / "model.onnx", providers=["CPUExecutionProvider"]
    )

    def logits(frames: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"frames": frames.numpy()})[0])

    return f"onnxruntime {onnxruntime.__version__}", logits


def _pair(image_size: int | list[int]) -> tuple[int, int]:
    return (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)  # type: ignore


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


FORMATS = {
    "huggingface": Format(write_huggingface, read_huggingface, 1e-5),
    "safetensors": Format(write_safetensors, read_safetensors, 1e-6),
    "torch-export": Format(write_torch_export, read_torch_export, 1e-6),
    "onnx": Format(write_onnx, read_onnx, 1e-4),
}
