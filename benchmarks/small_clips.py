"""Small sets of many kinds, which `small_sets.py` trains on: each drawn from a name and a seed."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vivit_train.data.demo_clips import draw_on_path
from vivit_train.video.write import write_video

HEIGHT, WIDTH = 56, 72
X264 = {"crf": "20", "preset": "superfast"}
NUM_TEST = 120  # videos to score, about, so that a top-1 is known to within 0.05


class Motion(NamedTuple):
    """What an object does; each a number, or float [T], one per frame."""

    x: np.ndarray | float = 0.0  # pixels from its place
    y: np.ndarray | float = 0.0  # the same, down
    turn: np.ndarray | float = 0.0  # radians, clockwise
    scale: np.ndarray | float = 1.0  # times its size


# Seconds of each frame, float [T], and what is drawn -> the motion.
Move = Callable[[np.ndarray, np.random.Generator], Motion]


def swing(x: float, y: float) -> Move:
    def move(time: np.ndarray, rng: np.random.Generator) -> Motion:
        way = rng.uniform(8, 14) * np.cos(_phase(time, rng))
        return Motion(x * way, y * way)

    return move


def drift(x: float, y: float, slowest: float = 31, fastest: float = 62) -> Move:
    def move(time: np.ndarray, rng: np.random.Generator) -> Motion:
        way = rng.uniform(slowest, fastest) * time
        return Motion(x * way, y * way)

    return move


def drift_anywhere(slowest: float, fastest: float) -> Move:
    def move(time: np.ndarray, rng: np.random.Generator) -> Motion:
        angle = rng.uniform(0, 2 * np.pi)
        return drift(np.cos(angle), np.sin(angle), slowest, fastest)(time, rng)

    return move


def circle(sense: int) -> Move:
    def move(time: np.ndarray, rng: np.random.Generator) -> Motion:
        phase, radius = sense * _phase(time, rng), rng.uniform(8, 14)
        return Motion(radius * np.cos(phase), radius * np.sin(phase))

    return move


def spin(sense: int) -> Move:
    return lambda time, rng: Motion(turn=sense * _phase(time, rng, (0.9, 1.6)))


def grow(sense: int) -> Move:
    def move(time: np.ndarray, rng: np.random.Generator) -> Motion:
        middle = time - time.mean()
        return Motion(scale=np.exp(sense * rng.uniform(0.7, 1.0) * middle / time[-1]))

    return move


def shake(time: np.ndarray, rng: np.random.Generator) -> Motion:
    x, y = (rng.uniform(2, 4) * np.cos(_phase(time, rng, (0.15, 0.3))) for _ in range(2))
    return Motion(x, y)


def pulse(time: np.ndarray, rng: np.random.Generator) -> Motion:
    return Motion(scale=1 + rng.uniform(0.25, 0.4) * np.cos(_phase(time, rng)))


def rock(time: np.ndarray, rng: np.random.Generator) -> Motion:
    return Motion(turn=rng.uniform(0.5, 0.9) * np.cos(_phase(time, rng)))


def stay(time: np.ndarray, rng: np.random.Generator) -> Motion:
    return Motion()


def in_turn(first: str, second: str) -> Move:
    """Two events, hop or swell, one in each half of the video."""

    def move(time: np.ndarray, rng: np.random.Generator) -> Motion:
        part = time / time[-1]
        events = {"hop": np.zeros_like(time), "swell": np.zeros_like(time)}
        for event, when in ((first, rng.uniform(0.15, 0.3)), (second, rng.uniform(0.7, 0.85))):
            inside = np.clip((part - when) / rng.uniform(0.12, 0.15), -1, 1)
            events[event] += np.cos(inside * np.pi / 2) ** 2
        return Motion(y=-14 * events["hop"], scale=1 + 0.7 * events["swell"])

    return move


def _phase(
    time: np.ndarray, rng: np.random.Generator, period: tuple[float, float] = (0.55, 0.8)
) -> np.ndarray:
    """Radians, from a random start; the period is in seconds."""
    return 2 * np.pi * (time / rng.uniform(*period) + rng.uniform())


MOVES: dict[str, Move] = {
    "sideways": swing(1, 0),
    "up and down": swing(0, 1),
    "falling line": swing(0.7, 0.7),
    "rising line": swing(0.7, -0.7),
    "left": drift(-1, 0),
    "right": drift(1, 0),
    "up": drift(0, -1),
    "down": drift(0, 1),
    "circling clockwise": circle(1),
    "circling back": circle(-1),
    "turning clockwise": spin(1),
    "turning back": spin(-1),
    "rocking": rock,
    "growing": grow(1),
    "shrinking": grow(-1),
    "pulsing": pulse,
    "shaking": shake,
    "still": stay,
    "creeping": drift_anywhere(6, 10),
    "slow": drift_anywhere(15, 25),
    "quick": drift_anywhere(38, 60),
    "racing": drift_anywhere(95, 140),
    "hop, swell": in_turn("hop", "swell"),
    "swell, hop": in_turn("swell", "hop"),
    "hop, hop": in_turn("hop", "hop"),
    "swell, swell": in_turn("swell", "swell"),
}


def draw_motion(name: str, time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An object that does what its class says: uint8 [T, H, W, 3]."""
    motion = MOVES[name](time, rng)
    # The middle of its way is where a crop of the middle shows it.
    place = rng.uniform((0.38 * WIDTH, 0.38 * HEIGHT), (0.62 * WIDTH, 0.62 * HEIGHT))
    path = place + np.stack(np.broadcast_arrays(motion.x + 0 * time, motion.y + 0 * time), axis=1)
    return draw_on_path(path, rng, HEIGHT, WIDTH, motion.turn, motion.scale)


