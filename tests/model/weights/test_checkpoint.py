"""Our own checkpoints."""

from pathlib import Path
from typing import Any

import pytest
import torch

from vivit_train.errors import UserError
from vivit_train.model.vivit import ViViT
from vivit_train.model.weights import load_weights, read_weights, resolve_checkpoint

ARGUMENTS = {
    "num_classes": 2,
    "image_size": [16, 24],
    "num_frames": 4,
    "tubelet_size": [2, 8, 8],
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "mlp_size": 32,
    "drop_path": 0.1,
}
PROCESSOR = {"resize": 256, "crop": 224, "num_frames": 32, "frame_stride": 2}


@pytest.fixture
def content(randomise) -> dict[str, Any]:
    model = randomise(ViViT(**ARGUMENTS))
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {
            **{f"model.{name}": value for name, value in model.state_dict().items()},
            "loss.weight": torch.ones(2),
        },
        "hyper_parameters": {
            "model": ARGUMENTS,
            "class_names": ["b", "a"],
            "processor": PROCESSOR,
            "lr": 0.1,
        },
    }


def save(content: Any, tmp_path: Path) -> Path:
    path = tmp_path / "last.ckpt"
    torch.save(content, path)
    return path


def refused(path: Path, *parts: str) -> None:
    with pytest.raises(UserError) as caught:
        read_weights(path)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def test_everything_comes_back(content: dict[str, Any], tmp_path: Path) -> None:
    path = save(content, tmp_path)
    weights = read_weights(path)
    assert weights.origin == f"vivit-train checkpoint {path}"
    assert weights.format == "vivit_train"
    assert weights.class_names == ["b", "a"]
    assert weights.processor == PROCESSOR
    assert weights.unused == {"loss.weight": "not part of the model"}

    model = ViViT(**weights.model)
    assert model.config == ViViT(**ARGUMENTS).config
    rows = load_weights(model, weights, ["a", "b"])
    assert {row.status for row in rows} == {"loaded", "unused"}
    stored = content["state_dict"]
    assert torch.equal(model.head.weight, stored["model.head.weight"].flip(0))
    assert torch.equal(model.embed.weight, stored["model.embed.weight"])


def test_the_description_is_the_same_without_the_tensors(content: Any, tmp_path: Path) -> None:
    content["hyper_parameters"]["sampling"] = {"clip_frames": 4, "frame_stride": 1}
    path = save(content, tmp_path)
    whole, told = (read_weights(path, with_tensors=tensors) for tensors in (True, False))
    for name in ("origin", "model", "class_names", "processor", "sampling"):
        assert getattr(told, name) == getattr(whole, name), name
    damaged = bytearray(path.read_bytes())
    first = content["state_dict"]["model.embed.weight"].numpy().tobytes()
    damaged[damaged.index(first)] ^= 1
    path.write_bytes(damaged)
    refused(path, "is damaged")  # which takes reading it as a whole
    assert read_weights(path, with_tensors=False).sampling == whole.sampling


def test_defaults_count_as_told(content: dict[str, Any], tmp_path: Path) -> None:
    weights = read_weights(save(content, tmp_path))
    assert "activation" not in ARGUMENTS
    model = ViViT(**ARGUMENTS | {"activation": "relu"})
    with pytest.raises(UserError, match=r"activation=relu, but the file's is gelu_fast"):
        load_weights(model, weights)


@pytest.mark.parametrize(
    ("told", "heads"),
    [
        ({"noun": 1, "verb": 1}, {"noun": 1, "verb": 1}),
        ([1, 1], {"noun": 1, "verb": 1}),  # as older versions wrote it
        ([], {}),
        ((), {}),
        (None, {}),
    ],
)
def test_heads(told: Any, heads: dict[str, int], content: dict[str, Any], tmp_path: Path) -> None:
    content["hyper_parameters"]["class_names"] = ["noun: tap", "verb: open"]
    if told is not None:
        content["hyper_parameters"]["heads"] = told
    assert list(read_weights(save(content, tmp_path)).heads.items()) == list(heads.items())


@pytest.mark.parametrize("told", [[2, 1], [1], {"noun": 2, "verb": 1}, [1, 1], [1, 1, 1]])
def test_heads_of_other_classes(told: Any, content: dict[str, Any], tmp_path: Path) -> None:
    content["hyper_parameters"] |= {"heads": told, "class_names": ["noun: tap", "noun: cup"]}
    refused(save(content, tmp_path), "last.ckpt is inconsistent", f"heads={told} for 2 classes")


