"""A test in pictures for TensorBoard and Weights & Biases: confusions and the worst videos."""

import base64
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lightning.pytorch.loggers import Logger
from PIL import Image, ImageDraw, ImageFont

from vivit_train.data.records import Records
from vivit_train.errors import UserError
from vivit_train.io.terminal import printable, say
from vivit_train.report.confusion import counts_of, grouped_order
from vivit_train.report.content import Content
from vivit_train.report.page import FEW_CLASSES, most_certain_and_wrong
from vivit_train.report.strips import HEIGHT_PX, strips_of
from vivit_train.runs.pictures import log_picture, takes_pictures

FONT_PX, CELL_PX, NAME_PX = 13, 28, 170
MOST_SIDE_PX = 1200  # of the matrix of many classes
TEXT_PX = 3 * (FONT_PX + 4)  # of a worst video's lines


def log_test(folder: Path, records: Records | None, loggers: Sequence[Logger], step: int) -> None:
    """Gives the pictures of a test to the loggers; where that fails it is said.

    Args:
        folder: Of the run, with its tables.
        records: Of the test split; ``None``: there was no test.
        loggers: Of the run.
        step: Of the training.
    """
    if records is None or not takes_pictures(loggers):
        return
    try:
        content = Content.read(folder)
        if len(content.pairs):
            matrix = confusion_picture(content.pairs, content.class_names)
            log_picture(loggers, "pictures/confusion", matrix, step)
        if (worst := worst_picture(content, records)) is not None:
            log_picture(loggers, "pictures/worst_videos", worst, step)
    except (UserError, OSError) as error:
        say(f"warning: no pictures were logged: {error}", file=sys.stderr)


def confusion_picture(pairs: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """The confusion matrix: a row for each true class, darker where more of its videos went.

    Of many classes those that are taken for each other stand side by side, without names.

    Args:
        pairs: int ``[videos, 2]``: true and predicted class; -1: none was predicted.
        class_names: K names.

    Returns:
        uint8 ``[H, W, 3]``.
    """
    number = len(class_names)
    counts = np.zeros((number, number), int)
    for (true, guess), videos in counts_of(pairs).items():
        counts[true, guess] = videos
    shares = counts / np.bincount(pairs[:, 0], minlength=number).clip(min=1)[:, None]
    if number > FEW_CLASSES:
        order = grouped_order(pairs, number)
        return _shaded(shares[np.ix_(order, order)], max(1, MOST_SIDE_PX // number))
    return _named(shares, counts, class_names)


def _shaded(shares: np.ndarray, cell_px: int) -> np.ndarray:
    """White to dark blue: ``[K, K]`` -> uint8 ``[K * cell, K * cell, 3]``."""
    dark = np.array([20, 60, 140])
    colours = 255 - shares[..., None] ** 0.5 * (255 - dark)
    return colours.round().astype(np.uint8).repeat(cell_px, 0).repeat(cell_px, 1)


def _named(shares: np.ndarray, counts: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """The matrix with the names of its classes and the number of videos."""
    side = len(class_names) * CELL_PX
    image = Image.new("RGB", (NAME_PX + side, FONT_PX + 10 + side), "white")
    image.paste(Image.fromarray(_shaded(shares, CELL_PX)), (NAME_PX, FONT_PX + 10))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(FONT_PX)
    draw.text((4, 4), "true, by column: predicted, same order", "black", font)
    for row, name in enumerate(class_names):
        y = FONT_PX + 10 + row * CELL_PX + CELL_PX // 2
        draw.text((NAME_PX - 6, y), printable(name)[:24], "black", font, anchor="rm")
        for column in np.flatnonzero(counts[row]).tolist():
            ink = "white" if shares[row, column] > 0.3 else "black"
            x = NAME_PX + column * CELL_PX + CELL_PX // 2
            draw.text((x, y), str(counts[row, column]), ink, font, anchor="mm")
    return np.asarray(image)


def worst_picture(content: Content, records: Records) -> np.ndarray | None:
    """Film strips of the videos that are wrong and most certain, with their classes.

    Returns:
        uint8 ``[H, W, 3]``; ``None`` where there is none.
    """
    rows = most_certain_and_wrong(content)
    strips = strips_of(records, [row["video"] for row in rows])
    shown = [row for row in rows if row["video"] in strips]
    if not shown:
        return None
    pictures = [_picture(strips[row["video"]]) for row in shown]
    height = HEIGHT_PX + TEXT_PX
    image = Image.new("RGB", (max(p.width for p in pictures), height * len(shown)), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(FONT_PX)
    for place, (row, picture) in enumerate(zip(shown, pictures)):
        lines = (row["video"], f"is {row['class']}", f"taken for {row['predicted']}")
        text = "\n".join(printable(line)[:120] for line in lines)
        draw.multiline_text((4, place * height), text, "black", font)
        image.paste(picture, (0, place * height + TEXT_PX))
    return np.asarray(image)


def _picture(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
