"""Exports against the libraries that load them."""

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from vivit_train import export as module
from vivit_train import load
from vivit_train.checkpoint import Classifier
from vivit_train.errors import UserError
from vivit_train.export import FORMATS, demo_clips, export, relative_difference, resize_matrix
from vivit_train.model.vivit import ViViT
from vivit_train.model.weights.checkpoint import read_exported
from vivit_train.transforms.processor import Processor
from vivit_train.video.write import write_video

MODELS = {
    "spatio_temporal": "cls",
    "factorised_encoder": "cls",
    "factorised_self_attention": "mean",
    "factorised_dot_product": "mean",
}
NAMES = ["zumba", "archery", "abseiling", "juggling balls", "ça va"]


def noise(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def build(processor: Processor | None = None, **model: Any) -> Classifier:
    """A tiny classifier whose every weight is random, so that each one counts."""
    torch.manual_seed(0)
    sizes = {
        "image_size": 16, "num_frames": 4, "tubelet_size": [2, 8, 8], "hidden_size": 16,
        "num_layers": 2, "num_heads": 2, "mlp_size": 24,
    }  # fmt: skip
    vivit = ViViT(num_classes=5, **sizes | model)
    for parameter in vivit.parameters():
        nn.init.normal_(parameter, std=0.2)
    vivit.requires_grad_(False)
    processor = processor or Processor(crop_size=vivit.config["image_size"])
    config = {"optim": {"lr": 1e-3, "betas": [0.9, 0.999]}, "model": None}
    return Classifier(vivit, processor, NAMES, config, frame_stride=3, eval_views=(2, 1)).eval()


@pytest.fixture(scope="module", params=MODELS)
def graphs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Each model, and the folder that holds its ONNX graph and its torch.export graph."""
    model = {"attention": request.param, "pooling": MODELS[request.param], "num_layers": 1}
    if request.param == "factorised_encoder":
        model["temporal_layers"] = 1
    classifier = build(**model)
    folder = tmp_path_factory.mktemp("graphs")
    for name in ("torch-export", "onnx"):
        export(classifier, name, folder / name, demo_clips(classifier))
    return classifier, folder


def test_several_heads_stay_several(tmp_path: Path) -> None:
    classifier = build()
    classifier.heads = [2, 1]
    export(classifier, "safetensors", tmp_path / "two", demo_clips(classifier))
    assert load(tmp_path / "two").heads == [2, 1]
    with pytest.raises(UserError, match="it has 2 heads, and Hugging Face's one"):
        export(classifier, "huggingface", tmp_path / "hf", demo_clips(classifier))


class TestHuggingFace:
    @pytest.mark.parametrize(
        "model",
        [
            {},
            {"image_size": [16, 24], "activation": "gelu", "layer_norm_eps": 1e-5},
            {"qkv_bias": False, "activation": "relu", "dropout": 0.1, "initializer_range": 0.03},
            {"num_layers": 11, "activation": "gelu_new"},
        ],
    )
    @pytest.mark.parametrize(
        "processor",
        [{}, {"size": (20, 30), "resample": "bicubic", "do_normalize": True},
         {"rescale_factor": 1 / 255, "offset": False, "size": 17}],
    )  # fmt: skip
    def test_transformers_load_it_in_silence(
        self,
        tmp_path: Path,
        model: dict,
        processor: dict,
        caplog: pytest.LogCaptureFixture,
        recwarn: pytest.WarningsRecorder,
        capfd: pytest.CaptureFixture,
    ) -> None:
        import transformers

        size = model.get("image_size", 16)
        classifier = build(Processor(crop_size=size, **processor), **model)
        report = export(classifier, "huggingface", tmp_path / "hf", demo_clips(classifier))
        assert report.reader == f"transformers {transformers.__version__}"
        assert report.difference < 1e-5

        transformers.utils.logging.enable_propagation()
        transformers.utils.logging.disable_progress_bar()
        with caplog.at_level(logging.INFO):
            theirs, info = transformers.VivitForVideoClassification.from_pretrained(
                tmp_path / "hf", output_loading_info=True
            )
            image_processor = transformers.VivitImageProcessor.from_pretrained(tmp_path / "hf")
        transformers.utils.logging.disable_propagation()
        transformers.utils.logging.enable_progress_bar()
        assert not any(info.values())
        assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []
        assert [str(w.message) for w in recwarn if "transformers" in w.filename] == []
        assert capfd.readouterr() == ("", "")
        assert list(theirs.config.id2label.values()) == NAMES
        assert theirs.config.label2id["ça va"] == 4

        frames = noise(4, 30, 50, 3)
        with torch.no_grad():
            pixels = image_processor(list(frames.numpy()), return_tensors="pt")
            assert relative_difference(theirs.eval()(**pixels).logits, classifier(frames)) < 1e-5

    def test_theirs_to_ours_to_theirs_is_the_same_to_the_bit(self, tmp_path: Path) -> None:
        import transformers

        torch.manual_seed(0)
        config = transformers.VivitConfig(
            image_size=16, num_frames=4, tubelet_size=[2, 8, 8], hidden_size=16,
            num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
            id2label=dict(enumerate(NAMES)), label2id={n: i for i, n in enumerate(NAMES)},
        )  # fmt: skip
        theirs = transformers.VivitForVideoClassification(config)
        for parameter in theirs.parameters():
            nn.init.normal_(parameter)
        theirs.save_pretrained(tmp_path / "a")
        transformers.VivitImageProcessor(
            size={"shortest_edge": 20}, crop_size={"height": 16, "width": 16}
        ).save_pretrained(tmp_path / "a")
        classifier = load(tmp_path / "a")
        export(classifier, "huggingface", tmp_path / "b", demo_clips(classifier))
        before, after = (load_file(tmp_path / x / "model.safetensors") for x in "ab")
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        described = [json.loads((tmp_path / x / "config.json").read_text()) for x in "ab"]
        assert {k: v for k, v in described[0].items() if k in described[1]} == described[1]
        processors = [transformers.VivitImageProcessor.from_pretrained(tmp_path / x) for x in "ab"]
        assert processors[0].to_dict() == processors[1].to_dict()

    def test_our_reader_agrees(self, tmp_path: Path) -> None:
        classifier = build()
        export(classifier, "huggingface", tmp_path / "hf", demo_clips(classifier))
        back = load(tmp_path / "hf")
        assert back.class_names == NAMES
        assert back.processor.settings() == classifier.processor.settings()
        for name, tensor in back.model.state_dict().items():
            assert torch.equal(tensor, classifier.model.state_dict()[name])

    def test_without_transformers(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
        classifier = build()
        report = export(classifier, "huggingface", tmp_path / "hf", demo_clips(classifier))
        assert report.reader == "vivit-train (transformers is not installed)"
        assert report.difference < 1e-6

    @pytest.mark.parametrize(
        ("model", "message"),
        [
            ({"attention": "factorised_encoder"}, 'model.attention=factorised_encoder, .*"spatio_'),
            ({"pooling": "mean"}, 'model.pooling=mean, and it has only "cls"'),
            ({"representation_size": 8}, "model.representation_size=8, and it has only null"),
            ({"sampled_frames": 2, "tubelet_size": [1, 8, 8]}, "model.sampled_frames=2, and it"),
            ({"attention": "factorised_dot_product", "pooling": "max"}, ".*attention.*; .*pooling"),
        ],
    )
    def test_what_it_cannot_hold(self, tmp_path: Path, model: dict, message: str) -> None:
        classifier = build(**model)
        whole = rf"^--format huggingface cannot hold this model: .*{message}.*--format safetensors"
        with pytest.raises(UserError, match=whole):
            export(classifier, "huggingface", tmp_path / "hf", demo_clips(classifier))
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("processor", "made"),
        [({"crop_size": 24}, "24x24"), ({"do_center_crop": False, "size": 16}, "any size")],
    )
    def test_clips_of_another_size(self, tmp_path: Path, processor: dict, made: str) -> None:
        classifier = build(Processor(**processor))
        message = f"processor makes frames of {made} for a model of 16x16, and it cannot interpol"
        with pytest.raises(UserError, match=message):
            export(classifier, "huggingface", tmp_path / "hf", demo_clips(classifier))

    def test_clips_of_another_length(self, tmp_path: Path) -> None:
        classifier = build()
        classifier.clip_frames = 8
        message = r"clips have 8 frames for a model of 4, .* \(num_frames=8 here does\)"
        with pytest.raises(UserError, match=message):
            export(classifier, "huggingface", tmp_path / "hf", demo_clips(classifier))


class TestSafetensors:
    @pytest.mark.parametrize("attention", MODELS)
    def test_the_very_same_classifier(self, tmp_path: Path, attention: str) -> None:
        processor = Processor(crop_size=16, do_normalize=True, image_mean=(0.1, 0.2, 0.3))
        classifier = build(processor, attention=attention, pooling=MODELS[attention])
        classifier.clip_frames = 8
        report = export(classifier, "safetensors", tmp_path / "x", demo_clips(classifier))
        assert (report.reader, report.difference) == ("vivit-train", 0)
        back = load(tmp_path / "x")
        assert back.model.config == classifier.model.config
        assert back.processor.settings() == processor.settings()
        assert back.class_names == NAMES
        assert back.config == classifier.config
        assert (back.clip_frames, back.frame_stride, back.eval_views) == (8, 3, (2, 1))
        assert not back.training
        frames = noise(2, 8, 40, 50, 3)
        assert torch.equal(back(frames), classifier(frames))
        described = json.loads((tmp_path / "x" / "vivit_train.json").read_text())
        assert ViViT(**described["model"]).config == classifier.model.config

    def test_other_arguments(self, tmp_path: Path) -> None:
        export(build(), "safetensors", tmp_path / "x", demo_clips(build()))
        assert load(tmp_path / "x", image_size=32).processor.crop_size == (32, 32)

    def test_without_a_configuration(self, tmp_path: Path) -> None:
        classifier = build()
        classifier.config = None
        export(classifier, "safetensors", tmp_path / "x", demo_clips(classifier))
        assert load(tmp_path / "x").config is None


class TestReadExported:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        export(build(), "safetensors", tmp_path / "x", demo_clips(build()))
        return tmp_path / "x"

    def change(self, folder: Path, **values: Any) -> None:
        path = folder / "vivit_train.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    def test_weights(self, folder: Path) -> None:
        weights = read_exported(folder)
        assert (weights.format, weights.class_names) == ("vivit_train", NAMES)
        assert weights.origin == f"vivit-train export {folder}"
        assert weights.state.keys() == build().model.state_dict().keys()

    def test_a_graph(self, folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model.pt2")
        with pytest.raises(UserError, match=r"x has no model\.safetensors: .*graph to run, not a"):
            read_exported(folder)

    def test_another_version(self, folder: Path) -> None:
        self.change(folder, format_version=2)
        with pytest.raises(
            UserError, match="has format_version 2, this version .* reads 1: export"
        ):
            read_exported(folder)
        self.change(folder, format_version=1, model={"num_classes": 5, "flux": 1})
        with pytest.raises(UserError, match=r"by another version .*: this one has no model\.flux"):
            read_exported(folder)

    def test_incomplete(self, folder: Path) -> None:
        self.change(folder, processor=None, class_names="zumba")
        message = r"vivit_train\.json is incomplete: it has no class_names, processor"
        with pytest.raises(UserError, match=message):
            read_exported(folder)

    def test_names_that_do_not_fit(self, folder: Path) -> None:
        self.change(folder, class_names=["zumba"])
        with pytest.raises(UserError, match="is inconsistent: its model has 5 classes, .* names 1"):
            read_exported(folder)

    def test_broken(self, folder: Path) -> None:
        (folder / "vivit_train.json").write_text("{")
        with pytest.raises(UserError, match="is not readable as JSON"):
            read_exported(folder)


class TestGraphs:
    @pytest.mark.parametrize("shape", [(1, 40, 56), (3, 30, 24), (2, 16, 16), (5, 9, 11)])
    def test_any_batch_height_and_width(self, graphs: Any, shape: tuple[int, int, int]) -> None:
        import onnxruntime

        classifier, folder = graphs
        batch, height, width = shape
        frames = noise(batch, 4, height, width, 3)
        program = torch.export.load(folder / "torch-export" / "model.pt2")
        session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
        with torch.no_grad():
            expected = classifier(frames)
            assert relative_difference(program.module()(frames), expected) < 1e-6
        (logits,) = session.run(None, {"frames": frames.numpy()})
        assert logits.shape == (batch, 5)
        assert relative_difference(torch.from_numpy(logits), expected) < 1e-4

    def test_what_lies_beside(self, graphs: Any) -> None:
        import onnxruntime

        classifier, folder = graphs
        for name, file in (("torch-export", "model.pt2"), ("onnx", "model.onnx")):
            assert {p.name for p in (folder / name).iterdir()} == {file, "vivit_train.json"}
            described = json.loads((folder / name / "vivit_train.json").read_text())
            assert described["class_names"] == NAMES
            assert described["model"] == classifier.model.config
            with pytest.raises(UserError, match=r"has no model\.safetensors"):
                load(folder / name)
        session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
        (given,), (made,) = session.get_inputs(), session.get_outputs()
        assert (given.name, given.type, made.name) == ("frames", "tensor(uint8)", "logits")
        assert given.shape[1::3] == [4, 3]
        metadata = session.get_modelmeta().custom_metadata_map
        assert json.loads(metadata["class_names"]) == NAMES

    def test_no_clip_is_saved_along(self, graphs: Any) -> None:
        program = torch.export.load(graphs[1] / "torch-export" / "model.pt2")
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
    def test_other_processors(self, tmp_path: Path, settings: dict) -> None:
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

    def test_frames_of_no_fixed_size(self, tmp_path: Path) -> None:
        classifier = build(Processor(do_center_crop=False, do_resize=False))
        message = r"frames of one size, and this one does not crop \(do_center_crop=False\)"
        for name in ("torch-export", "onnx"):
            with pytest.raises(UserError, match=message):
                export(classifier, name, tmp_path / "x", demo_clips(classifier))
        assert list(tmp_path.iterdir()) == []

    def test_packages_that_are_missing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = module.importlib.util.find_spec
        monkeypatch.setattr(
            module.importlib.util, "find_spec", lambda n: None if n == "onnxscript" else found(n)
        )
        message = r"--format onnx needs onnxscript: pip install 'vivit-train\[export\]'"
        with pytest.raises(UserError, match=message):
            export(build(), "onnx", tmp_path / "x", demo_clips(build()))
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("resample", ["nearest", "bilinear", "bicubic"])
def test_resize_matrices_make_pillows_pixels(resample: str) -> None:
    code = {"nearest": 0, "bilinear": 2, "bicubic": 3}[resample]
    rng = np.random.default_rng(0)
    for _ in range(40):
        height, width = rng.integers(2, 90, 2).tolist()
        new_height, new_width = rng.integers(2, 90, 2).tolist()
        pixels = rng.integers(0, 256, (height, width), dtype=np.uint8)
        # One axis at a time: versions of Pillow differ in which they resize first.
        across = np.array(Image.fromarray(pixels).resize((new_width, height), code))
        down = np.array(Image.fromarray(pixels).resize((width, new_height), code))
        image = torch.from_numpy(pixels).double()
        matrix = resize_matrix(resample, width, new_width, new_width)
        assert torch.equal(module.round_to_pixels(image @ matrix.T), torch.from_numpy(across) * 1.0)
        matrix = resize_matrix(resample, height, new_height, new_height)
        assert torch.equal(module.round_to_pixels(matrix @ image), torch.from_numpy(down) * 1.0)
        crop = rng.integers(1, new_height + 1)
        start = (new_height - crop) // 2
        kept = resize_matrix(resample, height, new_height, crop)
        assert torch.equal(kept, matrix[start : start + crop])


class TestWholeOrNotAtAll:
    @pytest.fixture
    def broken(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Replaces a part of the format safetensors."""

        def breaks(**parts: Any) -> None:
            form = FORMATS["safetensors"]
            monkeypatch.setitem(module.FORMATS, "safetensors", replace(form, **parts))

        return breaks

    @pytest.mark.parametrize("error", [1e-3, float("nan")])
    @pytest.mark.parametrize("sizes", [(1,), (2,)])
    def test_logits_that_differ(
        self, tmp_path: Path, broken: Any, error: float, sizes: tuple[int]
    ) -> None:
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

    @pytest.mark.parametrize("part", ["write", "read"])
    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_failures(self, tmp_path: Path, broken: Any, part: str, error: Any) -> None:
        def fail(*_: Any) -> Any:
            raise error("at once")

        broken(**{part: fail})
        with pytest.raises(error):
            export(build(), "safetensors", tmp_path / "new" / "x", demo_clips(build()))
        assert list(tmp_path.iterdir()) == []

    def test_nothing_is_overwritten(self, tmp_path: Path) -> None:
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

    def test_taken_meanwhile(self, tmp_path: Path) -> None:
        def take() -> None:
            with module.staged(tmp_path / "x"):
                (tmp_path / "x").mkdir()
                (tmp_path / "x" / "other").touch()

        with pytest.raises(UserError, match="exists already"):
            take()
        assert [path.name for path in tmp_path.rglob("*")] == ["x", "other"]

    def test_a_place_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        message = "--output .*file/x cannot be made: Not a directory"
        with pytest.raises(UserError, match=message):
            export(build(), "safetensors", tmp_path / "file" / "x", demo_clips(build()))
        assert [path.name for path in tmp_path.iterdir()] == ["file"]


class TestClips:
    @pytest.mark.parametrize(
        "settings",
        [{"crop_size": 16}, {"crop_size": (16, 40)}, {"crop_size": (40, 16)}, {"size": (20, 40)},
         {"crop_size": 16, "do_resize": False}, {"do_resize": False, "do_center_crop": False}],
    )  # fmt: skip
    def test_drawn(self, settings: dict) -> None:
        processor = Processor(**{"crop_size": 16} | settings)
        native = list(processor.output_size or (16, 16))
        classifier = build(processor, image_size=native)
        clips = demo_clips(classifier)
        assert (clips.dtype, clips.shape[:2]) == (torch.uint8, (2, 4))
        assert not torch.equal(clips[0], clips[1])
        assert classifier(clips).shape == (2, 5)

    def test_of_a_video(self, tmp_path: Path) -> None:
        write_video(tmp_path / "a.mp4", noise(30, 32, 48, 3).numpy())
        clips = module.video_clips(build(), tmp_path / "a.mp4")
        assert clips.shape == (2, 4, 32, 48, 3)
        assert not torch.equal(clips[0], clips[1])

    def test_of_no_video(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"^--video .*none\.mp4: no such file"):
            module.video_clips(build(), tmp_path / "none.mp4")


def test_transformers_are_not_imported_for_nothing(tmp_path: Path) -> None:
    """The Hugging Face folder is written by our own code."""
    classifier = build()
    blocked = dict.fromkeys([n for n in sys.modules if n.startswith("transformers")])
    with pytest.MonkeyPatch.context() as patch:
        for name in ("transformers", *blocked):
            patch.setitem(sys.modules, name, None)
        module.write_huggingface(classifier, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        "config.json", "model.safetensors", "preprocessor_config.json"
    }  # fmt: skip
