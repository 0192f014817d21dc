"""Write a trained model in another format, for other programs.

  vivit export RUN --format huggingface --output exported
  vivit export RUN --format onnx --output exported --video clip.mp4
  vivit export owner/name image_size=288 num_frames=16 --format safetensors --output exported

huggingface    config.json, model.safetensors and preprocessor_config.json, as transformers loads
               them; Model 1 with a class token only
safetensors    model.safetensors under our own names and vivit_train.json; every model, and
               `load` and every verb take the folder like the checkpoint
lora           the same two files of a run with optim.lora_rank, which hold what was trained and the
               name and checksum of the other weights: small, and loaded with those weights
torch-export   model.pt2: uint8 frames [B, T, H, W, 3] in, logits [B, K] out, the processor inside;
               any batch B, height H and width W
onnx           model.onnx, the same; needs `pip install 'vivit-train[export]'`

The export is loaded back and its logits compared with the checkpoint's, on a drawn clip or on
--video; the folder appears only when they agree. NAME=VALUE, directly after CHECKPOINT, are
arguments of ViViT that the checkpoint does not contain, or that should differ from it.
"""

import argparse
from typing import Any

from vivit_train.commands import CHECKPOINT
from vivit_train.errors import UserError
from vivit_train.io.files import user_path
from vivit_train.io.terminal import say

# Format -> where it says how clips are taken from videos.
WHERE = {
    "huggingface": "vivit_train in config.json, which transformers does not heed",
    "safetensors": "vivit_train.json",
    "lora": "vivit_train.json",
    "torch-export": "vivit_train.json, also inside model.pt2",
    "onnx": "vivit_train in the metadata of model.onnx",
}
FORMATS = tuple(WHERE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("checkpoint", help=CHECKPOINT)
    parser.add_argument(
        "arguments", nargs="*", metavar="NAME=VALUE", help="of ViViT, e.g. image_size=[224,320]"
    )
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument(
        "--output", required=True, type=user_path, help="folder to write; must be new"
    )
    parser.add_argument("--video", help="video to compare logits on (default: a drawn clip)")


def run(arguments: argparse.Namespace) -> int:
    """Exports, checks and prints what was written."""
    model = parse_arguments(arguments.arguments)

    from vivit_train.classifier import load_classifier
    from vivit_train.export import export
    from vivit_train.export.clips import demo_clips, video_clips
    from vivit_train.export.staging import check_output

    check_output(arguments.output)  # before a checkpoint is read, which may take long
    classifier = load_classifier(arguments.checkpoint, **model)
    video = arguments.video
    clips = video_clips(classifier, video) if video else demo_clips(classifier)
    say(export(classifier, arguments.format, arguments.output, clips))
    clips_are = str(classifier.sampling)
    if not classifier.tells_sampling:
        clips_are = f"{classifier.sampling.clip_frames} frames, an unknown time apart"
    say(f"clips of {clips_are}: other programs must take them so ({WHERE[arguments.format]})")
    for path in sorted(arguments.output.iterdir()):
        say(f"{path.stat().st_size / 1e6:10.3f} MB  {path}")
    return 0


def parse_arguments(words: list[str]) -> dict[str, Any]:
    """``["image_size=[224,320]", "num_frames=16"]`` as arguments of ViViT.

    Raises:
        UserError: If a word is not NAME=VALUE, or its value cannot be read.
    """
    from omegaconf import OmegaConf

    parsed: dict[str, Any] = {}
    for word in words:
        name, equals, _ = word.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(
                f"{word!r}: expected NAME=VALUE, an argument of ViViT, e.g. num_frames=16"
            )
        try:
            parsed |= OmegaConf.to_container(OmegaConf.from_dotlist([word]))  # type: ignore
        except Exception as error:  # the YAML parser's, or OmegaConf's
            raise UserError(
                f"{word!r}: its value cannot be read; write it as YAML, e.g. image_size=[224,320]"
            ) from error
    return parsed
