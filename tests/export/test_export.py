"""What all formats have in common."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from tests.export.classifiers import build
from vivit_train import load
from vivit_train.errors import UserError
from vivit_train.export import FORMATS, export
from vivit_train.export.clips import demo_clips
from vivit_train.export.staging import staged


def test_several_heads_stay_several(tmp_path: Path) -> None:
    classifier = build()
    classifier.heads = {"noun": 3, "verb": 2}
    export(classifier, "safetensors", tmp_path / "two", demo_clips(classifier))
    assert load(tmp_path / "two").heads == {"noun": 3, "verb": 2}
    with pytest.raises(UserError, match="it has 2 heads, and Hugging Face's one"):
        export(classifier, "huggingface", tmp_path / "hf", demo_clips(classifier))


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replaces a part of the format safetensors."""

    def breaks(**parts: Any) -> None:
        form = FORMATS["safetensors"]
        monkeypatch.setitem(FORMATS, "safetensors", replace(form, **parts))

    return breaks


@pytest.mark.parametrize("error", [1e-3, float("nan")])
@pytest.mark.parametrize("sizes", [(1,), (2,)])
def test_logits_that_differ(tmp_path: Path, broken: Any, error: float, sizes: tuple[int]) -> None:
    classifier = build()
    wrong = lambda frames: classifier(frames) + (error if len(frames) in sizes else 0)  # noqa: E731
    broken(read=lambda folder: ("a library", wrong))
    message = (
        r"--format safetensors: loaded with a library, the logits differ from the checkpoint's "
        r"by (0\.001|0\.00\d+|nan), and at most 1e-06 is allowed; nothing was written"
    )
    with pytest.raises(UserError, match=message):
        export(classifier, "safetensors", tmp_path / "new" / "x", demo_clips(classifier))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("own_resize", [False, True])
def test_a_runtime_that_resizes_on_its_own(tmp_path: Path, broken: Any, own_resize: bool) -> None:
    """It is given frames that need no resize."""
    classifier, shapes = build(), set()

    def logits(frames: Tensor) -> Tensor:
        shapes.add(tuple(frames.shape[2:4]))
        return classifier(frames)

    broken(read=lambda folder: ("a library", logits), own_resize=own_resize)
    clips = demo_clips(classifier)
    export(classifier, "safetensors", tmp_path / "x", clips)
    height, width = clips.shape[2:4]
    resized = classifier.processor.resized_size(height, width)
    assert (height, width) != resized
    assert shapes == {resized if own_resize else (height, width)}


@pytest.mark.parametrize("part", ["write", "read"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failures(tmp_path: Path, broken: Any, part: str, error: Any) -> None:
    def fail(*_: Any) -> Any:
        raise error("at once")

    broken(**{part: fail})
    with pytest.raises(error):
        export(build(), "safetensors", tmp_path / "new" / "x", demo_clips(build()))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    export(build(), "safetensors", tmp_path / "x", demo_clips(build()))  # empty: fine
    before = (tmp_path / "x" / "model.safetensors").stat().st_mtime_ns
    (tmp_path / "file").touch()
    for taken in ("x", "file"):
        message = rf"--output .*{taken} exists already and is never overwritten: delete it or"
        with pytest.raises(UserError, match=message):
            export(build(), "safetensors", tmp_path / taken, demo_clips(build()))
    assert (tmp_path / "x" / "model.safetensors").stat().st_mtime_ns == before
    assert {path.name for path in tmp_path.iterdir()} == {"x", "file"}


def test_taken_meanwhile(tmp_path: Path) -> None:
    def take() -> None:
        with staged(tmp_path / "x"):
            (tmp_path / "x").mkdir()
            (tmp_path / "x" / "other").touch()

    with pytest.raises(UserError, match="exists already"):
        take()
    assert [path.name for path in tmp_path.rglob("*")] == ["x", "other"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = "--output .*file/x cannot be made: Not a directory"
    with pytest.raises(UserError, match=message):
        export(build(), "safetensors", tmp_path / "file" / "x", demo_clips(build()))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
