"""The demo's clips: eight motions that no single frame tells apart.

A textured object on a background, on a torus: what leaves on one side comes in on the other. The
texture is a function of (log r, theta) around the object's centre, periodic in both, so that
zooming and turning, too, are shifts that never end. Position, angle and zoom are drawn uniformly
from their periods, and a class moves one of them, at a speed drawn for both directions alike.
Hence, exactly: a frame at any time is distributed alike in all classes, and a clip run backwards
is a clip of the opposite class. Only motion, and its direction, can be learnt.
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


class _Motion(NamedTuple):
    attribute: str
    direction: int


# On images y points down, so that theta grows clockwise.
_MOTIONS = {
    "contracting": _Motion("zoom", -1),
    "expanding": _Motion("zoom", 1),
    "moving_down": _Motion("y", 1),
    "moving_left": _Motion("x", -1),
    "moving_right": _Motion("x", 1),
    "moving_up": _Motion("y", -1),
    "rotating_clockwise": _Motion("angle", 1),
    "rotating_counterclockwise": _Motion("angle", -1),
}
CLASS_NAMES = tuple(sorted(_MOTIONS))

# Change per frame. At two thirds of the mean object's radius each is one to two pixels.
_SPEEDS = {
    "x": (1.0, 2.2),  # pixels
    "y": (1.0, 2.2),
    "angle": (0.07, 0.15),  # radians
    "zoom": (0.07, 0.15),  # in log r
}
_ZOOM_PERIOD = math.pi
# Texture waves (around the centre, outwards): no finer than what a small frame and H.264 keep.
_WAVES = [(0, 1), (0, 2)] + [(n, m) for n in (1, 2, 3, 4) for m in (-2, -1, 0, 1, 2)]
_SPLITS = ("train", "val")


def render(
    class_name: str,
    rng: np.random.Generator,
    num_frames: int = 32,
    height: int = 56,
    width: int = 72,
) -> np.ndarray:
    """Render one clip.

    Everything is drawn the same way for every class and holds for the middle of the clip: the
    same generator gives the opposite class the same clip backwards.

    Args:
        class_name: One of ``CLASS_NAMES``.
        rng: Draws the scene and the speed.
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

    fraction = rng.random()
    state = {
        "x": rng.uniform(0, width),
        "y": rng.uniform(0, height),
        "angle": rng.uniform(0, 2 * math.pi),
        "zoom": rng.uniform(0, _ZOOM_PERIOD),
    }
    slow, fast = _SPEEDS[moving]
    speed = direction * (slow + fraction * (fast - slow))
    time = np.arange(num_frames) - (num_frames - 1) / 2
    track = {name: np.float32(value).reshape(1, 1, 1) for name, value in state.items()}
    track[moving] = (state[moving] + speed * time).astype(np.float32)[:, None, None]

    # Offsets from the centre, the short way around the torus: [T or 1, 1, W], [T or 1, H, 1].
    dx = _wrapped(np.arange(width, dtype=np.float32) - track["x"], width)
    dy = _wrapped(np.arange(height, dtype=np.float32)[:, None] - track["y"], height)
    mask = _object_mask(dx, dy, rng.uniform(0.3, 0.4) * min(height, width), rng)
    table = _texture_table(rng)
    # The object goes from dark to bright, the background stays between: no colour is a class's.
    tint, contrast = rng.uniform(-30, 30, 3), rng.uniform(75, 100) + rng.uniform(-20, 20, 3)
    backdrop = 128 + rng.uniform(-30, 30, 3) + 20 * _torus_texture(height, width, rng)[..., None]

    # Only the object's pixels are computed for every frame, as a list: [P].
    shape = (num_frames, height, width)
    covered = np.broadcast_to(mask > 0, shape).nonzero()
    dx, dy, angle, zoom, mask = (
        np.broadcast_to(values, shape)[covered]
        for values in (dx, dy, track["angle"], track["zoom"], mask)
    )
    radius = np.hypot(dx, dy) + np.float32(1e-3)
    texture = _look_up(table, np.arctan2(dy, dx) - angle, np.log(radius) - zoom)
    # Around the centre the texture is finer than pixels: it fades instead of flickering.
    texture *= np.minimum(1, radius / 4)
    colours = texture[:, None] * np.float32(contrast) + np.float32(128 + tint)
    frames = np.broadcast_to(_to_uint8(backdrop), (*shape, 3)).copy()
    behind = frames[covered].astype(np.float32)
    frames[covered] = _to_uint8(behind + mask[:, None] * (colours - behind))
    return frames


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)


