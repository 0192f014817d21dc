"""Name what videos show: the most probable classes of each, of every head if there are several.

vivit predict RUN/checkpoints/best.ckpt clip.mp4 other.webm
vivit predict owner/name clip.mp4 --top-k 3 --json
"""

import argparse
import itertools
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vivit_train.errors import UserError
from vivit_train.terminal import say, say_json

if TYPE_CHECKING:
    from torch import Tensor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument(
        "checkpoint",
        help="a run, a checkpoint, an exported or Hugging Face folder, a hub id",
    )
    parser.add_argument("videos", nargs="+", metavar="VIDEO", type=os.path.expanduser)
    parser.add_argument("--top-k", type=int, default=5, help="classes to print (default 5)")
    parser.add_argument(
        "--views",
        metavar="TEMPORALxSPATIAL",
        help="views to average, e.g. 4x3 (default: as the model was tested)",
    )
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU if there is one)")
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of text")


def run(arguments: argparse.Namespace) -> int:
    """Predicts; a video that cannot be decoded is named, and the exit code is then 1."""
    if arguments.top_k < 1:
        raise UserError(f"--top-k must be 1 or more, got {arguments.top_k}")
    views = parse_views(arguments.views) if arguments.views else None

    import torch

    from vivit_train.classifier import NonFiniteLogits, load_classifier
    from vivit_train.video.decode import DecodeError

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    classifier = load_classifier(arguments.checkpoint)
    try:
        classifier.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: {str(error).splitlines()[0]}") from None
    if not classifier.tells_frame_stride:
        say(
            f"warning: {arguments.checkpoint} does not say how far apart the frames of its clips "
            f"were: frames {classifier.frame_stride} apart are taken",
            file=sys.stderr,
        )
    heads = classifier.heads
    failed = 0
    report: list[dict[str, Any]] = []
    for path in arguments.videos:
        try:
            logits = classifier.classify(path, views)
        except (DecodeError, NonFiniteLogits) as error:
            failed += 1
            report.append({"video": path, "error": error.reason})
            if not arguments.json:
                say(f"error: {error}", file=sys.stderr)
            continue
        if heads:
            parts = best_of_heads(logits, classifier.class_names, heads, arguments.top_k)
        else:
            parts = {
                "classes": best(logits.softmax(dim=0), classifier.class_names, arguments.top_k)
            }
        report.append({"video": path, **parts})
        if not arguments.json:
            say(path)
            for part, rows in parts.items():
                if heads:
                    say(f" {part}")
                for row in rows:
                    say(f"  {row['probability']:.4f}  {row['class']}")
    if arguments.json:
        say_json(report)
    return 1 if failed else 0


def best(probabilities: "Tensor", names: Sequence[str], top_k: int) -> list[dict[str, Any]]:
    """The most probable classes: float ``[K]`` and K names -> rows of class and probability."""
    top = probabilities.topk(min(top_k, len(probabilities)))
    return [
        {"class": names[index], "probability": round(p, 6)}
        for p, index in zip(top.values.tolist(), top.indices.tolist())
    ]


def best_of_heads(
    logits: "Tensor", names: Sequence[str], heads: Sequence[int], top_k: int
) -> dict[str, list[dict[str, Any]]]:
    """The most probable actions, one class of each head, and the best classes of each head.

    Args:
        logits: Float ``[K]``, the heads' side by side.
        names: K names such as ``noun: tap``.
        heads: Classes of each head.
        top_k: How many to give of each.

    Returns:
        ``actions``, whose names join those of their classes, then e.g. ``nouns`` and ``verbs``.
    """
    from vivit_train.metrics import joint_logits

    joint = joint_logits(logits[None], heads)[0].softmax(dim=0)
    parts: dict[str, list[dict[str, Any]]] = {"actions": []}
    per_head: list[list[str]] = []
    for head in logits.split(list(heads)):
        start = sum(map(len, per_head))
        per_head.append(list(names[start : start + len(head)]))
        kind = per_head[-1][0].partition(":")[0]
        parts[f"{kind}s"] = best(head.softmax(dim=0), per_head[-1], top_k)
    actions = [", ".join(classes) for classes in itertools.product(*per_head)]
    return parts | {"actions": best(joint, actions, top_k)}


def parse_views(text: str) -> tuple[int, int]:
    """``4x3`` as (temporal, spatial) views.

    Raises:
        UserError: If it is not of that form.
    """
    parts = text.split("x")
    if len(parts) != 2 or not all(p.isdecimal() for p in parts) or int(parts[0]) < 1:
        raise UserError(f"--views {text}: expected TEMPORALxSPATIAL, e.g. 4x3")
    return int(parts[0]), int(parts[1])
