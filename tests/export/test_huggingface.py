"""Against ``transformers``."""

import importlib.util
import json
import logging
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.export.classifiers import NAMES, build, noise
from vivit_train import load
from vivit_train.errors import UserError
from vivit_train.export import export, huggingface, relative_difference
from vivit_train.export.clips import demo_clips
from vivit_train.losses import binary_cross_entropy
from vivit_train.model.weights import read_weights
from vivit_train.transforms.processor import Processor
from vivit_train.video.sampling import Sampling


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
    sized = classifier.processor.resize(frames[None])[0].movedim(1, -1).contiguous()
    for same, tolerance in ((frames, 1e-2), (sized, 1e-5)):  # Pillow's resize is not ours
        with torch.no_grad():
            pixels = image_processor(list(same.numpy()), return_tensors="pt")
            theirs_logits = theirs.eval()(**pixels).logits
            assert relative_difference(theirs_logits, classifier(same)) < tolerance


def test_theirs_to_ours_to_theirs_is_the_same_to_the_bit(tmp_path: Path) -> None:
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


def test_our_reader_agrees(tmp_path: Path) -> None:
    classifier = build()
    export(classifier, "huggingface", tmp_path / "hf", demo_clips(classifier))
    back = load(tmp_path / "hf")
    assert back.class_names == NAMES
    assert back.processor.settings() == classifier.processor.settings()
    for name, tensor in back.model.state_dict().items():
        assert torch.equal(tensor, classifier.model.state_dict()[name])


def test_any_number_of_classes(tmp_path: Path) -> None:
    """Their loss is ours, and the folder says what the logits mean."""
    import transformers

    classifier = build()
    classifier.multi_label = True
    export(classifier, "huggingface", tmp_path / "hf", demo_clips(classifier))
    theirs = transformers.VivitForVideoClassification.from_pretrained(tmp_path / "hf").eval()
    assert theirs.config.problem_type == "multi_label_classification"
    pixels = torch.randn(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0]])
    with torch.no_grad():
        loss = theirs(pixel_values=pixels, labels=labels.float()).loss
        ours = binary_cross_entropy(classifier.model(pixels.transpose(1, 2)), labels)
    torch.testing.assert_close(loss, ours, rtol=1e-5, atol=0)
    assert load(tmp_path / "hf").multi_label
    assert read_weights(tmp_path / "hf", with_tensors=False).multi_label
    classifier.multi_label = False
    export(classifier, "huggingface", tmp_path / "one", demo_clips(classifier))
    assert "problem_type" not in json.loads((tmp_path / "one/config.json").read_text())
    assert not load(tmp_path / "one").multi_label


def test_without_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
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
def test_what_it_cannot_hold(tmp_path: Path, model: dict, message: str) -> None:
    classifier = build(**model)
    whole = rf"^--format huggingface cannot hold this model: .*{message}.*--format safetensors"
    with pytest.raises(UserError, match=whole):
        export(classifier, "huggingface", tmp_path / "hf", demo_clips(classifier))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("processor", "made"),
    [({"crop_size": 24}, "24x24"), ({"do_center_crop": False, "size": 16}, "any size")],
)
def test_clips_of_another_size(tmp_path: Path, processor: dict, made: str) -> None:
    classifier = build(Processor(**processor))
    message = f"processor makes frames of {made} for a model of 16x16, and it cannot interpol"
    with pytest.raises(UserError, match=message):
        export(classifier, "huggingface", tmp_path / "hf", demo_clips(classifier))


def test_clips_of_another_length(tmp_path: Path) -> None:
    classifier = build()
    classifier.sampling = Sampling(8)
    message = r"clips have 8 frames for a model of 4, .* \(num_frames=8 here does\)"
    with pytest.raises(UserError, match=message):
        export(classifier, "huggingface", tmp_path / "hf", demo_clips(classifier))


def test_transformers_are_not_imported_for_nothing(tmp_path: Path) -> None:
    """The Hugging Face folder is written by our own code."""
    classifier = build()
    blocked = dict.fromkeys([n for n in sys.modules if n.startswith("transformers")])
    with pytest.MonkeyPatch.context() as patch:
        for name in ("transformers", *blocked):
            patch.setitem(sys.modules, name, None)
        huggingface.write(classifier, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        "config.json", "model.safetensors", "preprocessor_config.json"
    }  # fmt: skip
