"""What predictions hold, and what is taken for a video."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vivit_train.errors import UserError
from vivit_train.prediction import Prediction, are_several, prediction_of, videos_in

NAMES = ["noun: tap", "noun: cup", "noun: pan", "verb: open", "verb: close"]


class TestPrediction:
    def test_the_best_classes(self) -> None:
        logits = torch.tensor([0.5, 0.2, 0.3]).log()
        prediction = prediction_of("a.mp4", logits, ["x", "y", "z"], {}, 2)
        assert prediction.classes == [("x", pytest.approx(0.5)), ("z", pytest.approx(0.3))]
        assert (prediction.name, prediction.probability) == ("x", pytest.approx(0.5))
        assert (prediction.video, prediction.heads, prediction.error) == ("a.mp4", {}, None)
        for top_k in (None, 9):
            assert len(prediction_of(None, logits, ["x", "y", "z"], {}, top_k).classes) == 3

    def test_several_heads(self) -> None:
        nouns, verbs = torch.tensor([0.5, 0.2, 0.3]), torch.tensor([0.1, 0.9])
        logits = torch.cat([nouns.log() + 3, verbs.log() - 1])  # softmax is of each head by itself
        prediction = prediction_of(None, logits, NAMES, {"noun": 3, "verb": 2}, 2)
        assert prediction.classes == [
            ("noun: tap, verb: close", pytest.approx(0.45)),
            ("noun: pan, verb: close", pytest.approx(0.27)),
        ]
        assert prediction.heads == {
            "nouns": [("noun: tap", pytest.approx(0.5)), ("noun: pan", pytest.approx(0.3))],
            "verbs": [("verb: close", pytest.approx(0.9)), ("verb: open", pytest.approx(0.1))],
        }

    def test_an_error_has_no_name(self) -> None:
        prediction = Prediction("bad.mp4", error="no such file")
        assert prediction.classes == []
        for attribute in ("name", "probability"):
            with pytest.raises(UserError, match=r"bad\.mp4: no such file"):
                getattr(prediction, attribute)


class TestVideos:
    def test_everything_that_is_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "clips").mkdir()
        for name in ("b.mp4", "a.webm"):
            (tmp_path / "clips" / name).touch()
        clips = [str(tmp_path / "clips" / name) for name in ("a.webm", "b.mp4")]
        assert videos_in("x.mp4") == videos_in(Path("x.mp4")) == ["x.mp4"]
        assert videos_in("~/clips") == clips
        frames = np.arange(2 * 5 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 5, 4, 6, 3)
        (one,) = videos_in(frames[0])
        assert torch.equal(one, torch.from_numpy(frames[0]))
        two = videos_in(torch.from_numpy(frames))
        assert [torch.equal(video, torch.from_numpy(f)) for video, f in zip(two, frames)] == [
            True,
            True,
        ]
        mixed = videos_in(["x.mp4", frames, tmp_path / "clips", (frames[0],)])
        assert [mixed[0], *mixed[3:5]] == ["x.mp4", *clips]
        assert [video.shape for video in (*mixed[1:3], mixed[5])] == [(5, 4, 6, 3)] * 3
        several = [are_several(s) for s in (tmp_path, [], ["x.mp4"], frames)]
        assert several == [True] * 4
        assert [are_several(s) for s in ("x.mp4", Path("x.mp4"), frames[0])] == [False] * 3

    def test_a_folder_of_pictures_is_one(self, tmp_path: Path) -> None:
        (tmp_path / "video").mkdir()
        (tmp_path / "video/img_00001.jpg").touch()
        assert not are_several(tmp_path / "video")
        assert videos_in(tmp_path / "video") == [str(tmp_path / "video")]
        assert videos_in(tmp_path) == [str(tmp_path / "video")]

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            (None, "path of a file or a folder, or a tensor or an array .*, not NoneType"),
            ({"x.mp4": 1}, "not dict"),
            (["x.mp4", 3], "not int"),
            (np.zeros((5, 4, 6, 3)), "pixels must be uint8"),
            (np.zeros((4, 6, 3), np.uint8), r"must be \[T, H, W, 3\], not \[4, 6, 3\]"),
            (np.zeros((5, 3, 4, 6), np.uint8), "three RGB channels last"),
            (torch.zeros(2, 0, 4, 6, 3, dtype=torch.uint8), "at least one pixel"),
        ],
    )
    def test_what_is_none(self, source: Any, message: str) -> None:
        with pytest.raises(UserError, match=message):
            videos_in(source)