TEXTURES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "stripes": lambda u, v: np.cos(u) + 0 * v,
    "checks": lambda u, v: np.sign(np.cos(u) * np.cos(v)),
    "dots": lambda u, v: 1 - 2 * (np.cos(u) + np.cos(v) > 0.9),
    "grid": lambda u, v: 1 - 2 * (np.maximum(np.cos(u), np.cos(v)) > 0.8),
    "rings": lambda u, v: np.cos(np.hypot(u, v)),
    "zigzag": lambda u, v: np.cos(u + 2 * np.abs((v / np.pi) % 2 - 1)),
}


def draw_texture(name: str, time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A surface that slides anywhere; its pattern alone is the class: uint8 [T, H, W, 3]."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] - np.array([HEIGHT / 2, WIDTH / 2])[:, None, None]
    angle, period = rng.uniform(0, 2 * np.pi), rng.uniform(8, 14)  # pixels
    slide = rng.uniform(-20, 20, 2)[:, None, None, None] * time[:, None, None]  # [2, T, 1, 1]
    x, y = columns + slide[0], rows + slide[1]
    u, v = (np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x)
    pattern = TEXTURES[name](2 * np.pi / period * u, 2 * np.pi / period * v)[..., None]
    colours = rng.uniform(30, 225, 3), rng.uniform(20, 60, 3) * rng.choice([-1, 1], 3)
    return np.clip(colours[0] + colours[1] * pattern, 0, 255).astype(np.uint8)


class Kind(NamedTuple):
    """What a set is drawn from: each number lies in a range or is one of several."""

    groups: tuple[tuple[str, ...], ...]  # of classes that come together
    num_classes: tuple[int, ...]
    clips: tuple[int, int]  # of a class
    seconds: tuple[float, float]
    rates: tuple[int, ...] = (24, 25, 30)  # frames a second
    cover: float | None = 0.6  # seconds of a video that tell its class; None: all of it
    mixed_rates: bool = False  # each video has its own; else the set has one
    unnamed: bool = False  # classes are called "kind 1" ...: their names say nothing
    rarest: int | None = None  # clips of the rarest class; those between are in geometric steps
    wrong: float = 0.0  # share of the training labels
    draw: Callable[[str, np.ndarray, np.random.Generator], np.ndarray] = draw_motion


def _single(*names: str) -> tuple[tuple[str, ...], ...]:
    return tuple((name,) for name in names)


LINES = ("sideways", "up and down", "falling line", "rising line")
MIRRORED = (
    ("circling clockwise", "circling back"),
    ("turning clockwise", "turning back"),
    ("falling line", "rising line"),
    ("left", "right"),
)
PERIODIC = _single(
    *LINES, "circling clockwise", "turning clockwise", "rocking", "pulsing", "shaking", "left", "up"
)
KINDS = {
    "lines": Kind((LINES,), (4,), (20, 20), (1.07, 1.07), rates=(30,)),
    "mirror": Kind(MIRRORED, (2, 4), (24, 40), (2, 4), rates=(50, 60), unnamed=True),
    "growth": Kind(_single("growing", "shrinking", "pulsing", "still"), (3, 4), (15, 25), (1, 2)),
    "rotation": Kind(
        _single("turning clockwise", "turning back", "rocking", "still"), (3, 4), (20, 40), (1.5, 3)
    ),
    "speed": Kind(
        _single("creeping", "slow", "quick", "racing"),
        (2, 3, 4),
        (30, 50),
        (1.5, 3),
        rates=(12, 15, 24, 30, 50, 60),
        mixed_rates=True,
    ),
    "order": Kind(
        (("hop, swell", "swell, hop", "hop, hop", "swell, swell"),),
        (2, 4),
        (25, 50),
        (2, 6),
        cover=None,
    ),
    "texture": Kind(_single(*TEXTURES), (4, 5, 6), (8, 16), (1, 3), draw=draw_texture),
    "many": Kind(
        (*PERIODIC, *_single("right", "down", "circling back", "turning back", "still")),
        (8, 9, 10),
        (12, 24),
        (1, 3),
    ),
    "long": Kind(PERIODIC, (3, 4, 5), (12, 20), (12, 20)),
    "imbalanced": Kind(PERIODIC, (3, 4), (100, 100), (1, 2), rarest=5),
    "wrong_labels": Kind(PERIODIC, (3, 4), (30, 50), (1, 2), wrong=0.2),
    "low_rate": Kind(_single("left", "right", "up", "down"), (2,), (60, 100), (2, 4), rates=(12,)),
    "few": Kind(PERIODIC, (2, 3), (8, 10), (1, 2), rates=(50, 60)),
}


class SmallSet(NamedTuple):
    """A set of a kind, as drawn from a seed."""

    name: str
    seed: int
    kind: Kind
    classes: tuple[str, ...]
    clips: tuple[int, ...]  # of each class, to train on
    rates: tuple[int, ...]
    seconds: float

    def folder(self, label: int) -> str:
        """Name of the folder of a class."""
        return f"kind {label + 1}" if self.kind.unnamed else self.classes[label]


def draw_set(name: str, seed: int = 0) -> SmallSet:
    """Number of classes, clips, rate and length of a set of this kind."""
    kind = KINDS[name]
    rng = np.random.default_rng((seed, list(KINDS).index(name)))
    num_classes = int(rng.choice(kind.num_classes))
    groups = rng.permutation(len(kind.groups))
    classes = [name for group in groups for name in kind.groups[group]][:num_classes]
    most = int(rng.integers(kind.clips[0], kind.clips[1], endpoint=True))
    clips = np.geomspace(most, kind.rarest or most, num_classes).round().astype(int)
    rates = kind.rates if kind.mixed_rates else (int(rng.choice(kind.rates)),)
    seconds = round(float(rng.uniform(*kind.seconds)), 2)
    return SmallSet(name, seed, kind, tuple(classes), tuple(clips.tolist()), rates, seconds)


def write_set(drawn: SmallSet, root: Path) -> None:
    """``root/{train,test}/<class>/<number>.mp4``, unless it is there: it appears once complete.

    Each video is drawn from (seed, kind, split, class, number).
    """
    if root.is_dir():
        return
    staging = root.with_name(f"{root.name}.partial-{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    scored = [max(10, NUM_TEST // len(drawn.classes))] * len(drawn.classes)
    for split, (role, counts) in enumerate({"train": drawn.clips, "test": scored}.items()):
        for label, number in ((k, n) for k, count in enumerate(counts) for n in range(count)):
            key = (drawn.seed, list(KINDS).index(drawn.name), split, label, number)
            rng = np.random.default_rng(key)
            rate, frames = draw_video(drawn, drawn.classes[label], rng)
            told = label
            if role == "train" and number < round(drawn.kind.wrong * counts[label]):
                told = (label + int(rng.integers(1, len(counts)))) % len(counts)
            folder = staging / role / drawn.folder(told)
            folder.mkdir(parents=True, exist_ok=True)
            write_video(folder / f"{label}{number:03d}.mp4", frames, rate, options=X264)
    staging.rename(root)


def draw_video(drawn: SmallSet, name: str, rng: np.random.Generator) -> tuple[int, np.ndarray]:
    """Frames a second, and uint8 [T, H, W, 3]; the length is within a tenth of the set's."""
    rate = int(rng.choice(drawn.rates))
    num_frames = round(rate * drawn.seconds * rng.uniform(0.9, 1.1))
    return rate, drawn.kind.draw(name, np.arange(num_frames) / rate, rng)