@pytest.mark.parametrize("told", [3, None, [0, 2], ["a"], {"noun": 2.0}, {1: 2}, [2**13, 2**13]])
def test_what_are_no_heads(told: Any, content: dict[str, Any], tmp_path: Path) -> None:
    content["hyper_parameters"]["heads"] = told
    refused(save(content, tmp_path), f"heads={told} are not the class counts of heads")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["state_dict"], None, "it has no state_dict"),
        (["state_dict"], {"net.weight": torch.ones(1)}, "it has no tensors under 'model.'"),
        (["hyper_parameters"], None, "it has no hyper_parameters['model'], hyper_parameters['cl"),
        (["hyper_parameters", "model"], None, "it has no hyper_parameters['model']"),
        (["hyper_parameters", "class_names"], None, "it has no hyper_parameters['class_names']"),
        (["hyper_parameters", "class_names"], "ab", "it has no hyper_parameters['class_names']"),
        (["hyper_parameters", "processor"], 3, "it has no hyper_parameters['processor']"),
        (["hyper_parameters", "class_names"], ["a"], "2 classes, its list of class names 1"),
        (
            ["hyper_parameters", "model", "sparkle"],
            1,
            "was written by another version of vivit-train: this one has no model.sparkle",
        ),
        (["hyper_parameters", "model", "num_layers"], "x", "last.ckpt: model.num_layers='x' is no"),
        (["hyper_parameters", "model", "dropout"], 2.0, "last.ckpt: model.dropout is a probabil"),
    ],
)
def test_checkpoint_of_another_program(
    path: list[str], value: Any, message: str, content: dict[str, Any], tmp_path: Path
) -> None:
    content["hyper_parameters"]["model"] = dict(ARGUMENTS)
    *parents, key = path
    target = content
    for parent in parents:
        target = target[parent]
    target[key] = value
    refused(save(content, tmp_path), "last.ckpt", message)


@pytest.mark.parametrize("content", [torch.zeros(2), [1], {}])
def test_no_checkpoint_at_all(content: Any, tmp_path: Path) -> None:
    refused(save(content, tmp_path), "is not a checkpoint of vivit-train", "state_dict")


def test_pickled_objects_are_refused(content: dict[str, Any], tmp_path: Path) -> None:
    content["hyper_parameters"]["model"] = tmp_path
    refused(save(content, tmp_path), "holds Python objects besides tensors (pathlib.PosixPath)")


def test_truncated(content: dict[str, Any], tmp_path: Path) -> None:
    path = save(content, tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    refused(path, "last.ckpt is not a PyTorch file, or not a whole one")


class TestResolve:
    def test_weights_of_a_run(self, finished_run: Path) -> None:
        """As load, every command and model.pretrained read them."""
        best = finished_run / "checkpoints" / "best.ckpt"
        of_run, of_file = read_weights(finished_run), read_weights(best)
        assert of_run.origin == f"vivit-train checkpoint {best}"
        assert all(torch.equal(of_run.state[k], v) for k, v in of_file.state.items())

    def test_a_run(self, tmp_path: Path) -> None:
        folder = tmp_path / "checkpoints"
        folder.mkdir()
        with pytest.raises(UserError, match=r"has no checkpoint yet: .*checkpoints is empty"):
            resolve_checkpoint(tmp_path)
        (folder / "last.ckpt").touch()
        assert resolve_checkpoint(str(tmp_path)) == folder / "last.ckpt"
        (folder / "best.ckpt").touch()
        assert resolve_checkpoint(tmp_path) == folder / "best.ckpt"

    def test_everything_else_stays(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        assert resolve_checkpoint("~/x.ckpt") == tmp_path / "x.ckpt"
        assert resolve_checkpoint(tmp_path) == tmp_path  # a Hugging Face folder, say
        assert str(resolve_checkpoint("owner/name")) == "owner/name"


def test_a_head_of_the_other_kind_is_not_taken(content: dict[str, Any], tmp_path: Path) -> None:
    """Of classes that exclude each other, or of any number: its logits mean another thing."""
    content["hyper_parameters"]["multi_label"] = True
    weights = read_weights(save(content, tmp_path))
    assert weights.multi_label
    for multi_label, status in ((True, "loaded"), (False, "replaced head")):
        model = ViViT(**weights.model)
        rows = load_weights(model, weights, ["b", "a"], multi_label=multi_label)
        (head,) = (row for row in rows if row.name == "head.weight")
        assert head.status == status
        assert torch.equal(model.head.weight, weights.state["head.weight"]) == multi_label
        assert head.detail == ("" if multi_label else "trained with the other data.multi_label")
        assert torch.equal(model.embed.weight, weights.state["embed.weight"])
    content["hyper_parameters"]["multi_label"] = 1
    refused(save(content, tmp_path), "multi_label=1 is neither true nor false")
