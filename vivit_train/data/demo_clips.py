"""The demo's clips: an object that drifts before a background, in one of eight directions.

Multi-label there are two objects in a clip, which drift in two directions.

Shape, textures, colours, background, position, angle, size and speed are drawn independently of
the class; the class is the direction alone. The object moves on a torus from a place that is
drawn uniformly. Hence, exactly: a frame at any time is distributed alike in all classes, and a
clip run backwards is a clip of the opposite class. Only motion and its direction can be learnt.
"""

import json
import math
import multiprocessing
import os
import shutil
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vivit_train.errors import UserError
from vivit_train.video.write import write_video

# Class: the direction (x, y) in which the object moves; y points down.
_DIRECTIONS = {
    "moving_down": (0, 1),
    "moving_down_left": (-1, 1),
    "moving_down_right": (1, 1),
    "moving_left": (-1, 0),
    "moving_right": (1, 0),
    "moving_up": (0, -1),
    "moving_up_left": (-1, -1),
    "moving_up_right": (1, -1),
}
CLASS_NAMES = tuple(_DIRECTIONS)

# Pixels per frame: seen within a tubelet of two frames, and less than an object in eight.
_SPEED = (1.2, 2.4)
_SHAPES = ("bar", "cross", "disc", "ellipse", "triangle")
# Multi-label, of their usual size: fewer of the two are hidden by each other.
_SMALLER = 0.8
# Raised whenever the same arguments begin to give other clips.
_VERSION = 3
_SPLITS = ("train", "val")


def render(
    class_name: str,
    rng: np.random.Generator,
    num_frames: int = 32,
    height: int = 56,
    width: int = 72,
    behind: np.ndarray | None = None,
    scale: float = 1.0,
) -> np.ndarray:
    """Render one clip.

    The same generator gives the opposite class the same clip backwards.

    Args:
        class_name: One of ``CLASS_NAMES``.
        rng: Draws everything but the direction.
        num_frames: T.
        height: H in pixels.
        width: W in pixels.
        behind: See `draw_on_path`.
        scale: See there.

    Returns:
        uint8 [T, H, W, 3], RGB.

    Raises:
        UserError: If there is no such class.
    """
    if class_name not in _DIRECTIONS:
        raise UserError(f"class {class_name!r} is not one of the demo's: {', '.join(CLASS_NAMES)}")
    direction = np.array(_DIRECTIONS[class_name]) / np.hypot(*_DIRECTIONS[class_name])
    # The place is that of the middle of the clip, so that backwards is the opposite class.
    time = np.arange(num_frames) - (num_frames - 1) / 2
    middle = rng.uniform((0, 0), (width, height))
    path = middle + rng.uniform(*_SPEED) * time[:, None] * direction
    return draw_on_path(path, rng, height, width, scale=scale, behind=behind)


def render_two(first: str, second: str, rng: np.random.Generator) -> np.ndarray:
    """Render a clip of two objects, each with a motion of its own, the second before the first.

    Args:
        first: One of ``CLASS_NAMES``.
        second: Likewise.
        rng: Draws everything but the directions.

    Returns:
        uint8 [T, H, W, 3], RGB.
    """
    behind = render(first, rng, scale=_SMALLER)
    return render(second, rng, behind=behind, scale=_SMALLER)


