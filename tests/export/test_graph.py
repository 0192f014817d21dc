"""Against the runtimes that load the graphs."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.export.classifiers import NAMES, POOLING, build, noise
from vivit_train import load
from vivit_train.errors import UserError
from vivit_train.export import export, relative_difference
from vivit_train.export.clips import demo_clips
from vivit_train.transforms.processor import Processor
from vivit_train.video.sampling import Sampling


@pytest.fixture(scope="module", params=POOLING)
def graphs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Each model, and the folder that holds its ONNX graph and its torch.export graph."""
    model = {"attention": request.param, "pooling": POOLING[request.param], "num_layers": 1}
    if request.param == "factorised_encoder":
        model["temporal_layers"] = 1
    classifier = build(**model)
    folder = tmp_path_factory.mktemp("graphs")
    for name in ("torch-export", "onnx"):
        export(classifier, name, folder / name, demo_clips(classifier))
    return classifier, folder


@pytest.fixture(scope="module")
def loaded(graphs: Any) -> Any:
    """A model's torch.export graph and a session of its ONNX graph."""
    import onnxruntime

    _, folder = graphs
    program = torch.export.load(folder / "torch-export" / "model.pt2")
    return program, onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")


@pytest.mark.parametrize("shape", [(1, 40, 56), (3, 30, 24), (2, 16, 16), (2, 18, 24), (5, 9, 11)])
def test_any_batch_height_and_width(graphs: Any, loaded: Any, shape: tuple[int, int, int]) -> None:
    (classifier, _), (program, session) = graphs, loaded
    batch, height, width = shape
    frames = noise(batch, 4, height, width, 3)
    with torch.no_grad():
        expected = classifier(frames)
        assert relative_difference(program.module()(frames), expected) < 1e-6
    (logits,) = session.run(None, {"frames": frames.numpy()})
    assert logits.shape == (batch, 5)
    resized = (height, width) != classifier.processor.resized_size(height, width)
    assert relative_difference(torch.from_numpy(logits), expected) < (1e-2 if resized else 1e-4)


def test_what_lies_beside(graphs: Any, loaded: Any) -> None:
    (classifier, folder), (_, session) = graphs, loaded
    for name, file in (("torch-export", "model.pt2"), ("onnx", "model.onnx")):
        assert {p.name for p in (folder / name).iterdir()} == {file, "vivit_train.json"}
        described = json.loads((folder / name / "vivit_train.json").read_text())
        assert described["class_names"] == NAMES
        assert described["model"] == classifier.model.config
        with pytest.raises(UserError, match=r"has no model\.safetensors"):
            load(folder / name)
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, made.name) == ("frames", "tensor(uint8)", "logits")
    assert given.shape[1::3] == [4, 3]
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["class_names"]) == NAMES
    inside = {"vivit_train.json": ""}
    torch.export.load(folder / "torch-export" / "model.pt2", extra_files=inside)
    for told in (metadata["vivit_train"], inside["vivit_train.json"]):
        contract = json.loads(told)
        assert contract["class_names"] == NAMES
        assert contract["processor"] == classifier.processor.settings()
        sampling = Sampling(4, 3).contract() | {"eval_views": [2, 1], "video_rate": 25.0}
        assert contract["sampling"] == sampling


def test_no_clip_is_saved_along(loaded: Any) -> None:
    program, _ = loaded
    assert program.example_inputs is None


@pytest.mark.parametrize(
    "settings",
    [
        {"crop_size": 16, "resample": "bicubic", "do_normalize": True, "image_std": (1, 2, 3)},
        {"crop_size": (16, 24), "do_resize": False, "do_rescale": False, "offset": False},
        {"crop_size": 16, "size": (20, 30), "resample": "nearest"},
        {"do_center_crop": False, "size": (16, 24)},
    ],
)
def test_other_processors(tmp_path: Path, settings: dict) -> None:
    processor = Processor(**settings)
    assert processor.output_size is not None
    classifier = build(processor, image_size=processor.output_size, num_layers=1)
    export(classifier, "torch-export", tmp_path / "x", demo_clips(classifier))
    run = torch.export.load(tmp_path / "x" / "model.pt2").module()
    for height, width in ((18, 40), (30, 40), (48, 72)):
        frames = noise(1, 4, height, width, 3)
        assert relative_difference(run(frames), classifier(frames)) < 1e-6
    if not processor.do_resize:
        with pytest.raises(Exception, match="to be >= 16, but got 12"):
            run(noise(1, 4, 12, 40, 3))


def test_frames_of_no_fixed_size(tmp_path: Path) -> None:
    classifier = build(Processor(do_center_crop=False, do_resize=False))
    message = r"frames of one size, and this one does not crop \(do_center_crop=False\)"
    for name in ("torch-export", "onnx"):
        with pytest.raises(UserError, match=message):
            export(classifier, name, tmp_path / "x", demo_clips(classifier))
    assert list(tmp_path.iterdir()) == []


def test_packages_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n == "onnxscript" else found(n)
    )
    message = r"--format onnx needs onnxscript: pip install 'vivit-train\[export\]'"
    with pytest.raises(UserError, match=message):
        export(build(), "onnx", tmp_path / "x", demo_clips(build()))
    assert list(tmp_path.iterdir()) == []
