import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from tests.conftest import REPOSITORY
from tests.explain.test_rollout import build
from vivit_train.__main__ import main
from vivit_train.classifier import Classifier
from vivit_train.commands.explain import index_of, look_at, middle_clip
from vivit_train.errors import UserError
from vivit_train.model.arguments import ATTENTIONS
from vivit_train.transforms.processor import Processor
from vivit_train.video.decode import DecoderLost, VideoReader
from vivit_train.video.guard import CAN_GUARD
from vivit_train.video.sampling import Sampling
from vivit_train.video.write import write_video

CLIPS = REPOSITORY.parent / "shared" / "clips"
REAL = ("arm_wrestling.mp4", "eye_makeup.avi", "flipping_pancake.mkv", "rotated_90.mov")
OTHERS = (
    *("av1.mkv", "bt2020_10bit.mp4", "hevc.mp4", "laughing.mp4", "training_dog.mp4"),
    *("two_streams.mp4", "vp9.webm"),
)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "a clip.mp4"
    frames = np.random.default_rng(0).integers(0, 256, (12, 32, 40, 3), dtype=np.uint8)
    write_video(path, frames, fps=10)
    return path


@pytest.fixture
def explain(finished_run: Path, capsys: pytest.CaptureFixture):
    """Runs the command; returns its exit code, output and errors."""

    def run(*words: object, verb: str = "explain") -> tuple[object, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([verb, str(finished_run), *map(str, words)])
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return run


def test_pictures(explain, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = explain(video)
    assert (code, err) == (0, "")
    folder = Path("explain_a clip")
    told, png, mp4 = out.splitlines()
    assert (png, mp4) == (str(folder / "heat.png"), str(folder / "heat.mp4"))
    _, predicted, _ = explain(video, "--views", "1x1", "--json", verb="predict")
    best = json.loads(predicted)[0]["classes"][0]
    assert told == f"  {best['probability']:.4f}  {best['class']}"
    with VideoReader(folder / "heat.mp4") as reader:
        assert reader.read([0]).shape[1:] == (32, 40, 3)
        assert reader.num_frames == 4
    assert Image.open(folder / "heat.png").size[0] == 4 * 182
    # Once more, into the same folder, for a class.
    code, out, _ = explain(video, "--class", "moving_up")
    assert (code, out.split()[1]) == (0, "moving_up")
    _, predicted, _ = explain(video, "--views", "1x1", "--json", "--top-k", 8, verb="predict")
    known = {row["class"]: row["probability"] for row in json.loads(predicted)[0]["classes"]}
    assert float(out.split()[0]) == pytest.approx(known["moving_up"], abs=6e-5)


def test_mistakes(explain, video: Path, tmp_path: Path) -> None:
    code, *_ = explain(video, "--class", "moving_upp\n", "--output", tmp_path / "x")
    assert str(code).startswith(r"error: --class moving_upp\n: the model has 8 classes and none")
    assert "near are moving_up, " in str(code)
    assert not (tmp_path / "x").exists()
    (tmp_path / "mine.txt").touch()
    code, *_ = explain(video, "--output", tmp_path)
    assert str(code).startswith(f"error: {tmp_path} holds something else (mine.txt): name an")
    code, *_ = explain(video, "--output", tmp_path / "mine.txt")
    assert str(code) == f"error: --output {tmp_path / 'mine.txt'} is a file; give a folder"
    code, *_ = explain(tmp_path / "gone.mp4", "--output", tmp_path / "x")
    assert "gone.mp4: no such file" in str(code)


def test_the_nearest_class_or_some() -> None:
    assert index_of("b", ["a", "b"]) == 1
    with pytest.raises(UserError, match="near are a, b$"):
        index_of("xyz", ["a", "b"])


def classifier_of(attention: str, **told) -> Classifier:
    names = ["noun: a", "verb: b", "verb: c"]
    processor = Processor(size=16, crop_size=(12, 16))
    return Classifier(build(attention=attention), processor, names, **told).eval()


def test_a_class_of_one_of_several_heads(video: Path) -> None:
    classifier = classifier_of("spatio_temporal", heads={"noun": 1, "verb": 2})
    shares = [look_at(classifier, video, name).probability for name in classifier.class_names]
    assert shares[0] == 1
    assert shares[1] + shares[2] == pytest.approx(1)
    assert look_at(classifier, video).name in ("noun: a, verb: b", "noun: a, verb: c")


def test_logits_that_say_nothing(video: Path) -> None:
    classifier = classifier_of("spatio_temporal")
    nn.init.constant_(classifier.model.head.bias, float("nan"))
    with pytest.raises(UserError, match="the logits are NaN or infinite"):
        look_at(classifier, video)


@pytest.mark.skipif(not CLIPS.is_dir(), reason="needs the real clips beside the checkout")
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("name", REAL)
def test_real_clips(attention: str, name: str) -> None:
    classifier = classifier_of(attention, sampling=Sampling(4, frame_stride=2))
    for class_name in (None, "verb: b"):
        looked = look_at(classifier, CLIPS / name, class_name)
        assert looked.heat.shape == looked.frames.shape[:3]
        seen = np.isfinite(looked.heat)
        assert 0.3 < seen.mean() <= 1
        assert looked.heat[seen].mean() == pytest.approx(looked.even, rel=0.3)


@pytest.mark.skipif(not CLIPS.is_dir(), reason="needs the real clips beside the checkout")
@pytest.mark.parametrize(("name", "attention"), [*zip(OTHERS, 2 * ATTENTIONS)])
def test_clips_of_every_codec(name: str, attention: str) -> None:
    """One kind of model each: the kinds do not differ in how a clip is read."""
    classifier = classifier_of(attention, sampling=Sampling(4, frame_stride=2))
    looked = look_at(classifier, CLIPS / name)
    assert looked.heat.shape == looked.frames.shape[:3]
    seen = np.isfinite(looked.heat)
    assert looked.heat[seen].mean() == pytest.approx(looked.even, rel=0.3)


@pytest.mark.skipif(not CLIPS.is_dir(), reason="needs the real clips beside the checkout")
def test_no_real_clip_is_left_out() -> None:
    there = {path.name for path in CLIPS.glob("*.*")} - {"README.md"}
    assert there <= {*REAL, *OTHERS}


@pytest.mark.skipif(not CAN_GUARD, reason="this system cannot end a call that hangs")
def test_a_decoder_that_dies_takes_one_line(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VideoReader, "read", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    sampling, processor = Sampling(4), Processor(size=16, crop_size=16)
    with pytest.raises(DecoderLost, match="SIGKILL, memory used up"):
        middle_clip(video, sampling, processor)