def draw_on_path(
    path: np.ndarray,
    rng: np.random.Generator,
    height: int,
    width: int,
    turn: np.ndarray | float = 0.0,
    scale: np.ndarray | float = 1.0,
    behind: np.ndarray | None = None,
) -> np.ndarray:
    """Render an object that moves along a path on a torus, before a background.

    Args:
        path: Where it is in each frame: float [T, 2], (x, y) in pixels; y points down.
        rng: Draws shape, size, angle, textures and colours.
        height: H in pixels.
        width: W in pixels.
        turn: Added to the angle in each frame: radians, clockwise, [T] or one for all.
        scale: Times the size in each frame: above 0, [T] or one for all.
        behind: What is drawn on: uint8 [T, H, W, 3]; ``None``: a background that is drawn.

    Returns:
        uint8 [T, H, W, 3], RGB.
    """
    # float32 throughout, and the axes apart for as long as they are: clips are written in seconds.
    x, y = path.T.astype(np.float32)[:, :, None, None]  # each [T, 1, 1]
    rows, columns = np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32)
    dx = (columns - x + width / 2) % width - width / 2  # [T, 1, W], the nearest way round
    dy = (rows[:, None] - y + height / 2) % height - height / 2  # [T, H, 1]
    # [T, 1, 1], or [1, 1, 1] where it stays as it is.
    angle = np.reshape(rng.uniform(0, 2 * math.pi) + turn, (-1, 1, 1))
    radius = np.reshape(rng.uniform(0.2, 0.36) * min(height, width) * scale, (-1, 1, 1))
    cosine, sine = np.float32(np.cos(angle) / radius), np.float32(np.sin(angle) / radius)
    u = cosine * dx + sine * dy  # [T, H, W], in the object's own frame
    v = cosine * dy - sine * dx
    # In pixels, inside the outline.
    depth = _depth(str(rng.choice(_SHAPES)), u, v) * np.float32(radius)
    mask = np.clip(depth / 1.5 + 0.5, 0, 1)[..., None]  # [T, H, W, 1], soft at the edge

    brighter = rng.choice([-1, 1])  # the object, or the background
    wall = _texture(height, width, rng)[..., None] * rng.uniform(10, 30)
    background = 128 - brighter * rng.uniform(40, 80) + rng.uniform(-25, 25, 3) + wall
    background = background.astype(np.float32)  # [H, W, 3]
    if behind is not None:
        background, brighter = behind.astype(np.float32), 1 if np.median(behind) < 128 else -1
    along = rng.uniform(0, 2 * math.pi)
    stripes = np.cos(rng.uniform(2, 4) * (math.cos(along) * u + math.sin(along) * v))[..., None]
    front = 128 + brighter * rng.uniform(40, 80) + rng.uniform(-25, 25, 3)
    frames = front.astype(np.float32) + stripes * np.float32(rng.uniform(10, 30))
    frames -= background
    frames *= mask
    frames += background
    return np.clip(np.rint(frames, out=frames), 0, 255, out=frames).astype(np.uint8)


