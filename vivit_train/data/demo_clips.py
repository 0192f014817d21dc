"""The demo's clips: eight motions that no single frame tells apart.

A disc of sectors and rings hangs before a wall of crossing waves. Four phases say where the
pattern of each stands: across and down the wall, around and outwards on the disc. All four are
drawn uniformly from their period and a class moves one of them, at a speed drawn from the same
range in all classes. Hence, exactly: a frame at any time is distributed alike in all classes, and
a clip run backwards is a clip of the opposite class. Only motion and its direction can be learnt.
"""

import json
import math
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vivit_train.errors import UserError
from vivit_train.video.write import write_video

# Class: the phase that it moves, and which way. y points down, so that angles grow clockwise.
_MOTIONS = {
    "contracting": ("zoom", -1),
    "expanding": ("zoom", 1),
    "moving_down": ("y", 1),
    "moving_left": ("x", -1),
    "moving_right": ("x", 1),
    "moving_up": ("y", -1),
    "rotating_clockwise": ("angle", 1),
    "rotating_counterclockwise": ("angle", -1),
}
CLASS_NAMES = tuple(_MOTIONS)
_PHASES = ("x", "y", "angle", "zoom")

# Radians of phase per frame: at 56 pixels 1.5 to 2.7 pixels or 7 to 13 degrees. Seen at every
# second frame still less than half a period, beyond which motion would seem to reverse.
_SPEED = (0.5, 0.9)
# Coarse enough to outlive H.264 and 8x8 patches. The rings' period in log r is that of the
# sectors in angle, so that both look as wide.
_WAVES_PER_SHORT_SIDE = 3
_NUM_SECTORS = 4
# Raised whenever the same arguments begin to give other clips.
_VERSION = 1
_SPLITS = ("train", "val")


def render(
    class_name: str,
    rng: np.random.Generator,
    num_frames: int = 32,
    height: int = 56,
    width: int = 72,
) -> np.ndarray:
    """Render one clip.

    What is drawn is drawn alike for every class, and phases hold for the middle of the clip: the
    same generator gives the opposite class the same clip backwards.

    Args:
        class_name: One of ``CLASS_NAMES``.
        rng: Draws phases, speed, the disc's size, and colours.
        num_frames: T.
        height: H in pixels.
        width: W in pixels.

    Returns:
        uint8 [T, H, W, 3], RGB.

    Raises:
        UserError: If there is no such class.
    """
    if class_name not in _MOTIONS:
        raise UserError(f"class {class_name!r} is not one of the demo's: {', '.join(CLASS_NAMES)}")
    moving, direction = _MOTIONS[class_name]
    # [1, 1, 1] where a phase stands, and broadcasts; [T, 1, 1] where it moves.
    phase = {name: np.full((1, 1, 1), rng.uniform(0, 2 * math.pi)) for name in _PHASES}
    time = np.arange(num_frames)[:, None, None] - (num_frames - 1) / 2
    phase[moving] = phase[moving] + direction * rng.uniform(*_SPEED) * time
    phase = {name: values.astype(np.float32) for name, values in phase.items()}

    short_side = min(height, width)
    x = np.arange(width, dtype=np.float32) - (width - 1) / 2  # [W]
    y = np.arange(height, dtype=np.float32)[:, None] - (height - 1) / 2  # [H, 1]
    wave = 2 * math.pi * _WAVES_PER_SHORT_SIDE / short_side
    wall = (np.cos(wave * x - phase["x"]) + np.cos(wave * y - phase["y"])) / 2

    radius = np.maximum(np.hypot(x, y), 0.5)  # [H, W]; the logarithm of 0 is not a number
    sectors = np.cos(_NUM_SECTORS * np.arctan2(y, x) - phase["angle"])
    rings = np.cos(_NUM_SECTORS * np.log(radius) - phase["zoom"])
    # Around the centre the pattern is finer than pixels: it fades instead of flickering.
    disc = (sectors + rings) / 2 * np.minimum(1, radius * 14 / short_side)

    edge = np.clip((rng.uniform(0.32, 0.4) * short_side - radius) / 1.5 + 0.5, 0, 1)
    pattern = wall + edge * (disc - wall)  # [T, H, W] in [-1, 1]
    mean = 128 + rng.uniform(-12, 12, 3)
    contrast = rng.uniform(95, 110) + rng.uniform(-15, 15, 3)
    frames = pattern[..., None] * contrast.astype(np.float32) + mean.astype(np.float32)
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