def _wrapped(offset: np.ndarray, period: float) -> np.ndarray:
    return (offset + period / 2) % period - period / 2


def _object_mask(
    dx: np.ndarray, dy: np.ndarray, radius: float, rng: np.random.Generator
) -> np.ndarray:
    """A disc, a rounded square or a rounded diamond, which does not turn with its texture."""
    power = float(rng.choice([1.4, 2.0, 4.0]))  # NumPy's own floats would widen all to float64
    tilt = rng.uniform(0, math.pi)
    along = np.abs(math.cos(tilt) * dx + math.sin(tilt) * dy)
    across = np.abs(math.cos(tilt) * dy - math.sin(tilt) * dx)
    distance = (along**power + across**power) ** (1 / power)
    return np.clip((radius - distance) / 1.5 + 0.5, 0, 1)  # an edge of one and a half pixels


def _texture_table(rng: np.random.Generator) -> np.ndarray:
    """One period of smooth random blobs in (-1, 1) over (theta, log r): [128, 64].

    Its waves are so long that linear interpolation is as good as evaluating them.
    """
    spectrum = np.zeros((128, 64), dtype=np.complex64)
    spectrum[tuple(np.transpose(_WAVES))] = rng.normal(size=(len(_WAVES), 2)) @ [1, 1j]
    field = np.fft.ifft2(spectrum).real
    return np.tanh(2 * field / field.std()).astype(np.float32)


def _look_up(table: np.ndarray, angle: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Values of a texture table at angles in radians and depths in log r: [P]."""
    num_rows, num_columns = table.shape
    row = angle * np.float32(num_rows / (2 * math.pi))
    column = depth * np.float32(num_columns / _ZOOM_PERIOD)
    above, left = np.floor(row), np.floor(column)
    down, right = row - above, column - left
    above, left = above.astype(np.int32) % num_rows, left.astype(np.int32) % num_columns
    below, beyond = (above + 1) % num_rows, (left + 1) % num_columns
    upper = table[above, left] * (1 - right) + table[above, beyond] * right
    lower = table[below, left] * (1 - right) + table[below, beyond] * right
    return upper * (1 - down) + lower * down


def _torus_texture(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth random blobs in about (-1, 1), without a seam at the borders: [H, W]."""
    waves = np.fft.fftfreq(height, 1 / height)[:, None], np.fft.fftfreq(width, 1 / width)
    spectrum = np.fft.fft2(rng.normal(size=(height, width)))
    smooth = np.fft.ifft2(spectrum * (np.hypot(*waves) <= 3)).real
    return np.tanh((smooth - smooth.mean()) / smooth.std()).astype(np.float32)


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
        seed: Draws the clips, each from (seed, split, class, number): more clips of a class leave
            the first ones as they are.
        num_workers: Processes; as many as this one may use cores if None, none but this one if 0.
        progress: Called with the number of clips written and of all clips, after each.

    Raises:
        UserError: If a count or the seed cannot be used, or ``root`` holds something else.
    """
    root = Path(root)
    recipe = {"train_per_class": train_per_class, "val_per_class": val_per_class, "seed": seed}
    for name, value in recipe.items():
        least = 0 if name == "seed" else 1
        if value < least:
            raise UserError(f"{name}={value} must be at least {least}")
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
        num_workers = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
    if num_workers < 2:
        yield from map(_write_clip, clips)
    else:
        # Spawned: a fork would copy the threads' locks of whatever the caller has imported.
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