def _depth(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """How far a point lies inside a shape of radius 1; negative outside."""
    if shape == "bar":
        return np.minimum(1 - np.abs(u), 0.45 - np.abs(v))
    if shape == "disc":
        return 0.8 - np.hypot(u, v)
    if shape == "ellipse":
        return (1 - np.hypot(u, v / 0.5)) / 2
    if shape == "triangle":
        sides = (0.5 + v, 0.5 - v / 2 - 0.866 * u, 0.5 - v / 2 + 0.866 * u)
        return np.minimum(np.minimum(sides[0], sides[1]), sides[2])
    across = np.minimum(1 - np.abs(u), 0.28 - np.abs(v))
    down = np.minimum(1 - np.abs(v), 0.28 - np.abs(u))
    return np.maximum(across, down)


def _texture(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A smooth random texture that continues over the edges: float [H, W] in [-1, 1]."""
    rows, columns = np.mgrid[:height, :width]
    waves = rng.integers(-3, 4, (4, 2))
    waves[(waves == 0).all(axis=1)] = 1
    phases = rng.uniform(0, 2 * math.pi, 4)
    total = sum(
        np.cos(2 * math.pi * (down * rows / height + across * columns / width) + phase)
        for (down, across), phase in zip(waves, phases)
    )
    return total / np.abs(total).max()


def demo_is_there(
    root: str | Path,
    train_per_class: int,
    val_per_class: int,
    seed: int = 0,
    multi_label: bool = False,
) -> bool:
    """Whether `write_demo` with these arguments would find its work done.

    Raises:
        UserError: If a count or the seed cannot be used, or ``root`` holds something else.
    """
    return _is_written(Path(root), _recipe(train_per_class, val_per_class, seed, multi_label))


def write_demo(
    root: str | Path,
    train_per_class: int,
    val_per_class: int,
    seed: int = 0,
    num_workers: int | None = None,
    multi_label: bool = False,
) -> None:
    """Write the demo data set, one folder per class, unless it is there already.

    ``<root>/{train,val}/<class>/<number>.mp4`` and ``<root>/demo.json``, which records the
    arguments. Multi-label ``<root>/{train,val}/<number>.mp4`` and the lists ``<root>/train.csv``
    and ``val.csv``. The folder appears under its name only once complete. Pixels depend on the
    arguments alone, not on ``num_workers``.

    Args:
        root: Where to; its parents are made.
        train_per_class: Training clips per class.
        val_per_class: Validation clips per class.
        seed: 0 or more. Each clip is drawn from (seed, split, class, number): a larger set begins
            with the clips of a smaller one.
        num_workers: Processes; as many as this one may use cores if None, none but this one if 0.
        multi_label: Whether a clip has two objects, of two classes. There are as many clips.

    Raises:
        UserError: If a count or the seed cannot be used, ``root`` holds something else, or the
            processes cannot start.
    """
    root = Path(root)
    recipe = _recipe(train_per_class, val_per_class, seed, multi_label)
    if _is_written(root, recipe):
        return
    staging = root.with_name(f"{root.name}.partial-{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        clips = _list_clips(staging, recipe)
        for clip in clips:
            clip.path.parent.mkdir(parents=True, exist_ok=True)
        _write_all(clips, num_workers)
        if multi_label:
            _write_lists(staging, clips)
        (staging / "demo.json").write_text(json.dumps(recipe, indent=2) + "\n")
        try:
            staging.rename(root)
        except OSError:
            # Another process was faster; what it wrote is the same, or the user is told.
            if not _is_written(root, recipe):
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _recipe(
    train_per_class: int, val_per_class: int, seed: int, multi_label: bool
) -> dict[str, int]:
    recipe = {"train_per_class": train_per_class, "val_per_class": val_per_class, "seed": seed}
    for name, value in recipe.items():
        if value < (least := 0 if name == "seed" else 1):
            raise UserError(f"{name}={value} must be at least {least}")
    return {**recipe, "version": _VERSION} | ({"objects": 2} if multi_label else {})


class _Clip(NamedTuple):
    path: Path
    class_names: tuple[str, ...]
    key: tuple[int, ...]


def _list_clips(root: Path, recipe: dict[str, int]) -> list[_Clip]:
    clips = []
    for split_number, split in enumerate(_SPLITS):
        for class_number, class_name in enumerate(CLASS_NAMES):
            for number in range(recipe[f"{split}_per_class"]):
                key = (recipe["seed"], split_number, class_number, number)
                if "objects" in recipe:  # the other object has each other class in turn
                    other = CLASS_NAMES[(class_number + 1 + number % 7) % 8]
                    path = root / split / f"{class_number}{number:03d}.mp4"
                    clips.append(_Clip(path, (class_name, other), key))
                else:
                    path = root / split / class_name / f"{number:03d}.mp4"
                    clips.append(_Clip(path, (class_name,), key))
    return clips


def _write_lists(root: Path, clips: list[_Clip]) -> None:
    for split in _SPLITS:
        rows = [
            f"{clip.path.relative_to(root).as_posix()},{';'.join(clip.class_names)}\n"
            for clip in clips
            if clip.path.parent.name == split
        ]
        (root / f"{split}.csv").write_text("path,label\n" + "".join(rows))


def _write_all(clips: list[_Clip], num_workers: int | None) -> None:
    if num_workers is None:
        # Not cpu_count(): a container may have a few of the machine's cores.
        has_affinity = hasattr(os, "sched_getaffinity")
        num_workers = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    if num_workers < 2:
        for clip in clips:
            _write_clip(clip)
        return
    # Spawned: a fork would copy the locks of whatever threads the caller runs. Not by a Pool, which
    # would go on replacing processes that cannot start.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(num_workers, context) as pool:
            deque(pool.map(_write_clip, clips, chunksize=8), maxlen=0)
    except BrokenProcessPool:
        raise UserError(
            "a process that writes the demo's clips died. Each of them reads the script that "
            'calls this: it must be a file, and call it below `if __name__ == "__main__":`. If '
            "memory ran out, use fewer processes"
        ) from None


def _write_clip(clip: _Clip) -> None:
    rng = np.random.default_rng(clip.key)
    fps = int(rng.choice([24, 25, 30]))
    first, *others = clip.class_names
    frames = render_two(first, others[0], rng) if others else render(first, rng)
    # superfast leaves out x264's macroblock tree, which differs from run to run on small frames.
    write_video(clip.path, frames, fps, options={"crf": "20", "preset": "superfast"})


def _is_written(root: Path, recipe: dict[str, int]) -> bool:
    """Whether the very data set is there; anything else that is there is the user's to remove."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / "demo.json").read_text())
    except (OSError, ValueError):
        found = None
    if found is None:
        raise UserError(
            f"{root} holds something other than demo clips, and the demo writes its own: to use "
            "the videos in that folder choose data=folder (or csv, kinetics400, ...); for the demo "
            "name a folder that does not exist yet with data.root"
        )
    if found != recipe:
        raise UserError(
            f"{root} holds {found}, asked for is {recipe}: delete the folder or choose another one "
            "with data.root (experiment=demo_multi_label has one of its own)"
        )
    return True
