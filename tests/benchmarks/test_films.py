from itertools import pairwise
from pathlib import Path

import films
import numpy as np
import pytest

from vivit_train.video.decode import VideoReader


def test_a_film_is_motions_and_still_pictures() -> None:
    frames, motions = films.content(seed=1)
    assert len(frames) == len(motions)
    still = [bool((a == b).all()) for a, b in pairwise(frames)]
    assert [motion == "" for motion in motions[1:]] == still
    runs = [name for name, before in zip(motions[1:], motions) if name and not before]
    assert len(runs) + bool(motions[0]) == films.CLIPS


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Films of two clips."""
    monkeypatch.setattr(films, "CLIPS", 2)


@pytest.mark.usefixtures("short")
def test_the_formats_show_the_same(tmp_path: Path) -> None:
    frames, _ = films.content(seed=1)
    shown = []
    for path in films.write_films(tmp_path, 1, frames).values():
        with VideoReader(str(path)) as video:
            assert float(video.shown_at[-1]) == pytest.approx(len(frames) / films.FPS, abs=0.05)
            moments = (np.arange(len(frames)) + 0.5) / films.FPS
            places = np.searchsorted(video.shown_at[:-1], moments, side="right") - 1
            _, places = np.unique(places, return_inverse=True)
            read = np.stack([frame for _, frame in video.stream(np.arange(places.max() + 1))])
            shown.append(read[places].astype(int))
    assert len(shown) == 3
    for film in shown:
        assert np.abs(film - frames).mean() < 6  # what the codec changes


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(("late", "right"), [(0.0, 1.0), (0.32, 0.75)])
def test_what_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late, right) -> None:
    """With a timeline that is right but for what it says too late, a quarter of each motion."""
    _, motions = films.content(seed=1)
    rows = [
        {"start": str(i / films.FPS + late), "end": str((i + 1) / films.FPS + late), "class": name}
        for i, name in enumerate(motions)
    ]
    monkeypatch.setattr(films, "timeline", lambda *_: (rows, 0.0, 0, 0))
    row = films.accuracy("RUN", tmp_path, seed=1, every=0.1)
    assert row["agree"] == 1
    assert [shares["motion"] for shares in row["right"].values()] == pytest.approx([right] * 3)
    pauses = motions.count("")
    in_pauses = 1 - 16 * bool(late) / pauses  # 8 frames of each motion are named after it
    in_all = (right * 64 + in_pauses * pauses) / (64 + pauses)
    for shares in row["right"].values():
        assert shares == pytest.approx({"all": in_all, "motion": right, "pauses": in_pauses})


def test_a_long_film_is_as_long_as_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(films, "FPS", 2)
    with VideoReader(str(films.long_film(tmp_path, 3))) as video:
        assert len(video.shown_at) - 1 == 3 * 60 * 2
        assert float(video.shown_at[-1]) == pytest.approx(180)