def write_demo(
    root: str | Path,
    train_per_class: int,
    val_per_class: int,
    seed: int = 0,
    num_workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the demo data set, one folder per class, unless it is there already.

    ``<root>/{train,val}/<class>/<number>.mp4`` and ``<root>/demo.json``, which records the
    arguments. The folder appears under its name only once complete. Pixels depend on the
    arguments alone, not on ``num_workers``.

    Args:
        root: Where to; its parents are made.
        train_per_class: Training clips per class.
        val_per_class: Validation clips per class.
        seed: 0 or more. Each clip is drawn from (seed, split, class, number): a larger set begins
            with the clips of a smaller one.
        num_workers: Processes; as many as this one may use cores if None, none but this one if 0.
        progress: Called with the number of clips written and of all clips, after each.

    Raises:
        UserError: If a count or the seed cannot be used, or ``root`` holds something else.
    """
    root = Path(root)
    recipe = {"train_per_class": train_per_class, "val_per_class": val_per_class, "seed": seed}
    for name, value in recipe.items():
        if value < (least := 0 if name == "seed" else 1):
            raise UserError(f"{name}={value} must be at least {least}")
    recipe["version"] = _VERSION
    if _is_written(root, recipe):
        return
    staging = root.with_name(f"{root.name}.partial-{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        clips = _list_clips(staging, recipe)
        for clip in clips:
            clip.path.parent.mkdir(parents=True, exist_ok=True)
        for done, _ in enumerate(_write_all(clips, num_workers), start=1):
            if progress:
                progress(done, len(clips))
        (staging / "demo.json").write_text(json.dumps(recipe, indent=2) + "\n")
        try:
            staging.rename(root)
        except OSError:
            # Another process was faster; what it wrote is the same, or the user is told.
            if not _is_written(root, recipe):
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


class _Clip(NamedTuple):
    path: Path
    class_name: str
    key: tuple[int, ...]


def _list_clips(root: Path, recipe: dict[str, int]) -> list[_Clip]:
    return [
        _Clip(
            root / split / class_name / f"{number:03d}.mp4",
            class_name,
            (recipe["seed"], split_number, class_number, number),
        )
        for split_number, split in enumerate(_SPLITS)
        for class_number, class_name in enumerate(CLASS_NAMES)
        for number in range(recipe[f"{split}_per_class"])
    ]


def _write_all(clips: list[_Clip], num_workers: int | None) -> Iterator[None]:
    if num_workers is None:
        # Not cpu_count(): a container may have a few of the machine's cores.
        has_affinity = hasattr(os, "sched_getaffinity")
        num_workers = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    if num_workers < 2:
        yield from map(_write_clip, clips)
        return
    # Spawned: a fork would copy the locks of whatever threads the caller runs.
    with multiprocessing.get_context("spawn").Pool(num_workers) as pool:
        yield from pool.imap_unordered(_write_clip, clips, chunksize=8)


def _write_clip(clip: _Clip) -> None:
    rng = np.random.default_rng(clip.key)
    fps = int(rng.choice([24, 25, 30]))
    frames = render(clip.class_name, rng)
    write_video(clip.path, frames, fps, options={"crf": "20", "preset": "veryfast"})


def _is_written(root: Path, recipe: dict[str, int]) -> bool:
    """Whether the very data set is there; anything else that is there is the user's to remove."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / "demo.json").read_text())
    except (OSError, ValueError):
        found = None
    if found != recipe:
        raise UserError(
            f"{root} holds {found or 'something other than demo clips'}, asked for is {recipe}: "
            "delete the folder or choose another one"
        )
    return True
