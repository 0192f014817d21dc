"""Show where and when a model looked: its attention, as heat over the frames of a video.

  vivit explain RUN clip.mp4
  vivit explain RUN clip.mp4 --class "playing guitar" --output looked

The clip is the one in the middle of the video, cropped at the centre: what `vivit predict --views
1x1` sees. Without --class the heat is attention rollout, which does not depend on a class.
Writes heat.png (frames, and below them the same with heat) and heat.mp4.
"""

import argparse
import difflib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vivit_train.commands import CHECKPOINT
from vivit_train.errors import UserError
from vivit_train.io.files import user_path, written_whole
from vivit_train.io.terminal import printable, say

if TYPE_CHECKING:
    import numpy as np

    from vivit_train.classifier import Classifier
    from vivit_train.transforms.processor import Processor
    from vivit_train.video.sampling import Sampling

FILES = ("heat.png", "heat.mp4")
SOURCE_FPS = 30  # of videos without a frame rate


class Looked(NamedTuple):
    """Where a model looked in a clip.

    Attributes:
        frames: uint8 ``[T, H, W, 3]``; large ones as they were resized for the model.
        heat: Float ``[T, H, W]``, see `explain.heat.on_frames`.
        even: The heat of a token if all had the same.
        name: The class that is explained, or the most probable one.
        probability: Its, a fraction.
        fps: Frames of the clip per second.
    """

    frames: "np.ndarray"
    heat: "np.ndarray"
    even: float
    name: str
    probability: float
    fps: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("checkpoint", help=CHECKPOINT)
    parser.add_argument("video", type=user_path, help="a video")
    parser.add_argument(
        "--class", dest="class_name", metavar="NAME", help="show what speaks for this class "
        "(default: attention rollout)",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=user_path, metavar="FOLDER",
        help="folder to write to (default: explain_<name of the video>, here)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Writes the pictures, and prints the class and their paths."""
    folder = arguments.output or Path(f"explain_{printable(arguments.video.stem)}")
    check_folder(folder)

    import numpy as np

    from vivit_train.commands.predict import load_on_device
    from vivit_train.explain.heat import overlay, strip
    from vivit_train.video.decode import DecodeError
    from vivit_train.video.write import write_video

    classifier = load_on_device(arguments.checkpoint, None)
    try:
        looked = look_at(classifier, arguments.video, arguments.class_name)
    except DecodeError as error:
        raise UserError(str(error)) from error
    what = "what speaks for the class" if arguments.class_name else "attention rollout"
    peak = f"{float(np.nanmax(looked.heat)) / looked.even:.1f}"
    told = f"{looked.probability:.4f}  {looked.name}"
    laid = overlay(looked.frames, looked.heat, looked.even)
    with written_whole(folder / FILES[0]) as file:
        strip(looked.frames, laid, [told, f"{what}; at most {peak} times the even share"]).save(
            file, "PNG"
        )
    write_video(folder / FILES[1], laid, max(1, round(looked.fps)))
    say(f"  {told}")
    for name in FILES:
        say(folder / name)
    return 0


def check_folder(folder: Path) -> None:
    """Refuses a place that holds what this command did not write.

    Raises:
        UserError: Then.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder} is a file; give a folder")
    if folder.exists() and (foreign := {path.name for path in folder.iterdir()} - set(FILES)):
        raise UserError(
            f"{folder} holds something else ({min(foreign)}): name an empty or a new folder with "
            "--output"
        )


def look_at(classifier: "Classifier", video: Path, class_name: str | None = None) -> Looked:
    """Where a classifier looks in the middle clip of a video.

    Args:
        classifier: In evaluation mode.
        video: A file.
        class_name: What is explained; ``None``: attention rollout.

    Raises:
        UserError: If there is no such class, or nothing to show.
        DecodeError: If the video cannot be decoded.
        NonFiniteLogits: If the logits say nothing.
    """
    import torch

    from vivit_train.classifier import NonFiniteLogits
    from vivit_train.explain.heat import on_frames
    from vivit_train.explain.rollout import heat_of
    from vivit_train.prediction import THRESHOLD, prediction_of

    names = classifier.class_names
    index = None if class_name is None else index_of(class_name, names)
    model, processor = classifier.model, classifier.processor
    frames, seconds = middle_clip(video, classifier.sampling, processor)
    weight = model.head.weight
    clip = processor(torch.from_numpy(frames)[None].to(weight.device)).to(weight.dtype)
    logits, heat = heat_of(model, clip, index)
    if not logits.isfinite().all():
        raise NonFiniteLogits(video)
    least = THRESHOLD if classifier.multi_label else None
    prediction = prediction_of(str(video), logits.cpu(), names, classifier.heads, None, least)
    name, probability = prediction.name, prediction.probability
    if class_name is not None:
        parts = prediction.heads.values() if prediction.heads else [prediction.classes]
        name, probability = class_name, dict(guess for part in parts for guess in part)[class_name]
    on_pixels = on_frames(heat.cpu().numpy(), model.embed, processor, frames.shape[:3])
    return Looked(frames, on_pixels, 1 / heat.numel(), name, probability, len(frames) / seconds)


def middle_clip(
    video: Path, sampling: "Sampling", processor: "Processor"
) -> tuple["np.ndarray", float]:
    """Decodes the middle clip of a video, within the limits of time and memory of `Guard`.

    Returns:
        uint8 ``[T, H, W, 3]``, large frames as they are resized for the model, and the seconds
        that they cover.

    Raises:
        DecodeError: If it cannot be decoded, hangs or kills the decoder.
    """
    from vivit_train.transforms.shrink import for_evaluation
    from vivit_train.video.decode import DecodeError, DecoderLost, VideoReader
    from vivit_train.video.guard import CAN_GUARD, DECODE_SECONDS, Failure
    from vivit_train.video.pool import guarded_map

    def decode(path: Path) -> tuple["np.ndarray", float] | DecodeError:
        try:
            with VideoReader(path) as reader:
                frames = reader.read(sampling.spread(reader, 1)[0], for_evaluation(processor))
                fps = reader.fps or SOURCE_FPS
                return frames, sampling.seconds(fps) or reader.num_frames / fps
        except DecodeError as error:
            return error

    if CAN_GUARD:
        ((_, found),) = guarded_map(decode, [video], 1, DECODE_SECONDS)
    else:
        found = decode(video)
    if isinstance(found, Failure):
        raise DecoderLost(str(video), found.reason)
    if isinstance(found, DecodeError):
        raise found
    return found


def index_of(class_name: str, names: list[str]) -> int:
    """The place of a class among the logits.

    Raises:
        UserError: If there is none of this name.
    """
    if class_name not in names:
        near = difflib.get_close_matches(class_name, names) or names[:3]
        raise UserError(
            f"--class {class_name}: the model has {len(names)} classes and none of this name; "
            f"near are {', '.join(near)}"
        )
    return names.index(class_name)
