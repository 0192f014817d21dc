import csv
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from vivit_train import commands, load
from vivit_train.__main__ import main
from vivit_train.classifier import Classifier
from vivit_train.commands.predict import parse_views, row_of
from vivit_train.errors import UserError
from vivit_train.prediction import Prediction
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


def test_videos_of_another_rate_are_named(predict, videos: Path, tmp_path: Path) -> None:
    """The demo has 24 to 30 frames per second; its clips are taken by a stride."""
    for fps in (25, 75):
        frames = np.zeros((12, 32, 32, 3), np.uint8)
        write_video(tmp_path / f"{fps}.mp4", frames, fps=fps)
    code, _, err = predict(tmp_path, "--device", "cpu")
    assert code == 0
    assert err.startswith("warning: 1 of 2 videos have another frame rate than the training videos")
    assert f"{tmp_path / '75.mp4'}. With data.frame_stride=1 their motion looks faster" in err
    assert err.rstrip().endswith("in training")


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


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_folders_into_a_table(predict, finished_run: Path, videos: Path, tmp_path: Path) -> None:
    table = tmp_path / "new" / "out.csv"
    (tmp_path / "=2.mp4").write_bytes((videos / "a.mp4").read_bytes())
    code, out, err = predict(videos, tmp_path / "=2.mp4", "--csv", table, "--top-k", 2)
    assert code == 1
    assert out == f"4 of 4 videos: {table}\n"
    (error,) = err.splitlines()
    assert error.startswith(f"error: {videos / 'bad.mp4'}: Invalid data found")
    rows = read_csv(table)
    assert list(rows[0]) == ["video", "class", "probability", "class_2", "probability_2", "error"]
    names = ("a.mp4", "b.webm", "bad.mp4")
    assert [row["video"] for row in rows] == [
        *(str(videos / n) for n in names),
        str(tmp_path / "=2.mp4"),
    ]
    for row in rows[:2]:
        (first, p), (second, q) = expected(finished_run, Path(row["video"]))[:2]
        assert (row["class"], row["class_2"], row["error"]) == (first, second, "")
        assert float(row["probability"]) == pytest.approx(p, abs=1e-5)
        assert float(row["probability_2"]) == pytest.approx(q, abs=1e-5)
    assert rows[2]["class"] == rows[2]["probability_2"] == ""
    assert error == f"error: {rows[2]['video']}: {rows[2]['error']}"
    assert os.listdir(table.parent) == ["out.csv"]


def test_names_that_a_spreadsheet_would_take_for_a_formula(
    predict, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "=1+1.mp4").write_bytes((videos / "a.mp4").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert predict("=1+1.mp4", "--csv", "out.csv")[0] == 0
    assert read_csv(tmp_path / "out.csv")[0]["video"] == "'=1+1.mp4"


def test_table_and_json(predict, videos: Path, tmp_path: Path) -> None:
    code, out, err = predict(videos / "a.mp4", "--csv", tmp_path / "out.csv", "--json")
    assert (code, err) == (0, f"1 of 1 videos: {tmp_path / 'out.csv'}\n")
    (video,), (row,) = json.loads(out), read_csv(tmp_path / "out.csv")
    assert [video["video"], video["classes"][0]["class"]] == [row["video"], row["class"]]


@pytest.mark.parametrize("name", ["out.txt", "out", "folder.csv", "a.mp4"])
def test_a_table_that_is_none(predict, videos: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    code, *_ = predict(videos, "--csv", tmp_path / name, checkpoint=tmp_path / "nowhere.ckpt")
    assert code == f"error: --csv {tmp_path / name}: expected a file whose name ends in .csv"


def test_a_place_that_cannot_be_written_is_found_before_the_work(
    predict, videos: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "out.csv"
    code, *_ = predict(videos, "--csv", place, checkpoint=tmp_path / "nowhere.ckpt")
    assert code == f"error: --csv {place} cannot be written: Not a directory"


def test_a_disk_that_is_full_in_the_end(
    predict, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then what was worked out is printed."""

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(commands.predict, "write_whole", full)
    code, out, err = predict(videos / "a.mp4", "--csv", tmp_path / "out.csv")
    assert code == 74
    assert out.splitlines()[0] == str(videos / "a.mp4")
    assert len(out.splitlines()) == 6
    assert "out.csv could not be written: No space left" in err


def test_what_is_known_when_it_is_stopped_is_kept(
    predict, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(self, found, *_):
        yield Prediction(found[0], [("jump", 0.75)])
        raise KeyboardInterrupt

    monkeypatch.setattr(Classifier, "predictions", stopped)
    code, out, err = predict(videos, "--csv", tmp_path / "out.csv")
    assert (code, err) == (130, "interrupted\n")
    assert out == f"1 of 3 videos: {tmp_path / 'out.csv'}\n"
    (row,) = read_csv(tmp_path / "out.csv")
    assert row == {
        "video": str(videos / "a.mp4"), "class": "jump", "probability": "0.75", "error": ""
    }  # fmt: skip


def test_columns_of_several_heads() -> None:
    heads = {"nouns": [("tap", 0.75)], "verbs": [("open", 0.8)]}
    row = row_of(Prediction("a.mp4", [("tap, open", 0.6)], heads))
    assert row == {
        "video": "a.mp4", "action": "tap, open", "probability": 0.6,
        "noun": "tap", "noun_probability": 0.75, "verb": "open", "verb_probability": 0.8,
        "error": None,
    }  # fmt: skip


def test_a_folder_without_videos(predict, tmp_path: Path) -> None:
    """Said before a checkpoint is read, which may take long."""
    code, *_ = predict(tmp_path, checkpoint=tmp_path / "nowhere.ckpt")
    assert str(code).startswith(f"error: {tmp_path} holds no video (.3gp, .avi")


def test_what_is_left_out_of_a_folder(predict, videos: Path, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes((videos / "a.mp4").read_bytes())
    (tmp_path / "notes.txt").touch()
    told = f"1 files without the suffix of a video ({tmp_path / 'notes.txt'})"
    with pytest.warns(UserWarning, match=re.escape(f"left out under {tmp_path}: {told}")):
        code, out, _ = predict(tmp_path)
    assert code == 0
    assert out.splitlines()[0] == str(tmp_path / "a.mp4")


def test_folders_with_the_names_of_classes(predict, videos: Path, tmp_path: Path) -> None:
    """No score is made up: another command has one."""
    for name in ("moving_left", "moving_right"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.mp4").write_bytes((videos / "a.mp4").read_bytes())
    _, _, err = predict(tmp_path)
    assert "the folders have the names of classes: `vivit evaluate " in err
    _, _, err = predict(tmp_path / "moving_left")
    assert err == ""
