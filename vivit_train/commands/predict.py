"""Name what videos show: the most probable classes of each.

vivit predict RUN/checkpoints/best.ckpt clip.mp4 other.webm
vivit predict owner/name clip.mp4 --top-k 3 --json
"""

import argparse
import json
import sys
from typing import Any

from vivit_train.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument(
        "checkpoint", help="a run's folder, our checkpoint, a Hugging Face folder or hub id"
    )
    parser.add_argument("videos", nargs="+", metavar="VIDEO")
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

    from vivit_train.checkpoint import load_classifier, resolve_checkpoint
    from vivit_train.video.decode import DecodeError

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        classifier = load_classifier(resolve_checkpoint(arguments.checkpoint)).to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: {str(error).splitlines()[0]}") from None
    failed = 0
    report: list[dict[str, Any]] = []
    for path in arguments.videos:
        try:
            probabilities = classifier.classify(path, views).softmax(dim=0)
        except DecodeError as error:
            failed += 1
            report.append({"video": path, "error": error.reason})
            if not arguments.json:
                print(f"error: {error}", file=sys.stderr)
            continue
        best = probabilities.topk(min(arguments.top_k, len(probabilities)))
        classes = [
            {"class": classifier.class_names[index], "probability": round(p, 6)}
            for p, index in zip(best.values.tolist(), best.indices.tolist())
        ]
        report.append({"video": path, "classes": classes})
        if not arguments.json:
            print(path)
            for row in classes:
                print(f"  {row['probability']:.4f}  {row['class']}")
    if arguments.json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    return 1 if failed else 0


def parse_views(text: str) -> tuple[int, int]:
    """``4x3`` as (temporal, spatial) views.

    Raises:
        UserError: If it is not of that form.
    """
    parts = text.split("x")
    if len(parts) != 2 or not all(p.isdecimal() for p in parts) or int(parts[0]) < 1:
        raise UserError(f"--views {text}: expected TEMPORALxSPATIAL, e.g. 4x3")
    return int(parts[0]), int(parts[1])
