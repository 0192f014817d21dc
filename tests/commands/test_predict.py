import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vivit_train import load
from vivit_train.__main__ import main
from vivit_train.commands.predict import parse_views
from vivit_train.errors import UserError
from vivit_train.video.write import write_video


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``a.mp4`` and ``b.webm``, videos; ``bad.mp4``, none."""
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for name, codec, size in (("a.mp4", "libx264", 40), ("b.webm", "libvpx-vp9", 60)):
        frames = rng.integers(0, 256, (12, 32, size, 3), dtype=np.uint8)
        write_video(folder / name, frames, codec=codec)
    (folder / "bad.mp4").write_bytes(b"this is no video")
    return folder


@pytest.fixture
def predict(finished_run: Path, capsys: pytest.CaptureFixture):
    """Runs the command; returns its exit code, output and errors."""

    def run(*words: object, checkpoint: object = finished_run) -> tuple[object, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["predict", str(checkpoint), *map(str, words)])
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return run


def expected(run: Path, video: Path, views: tuple[int, int] | None = None) -> list[tuple]:
    classifier = load(run / "checkpoints" / "best.ckpt")
    probabilities = classifier.classify(video, views).softmax(dim=0)
    order = torch.argsort(probabilities, descending=True).tolist()
    return [(classifier.class_names[i], float(probabilities[i])) for i in order]


def test_text(predict, finished_run: Path, videos: Path) -> None:
    code, out, err = predict(videos / "a.mp4", videos / "b.webm", "--device", "cpu")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 12
    for video, block in ((videos / "a.mp4", lines[:6]), (videos / "b.webm", lines[6:])):
        assert block[0] == str(video)
        for line, (name, probability) in zip(block[1:], expected(finished_run, video)):
            shown, shown_name = line.split(None, 1)
            assert shown_name == name
            assert float(shown) == pytest.approx(probability, abs=6e-5)


def test_json(predict, finished_run: Path, videos: Path) -> None:
    code, out, err = predict(videos / "a.mp4", "--json", "--top-k", 3)
    assert (code, err) == (0, "")
    (video,) = json.loads(out)
    assert video["video"] == str(videos / "a.mp4")
    best = expected(finished_run, videos / "a.mp4")[:3]
    assert [row["class"] for row in video["classes"]] == [name for name, _ in best]
    assert [row["probability"] for row in video["classes"]] == pytest.approx(
        [probability for _, probability in best], abs=1e-5
    )


def test_more_classes_than_there_are(predict, videos: Path) -> None:
    _, out, _ = predict(videos / "a.mp4", "--json", "--top-k", 99)
    classes = json.loads(out)[0]["classes"]
    assert len(classes) == 8
    assert sum(row["probability"] for row in classes) == pytest.approx(1, abs=1e-5)


def test_views(predict, finished_run: Path, videos: Path) -> None:
    video = videos / "b.webm"
    shown = {}
    for views in ((1, 1), (2, 3)):
        _, out, _ = predict(video, "--json", "--views", f"{views[0]}x{views[1]}", "--top-k", 8)
        shown[views] = [row["probability"] for row in json.loads(out)[0]["classes"]]
        by_hand = [probability for _, probability in expected(finished_run, video, views)]
        assert shown[views] == pytest.approx(by_hand, abs=1e-5)
    assert shown[1, 1] != shown[2, 3]


@pytest.mark.parametrize(
    "text", ["4", "4x", "x3", "4x3x1", "0x1", "-1x3", "fourx3", "2.5x1", "²x1"]
)
def test_views_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match=f"--views {text}: expected TEMPORALxSPATIAL, e.g. 4x3"):
        parse_views(text)


@pytest.mark.parametrize("text", ["4x2", "1x0", "1x4"])
def test_only_one_or_three_crops(predict, videos: Path, text: str) -> None:
    code, out, _ = predict(videos / "a.mp4", "--views", text)
    assert "must be 1 or 3" in str(code)
    assert str(code).startswith("error: ")
    assert out == ""


def test_a_video_that_cannot_be_decoded(predict, videos: Path) -> None:
    code, out, err = predict(videos / "bad.mp4", videos / "a.mp4", videos / "gone.mp4")
    assert code == 1
    assert out.splitlines()[0] == str(videos / "a.mp4")
    assert len(out.splitlines()) == 6
    first, second = err.splitlines()
    assert first.startswith(f"error: {videos / 'bad.mp4'}: Invalid data found")
    assert second == f"error: {videos / 'gone.mp4'}: no such file"


def test_a_video_that_cannot_be_decoded_in_json(predict, videos: Path) -> None:
    code, out, err = predict("--json", videos / "bad.mp4", videos / "a.mp4")
    assert (code, err) == (1, "")
    bad, good = json.loads(out)
    assert bad["error"].startswith("Invalid data found")
    assert "classes" not in bad
    assert len(good["classes"]) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--top-k", 0], "error: --top-k must be 1 or more, got 0"),
        (["--device", "nonsense"], "error: --device nonsense: "),
        (["--views", "many"], "error: --views many: expected"),
    ],
)
def test_mistakes(predict, videos: Path, words: list, message: str) -> None:
    code, out, _ = predict(videos / "a.mp4", *words)
    assert str(code).startswith(message)
    assert out == ""


def test_no_such_checkpoint(predict, videos: Path, tmp_path: Path) -> None:
    code, *_ = predict(videos / "a.mp4", checkpoint=tmp_path / "nowhere.ckpt")
    assert str(code).startswith(f"error: {tmp_path / 'nowhere.ckpt'} does not exist: give a check")


def test_a_run_without_a_checkpoint(predict, videos: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    code, *_ = predict(videos / "a.mp4", checkpoint=tmp_path)
    assert str(code).startswith(f"error: the run {tmp_path} has no checkpoint yet")
