import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from vivit_train import load
from vivit_train.__main__ import main
from vivit_train.commands import export as verb
from vivit_train.commands.export import parse_arguments
from vivit_train.errors import UserError
from vivit_train.export import FORMATS
from vivit_train.video.decode import VideoReader
from vivit_train.video.write import write_video


@pytest.fixture
def export(finished_run: Path, capfd: pytest.CaptureFixture):
    """Runs the command; returns its exit code, output and errors."""

    def run(*words: object, checkpoint: object = finished_run) -> tuple[object, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["export", str(checkpoint), *map(str, words)])
        out, err = capfd.readouterr()
        return end.value.code, out, err

    return run


FILES = {
    "huggingface": ["config.json", "model.safetensors", "preprocessor_config.json"],
    "safetensors": ["model.safetensors", "vivit_train.json"],
    "lora": [],  # of runs with LoRA: tests/export/test_lora.py
    "torch-export": ["model.pt2", "vivit_train.json"],
    "onnx": ["model.onnx", "vivit_train.json"],
}


def test_formats_are_those_that_there_are() -> None:
    assert tuple(FORMATS) == verb.FORMATS == tuple(FILES)


@pytest.mark.parametrize("form", [form for form, files in FILES.items() if files])
def test_a_run(export, tmp_path: Path, form: str) -> None:
    output = tmp_path / "new" / "exported"
    code, out, err = export("--format", form, "--output", output)
    assert (code, err) == (0, "")
    check_report(out, output, form)


def test_as_a_user(command: Callable, finished_run: Path, tmp_path: Path) -> None:
    """In a process of its own: the exporter to ONNX is the most talkative."""
    words = ("--format", "onnx", "--output", str(tmp_path / "new" / "exported"))
    done: subprocess.CompletedProcess = command(
        "-m", "vivit_train", "export", str(finished_run), *words
    )
    assert (done.returncode, done.stderr) == (0, "")
    check_report(done.stdout, tmp_path / "new" / "exported", "onnx")


def check_report(printed: str, output: Path, form: str) -> None:
    first, told, *files = printed.splitlines()
    assert told.startswith("clips of 4 frames, 1 frames of the video apart: other programs must")
    assert f"{verb.WHERE[form]})" in told
    reader = {"huggingface": "transformers", "onnx": "onnxruntime", "torch-export": "torch"}
    assert first.startswith(f"loaded back with {reader.get(form, 'vivit-train')}")
    difference, allowed = first.split("logits ")[1].split(", allowed ")
    assert float(difference) < float(allowed) == FORMATS[form].tolerance
    assert [line.split(" MB  ")[1] for line in files] == [str(output / n) for n in FILES[form]]
    for line in files:
        size, path = line.split(" MB  ")
        assert float(size) == pytest.approx(Path(path).stat().st_size / 1e6, abs=6e-4)
    assert list(output.parent.iterdir()) == [output]


def test_the_export_of_an_export(export, finished_run: Path, tmp_path: Path) -> None:
    assert export("--format", "safetensors", "--output", tmp_path / "a")[0] == 0
    words = ("--format", "huggingface", "--output", tmp_path / "b")
    assert export(*words, checkpoint=tmp_path / "a")[0] == 0
    assert export(*words[:3], tmp_path / "c")[0] == 0
    files = [(tmp_path / x / "model.safetensors").read_bytes() for x in "bc"]
    assert files[0] == files[1]


def test_arguments_of_the_model(export, finished_run: Path, tmp_path: Path) -> None:
    words = ("image_size=[24,32]", "num_frames=8", "--format", "safetensors")
    assert export(*words, "--output", tmp_path / "x")[0] == 0
    ours, expected = load(tmp_path / "x"), load(finished_run / "checkpoints/best.ckpt",
                                                image_size=[24, 32], num_frames=8)  # fmt: skip
    assert ours.model.config == expected.model.config
    assert ours.sampling.clip_frames == 8
    frames = torch.randint(0, 256, (8, 40, 50, 3), dtype=torch.uint8)
    assert torch.equal(ours(frames), expected(frames))


def test_video(export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (30, 32, 48, 3), dtype=np.uint8)
    write_video(tmp_path / "a.mp4", frames)
    asked: list[np.ndarray] = []
    read = VideoReader.read
    monkeypatch.setattr(VideoReader, "read", lambda s, i: asked.append(i) or read(s, i))
    words = ("--format", "safetensors", "--output", tmp_path / "x")
    assert export(*words, "--video", tmp_path / "a.mp4")[0] == 0
    assert len(asked[0]) == 8  # two clips of four frames
    shutil.rmtree(tmp_path / "x")
    code, out, _ = export(*words, "--video", tmp_path / "none.mp4")
    assert code == f"error: --video {tmp_path / 'none.mp4'}: no such file"
    assert out == ""
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["image_size"], "'image_size': expected NAME=VALUE, an argument of ViViT, e.g. num_fr"),
        (["=3"], "'=3': expected NAME=VALUE"),
        (["model.num_frames=3"], "'model.num_frames=3': expected NAME=VALUE"),
        (["image_size=[224,320"], r"'image_size=\[224,320': its value cannot be read; write it as"),
    ],
)
def test_words_that_are_no_arguments(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        parse_arguments(words)


def test_words_that_are_arguments() -> None:
    words = ["image_size=[224,320]", "num_frames=16", "layer_norm_eps=1e-6", "activation=gelu",
             "qkv_bias=false", "representation_size=null"]  # fmt: skip
    assert parse_arguments(words) == {
        "image_size": [224, 320], "num_frames": 16, "layer_norm_eps": 1e-6, "activation": "gelu",
        "qkv_bias": False, "representation_size": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("word", "message"),
    [("flux=3", "takes arguments of ViViT, and flux is not one"),
     ("num_frames", "expected NAME=VAL"),
     ("num_frames=many", "model.num_frames='many' is not a whole number")],
)  # fmt: skip
def test_mistakes(export, tmp_path: Path, word: str, message: str) -> None:
    code, out, _ = export(word, "--format", "safetensors", "--output", tmp_path / "x")
    assert str(code).startswith("error: ")
    assert message in str(code)
    assert (out, list(tmp_path.iterdir())) == ("", [])


def test_a_taken_folder_is_told_before_the_checkpoint_is_read(export, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = ("--format", "onnx", "--output", tmp_path)
    code, *_ = export(*words, checkpoint=tmp_path / "none.ckpt")
    assert str(code).startswith(f"error: --output {tmp_path} exists already and is never")


def test_what_hugging_face_cannot_hold(export, tmp_path: Path) -> None:
    """A folder of ours whose description is of another model."""
    assert export("--format", "safetensors", "--output", tmp_path / "a")[0] == 0
    path = tmp_path / "a" / "vivit_train.json"
    described = json.loads(path.read_text())
    described["sampling"]["clip_frames"] = 8
    path.write_text(json.dumps(described))
    words = ("--format", "huggingface", "--output", tmp_path / "b")
    code, *_ = export(*words, checkpoint=tmp_path / "a")
    assert "clips have 8 frames for a model of 4" in str(code)
    assert export("num_frames=8", *words, checkpoint=tmp_path / "a")[0] == 0


def test_unknown_format(export, tmp_path: Path) -> None:
    code, _, err = export("--format", "tensorrt", "--output", tmp_path / "x")
    assert code == 2
    assert "invalid choice: 'tensorrt'" in err
