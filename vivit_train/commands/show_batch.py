"""Write a picture of what the model sees: one training batch, augmented and labelled.

  vivit show-batch --output seen
  vivit show-batch data=ssv2 data.root=/data/ssv2 augment.rand_augment_layers=2 --output seen
  vivit show-batch experiment=vivit_l_fe_k400 data.root=/data/k400 --clips 4 --output seen

KEY=VALUE and their defaults are those of train.py. It is the first batch that training with them
would see on one device, from the same loader and the same transforms; only the scaling of pixels is
undone. Writes batch.png (a row for each clip), batch.mp4 and batch.txt.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vivit_train.errors import UserError
from vivit_train.io.files import user_path
from vivit_train.io.terminal import say

if TYPE_CHECKING:
    import numpy as np

SOURCE_FPS = 30  # of videos without a frame rate

# Keys that this command uses; see `is_used`.
USES = (
    "experiment", "data", "-data.eval_views", "-data.val_views", "-data.test_split",
    "-data.max_bad_fraction", "processor", "augment", "model.pretrained", "model.num_frames",
    "model.image_size", "seed", "trainer.accelerator", "trainer.precision",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for train.py")
    parser.add_argument("--output", type=user_path, required=True, help="folder to write to")
    parser.add_argument(
        "--clips", type=int, default=8, metavar="N", help="clips of the batch, at most (default 8)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Writes the pictures, and prints the path and the classes of each clip."""
    from vivit_train.config import compose_config, to_plain

    if arguments.clips < 1:
        raise UserError(f"--clips must be 1 or more, got {arguments.clips}")
    if arguments.output.exists() and not arguments.output.is_dir():
        raise UserError(f"--output {arguments.output} is a file; give a folder")
    plain = to_plain(compose_config(arguments.overrides), needs_weights=False)

    from vivit_train import build
    from vivit_train.data.rates import clip_in_words
    from vivit_train.io.quiet import hush_lightning
    from vivit_train.preflight.span import fit_sampling
    from vivit_train.runs.pictures import describe_labels, to_pixels

    hush_lightning()
    plain, data = build.open_data(plain, "fit")
    plain = fit_sampling(plain, data)
    batch = build.first_batch(data, plain["trainer"])
    rows = range(min(arguments.clips, len(batch.seeds)))
    labels = [describe_labels(batch, row, data) for row in rows]
    paths = [data.records["train"].name(int(batch.indices[row])) for row in rows]

    arguments.output.mkdir(parents=True, exist_ok=True)
    pixels = to_pixels(batch.clips[: len(rows)], data.processor)
    seconds = data.sampling.seconds(data.video_rate or SOURCE_FPS)
    fps = pixels.shape[1] / seconds if seconds else SOURCE_FPS / 2
    write_pictures(arguments.output, pixels, labels, fps)
    lines = [f"{path}  {', '.join(label)}" for path, label in zip(paths, labels)]
    with open(arguments.output / "batch.txt", "w", encoding="utf-8") as file:
        for row, line in enumerate(lines):
            say(f"{row + 1}  {line}  seed {batch.seeds[row]}", file=file)
            say(line)
    say(f"a clip is {clip_in_words(data.sampling, data.video_rate)}")
    for name in ("batch.png", "batch.mp4", "batch.txt"):
        say(arguments.output / name)
    return 0


def write_pictures(folder: Path, clips: "np.ndarray", labels: list[list[str]], fps: float) -> None:
    """Writes batch.png and batch.mp4.

    Args:
        folder: Where to; must exist.
        clips: uint8 ``[B, T, h, w, 3]``.
        labels: The lines to write beside each clip.
        fps: Frames of the clips per second: the video's pace.
    """
    import numpy as np
    from PIL import Image

    from vivit_train.runs.pictures import panel, picture_of
    from vivit_train.video.write import write_video

    Image.fromarray(picture_of(clips, labels)).save(folder / "batch.png")

    panels = np.stack([panel(lines, clips.shape[2]) for lines in labels])  # [B, h, width, 3]
    num_frames = clips.shape[1]
    beside = np.broadcast_to(panels[:, None], (len(panels), num_frames, *panels.shape[1:]))
    tiles = np.concatenate([clips, beside], axis=3)  # [B, T, h, w + width, 3]
    frames = grid(tiles, columns=max(1, round((len(tiles) / 2) ** 0.5)))
    # The codec halves the resolution of colour: it takes no odd number of pixels.
    frames = np.pad(frames, [(0, 0), *((0, n % 2) for n in frames.shape[1:3]), (0, 0)])
    write_video(folder / "batch.mp4", frames, fps=max(1, round(fps)))


def grid(tiles: "np.ndarray", columns: int) -> "np.ndarray":
    """Clips ``[B, T, h, w, 3]`` side by side, row after row: ``[T, rows * h, columns * w, 3]``."""
    import numpy as np

    count, num_frames, height, width, _ = tiles.shape
    rows = -(-count // columns)
    black = np.zeros((rows * columns - count, *tiles.shape[1:]), tiles.dtype)
    placed = np.concatenate([tiles, black]).reshape(rows, columns, *tiles.shape[1:])
    return placed.transpose(2, 0, 3, 1, 4, 5).reshape(num_frames, rows * height, columns * width, 3)
