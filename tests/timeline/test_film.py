import os
from pathlib import Path

import av
import numpy as np
import pytest

from vivit_train.timeline.film import label_film, labelled
from vivit_train.timeline.rows import Row
from vivit_train.video.decode import DecodeError, VideoReader


def test_a_label_lies_in_the_corner_and_leaves_the_rest() -> None:
    picture = np.full((240, 320, 3), 99, np.uint8)
    drawn = labelled(picture, "open door 88%")
    is_new = (drawn != 99).any(axis=2)
    assert (picture == 99).all()
    assert is_new[:30, :150].any()
    assert not is_new[40:].any()
    assert not is_new[:, 200:].any()
    assert drawn.max() == 255


@pytest.mark.parametrize("text", ["x" * 500, "\u05e9\u05dc\u05d5\u05dd \U0001f3c3 \n \x1b[2J", ""])
def test_any_text_fits_a_small_frame(text: str) -> None:
    assert labelled(np.zeros((12, 16, 3), np.uint8), text).shape == (12, 16, 3)


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "uneven.mp4"])
def test_labels_are_shown_when_their_rows_say(
    films: dict[str, Path], tmp_path: Path, name: str
) -> None:
    """Frames and their times are the film's; from 1 to 2 s there is no row."""
    rows, told = [Row(0, 1, "right", 0.9), Row(2, 4, "left", 0.9)], []
    label_film(str(films[name]), tmp_path / name, rows, told.append)
    with VideoReader(films[name]) as film, VideoReader(tmp_path / name) as copy:
        assert np.allclose(copy.shown_at[:-1], film.shown_at[:-1], atol=2e-3)
        numbers = range(film.num_frames)
        assert told == ["drawn"] * film.num_frames
        shown, before, after = film.shown_at[:-1], film.read(numbers), copy.read(numbers)
    change = np.abs(after[:, :10, :30].astype(int) - before[:, :10, :30]).mean(axis=(1, 2, 3))
    has_label = (shown < 1 - 1e-3) | (shown >= 2 - 1e-3)
    assert (change[has_label] > 10).all()
    assert (change[~has_label] < 5).all()


def test_a_film_that_breaks_off_leaves_no_copy(films: dict[str, Path], tmp_path: Path) -> None:
    content = bytearray(films["film.mkv"].read_bytes())
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    (tmp_path / "bad.mkv").write_bytes(content)
    with pytest.raises((DecodeError, av.error.FFmpegError)):
        label_film(str(tmp_path / "bad.mkv"), tmp_path / "out.mp4", [], lambda _: None)
    assert os.listdir(tmp_path) == ["bad.mkv"]
