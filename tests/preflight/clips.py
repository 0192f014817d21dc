"""Sets of small clips that a model without any training can tell apart, for what looks at them."""

from pathlib import Path

import numpy as np

from vivit_train.video.write import write_video

# Where the bright bar is: a mirror makes left of right.
SIDES = {
    "left": np.s_[:, :8],
    "right": np.s_[:, -8:],
    "top": np.s_[:8],
    "bottom": np.s_[-8:],
}


def draw(name: str, seed: int, num_frames: int = 8, edge: int = 24) -> np.ndarray:
    """A bar on one side, before a background of its own: uint8 [T, edge, edge, 3]."""
    rng = np.random.default_rng((seed, list(SIDES).index(name)))
    picture = np.kron(rng.integers(0, 120, (6, 6, 3)), np.ones((4, 4, 1)))
    picture[SIDES[name]] += 130
    picture = np.kron(picture, np.ones((edge // 24, edge // 24, 1)))
    return np.repeat(picture[None].astype(np.uint8), num_frames, axis=0)


def write_sides(root: Path, each: int = 10, val: int = 4) -> Path:
    """A folder with train/ and val/ of ``each`` and ``val`` clips per class."""
    for split, seeds in {"train": range(each), "val": range(100, 100 + val)}.items():
        for name in SIDES:
            (root / split / name).mkdir(parents=True)
            for seed in seeds:
                write_video(root / split / name / f"{seed}.mp4", draw(name, seed))
    return root
