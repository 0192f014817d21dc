"""Hugging Face's files: both generations of names, every container, and what is refused."""

import inspect
import json
import os
import pickle
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vivit_train.errors import UserError
from vivit_train.model.vivit import ViViT
from vivit_train.model.weights import load_weights, read_weights
from vivit_train.model.weights.huggingface import CONFIG_KEYS, LAYOUT_V4, LAYOUT_V5


@pytest.fixture
def saved(huggingface, tmp_path: Path) -> Callable[..., tuple[Any, Path]]:
    """saved(layout, **config) is a random model of transformers and the folder it wrote."""

    def save(layout: str = "v4", **config: Any) -> tuple[Any, Path]:
        model = huggingface(**config)
        folder = tmp_path / "saved"
        model.save_pretrained(folder, save_original_format=layout == "v4")
        return model, folder

    return save


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(source: Path | str, *parts: str) -> None:
    with pytest.raises(UserError) as caught:
        read_weights(source)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def exported(state: dict[str, torch.Tensor], layout: dict[str, tuple[str, ...]]) -> dict:
    """The name table read backwards, as an exporter does."""
    tensors = {}
    for name, tensor in state.items():
        layer = re.search(r"\.(\d+)\.", name)
        kind = name.replace(layer[0], ".{i}.") if layer else name
        module, leaf = (kind, "") if kind in layout else kind.rsplit(".", 1)
        theirs = layout[module]
        for target, part in zip(theirs, tensor.chunk(len(theirs)) if theirs[1:] else [tensor]):
            target = target.replace("{i}", layer[1]) if layer else target
            tensors[f"{target}.{leaf}" if leaf else target] = part
    return tensors


# Without the tensors


def test_the_description_is_the_same_without_the_tensors(saved) -> None:
    _, folder = saved(num_frames=8)
    (folder / "preprocessor_config.json").write_text(
        '{"image_processor_type": "VivitImageProcessor", "size": {"shortest_edge": 20}}'
    )
    edit_config(folder, vivit_train={"format_version": 1, "sampling": {"frame_stride": 3}})
    whole = read_weights(folder)
    (folder / "model.safetensors").write_bytes(b"no weights")
    for source in (folder, folder / "model.safetensors"):
        told = read_weights(source, with_tensors=False)
        assert told.state == {}
        assert told.model | {"num_classes": whole.model["num_classes"]} == whole.model
        assert (told.processor, told.sampling) == (whole.processor, {"frame_stride": 3})
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match="has no config.json"):
        read_weights(folder, with_tensors=False)
    told = read_weights(folder / "model.safetensors", with_tensors=False)
    assert (told.model, told.processor, told.sampling) == ({}, None, {})


# Names


@pytest.mark.parametrize(("layout", "table"), [("v4", LAYOUT_V4), ("v5", LAYOUT_V5)])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_tensors_are_bit_exact(layout: str, table: dict, qkv_bias: bool, saved) -> None:
    theirs, folder = saved(layout, qkv_bias=qkv_bias)
    stored = load_file(folder / "model.safetensors")
    assert ("vivit.encoder.layer.0.output.dense.bias" in stored) == (layout == "v4")
    weights = read_weights(folder)
    ours = ViViT(**weights.model)
    assert weights.state.keys() == ours.state_dict().keys()
    assert {n: t.shape for n, t in weights.state.items()} == {
        n: t.shape for n, t in ours.state_dict().items()
    }
    assert not weights.unused

    back = exported(weights.state, table)
    assert back.keys() == stored.keys()
    assert all(torch.equal(back[name], stored[name]) for name in stored)
    in_memory = theirs.state_dict()
    inside = exported(weights.state, LAYOUT_V5)
    assert inside.keys() == in_memory.keys()
    assert all(torch.equal(inside[name], in_memory[name]) for name in in_memory)


@pytest.mark.parametrize("layout", ["v4", "v5"])
def test_the_headless_model_has_no_prefix(layout: str, saved) -> None:
    theirs, folder = saved(layout, headless=True)
    stored = load_file(folder / "model.safetensors")
    assert not any(name.startswith("vivit.") for name in stored)
    weights = read_weights(folder)
    assert weights.unused.keys() == {"pooler.dense.weight", "pooler.dense.bias"}
    assert "num_classes" not in weights.model
    assert weights.class_names is None
    model = ViViT(**weights.model, num_classes=3)
    assert model.state_dict().keys() - weights.state.keys() == {"head.weight", "head.bias"}
    norm = theirs.state_dict()["layernorm.weight"]
    assert torch.equal(weights.state["encoder.norm.weight"], norm)
    statuses = {row.name: row.status for row in load_weights(model, weights)}
    assert statuses["pooler.dense.bias"] == "unused"
    assert statuses["head.bias"] == "missing"


def test_unknown_tensors_are_not_dropped(saved) -> None:
    _, folder = saved()
    tensors = load_file(folder / "model.safetensors")
    tensors["vivit.encoder.layer.0.adapter.weight"] = torch.zeros(2)
    save_file(tensors, folder / "model.safetensors")
    weights = read_weights(folder)
    with pytest.raises(UserError, match=r"layer\.0\.adapter\.weight \[2\] has no place"):
        load_weights(ViViT(**weights.model), weights)


def test_incomplete_query_key_value(saved) -> None:
    _, folder = saved()
    tensors = load_file(folder / "model.safetensors")
    del tensors["vivit.encoder.layer.1.attention.attention.key.bias"]
    save_file(tensors, folder / "model.safetensors")
    refused(folder, "is incomplete", "encoder.blocks.1.attn.qkv.bias it holds 2")


def test_a_tensor_under_two_names(saved) -> None:
    _, folder = saved()
    tensors = load_file(folder / "model.safetensors")
    tensors["layernorm.weight"] = tensors["vivit.layernorm.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    refused(folder, "holds encoder.norm.weight twice")


# config.json


def test_arguments(saved) -> None:
    _, folder = saved(
        hidden_act="gelu_new", layer_norm_eps=1e-5, qkv_bias=False, hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.2, image_size=16,
    )  # fmt: skip
    weights = read_weights(folder)
    assert weights.format == "huggingface"
    assert weights.origin == f"Hugging Face folder {folder}"
    assert weights.model == {
        "attention": "spatio_temporal",
        "pooling": "cls",
        "num_classes": 3,
        "image_size": 16,
        "num_frames": 4,
        "tubelet_size": [2, 8, 8],
        "num_channels": 3,
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 2,
        "mlp_size": 32,
        "activation": "gelu_new",
        "dropout": 0.1,
        "attention_dropout": 0.2,
        "layer_norm_eps": 1e-5,
        "qkv_bias": False,
    }


def test_the_librarys_defaults_are_vivits(saved) -> None:
    from transformers import VivitConfig

    config = VivitConfig()
    parameters = inspect.signature(ViViT).parameters
    assert {ours: getattr(config, theirs) for ours, theirs in CONFIG_KEYS.items()} == {
        ours: parameters[ours].default for ours in CONFIG_KEYS
    }
    # So a key that config.json leaves out is right without being there.
    _, folder = saved()
    content = json.loads((folder / "config.json").read_text())
    del content["hidden_act"], content["layer_norm_eps"]
    (folder / "config.json").write_text(json.dumps(content))
    assert read_weights(folder).model["activation"] == "gelu_fast"
    assert read_weights(folder).model["layer_norm_eps"] == 1e-6


def test_class_names_in_the_order_of_their_numbers(saved) -> None:
    names = [f"class {i}" for i in range(12)]
    # As text, "10" sorts before "2".
    _, folder = saved(id2label=dict(enumerate(names)), num_labels=12)
    content = json.loads((folder / "config.json").read_text())
    content["id2label"] = dict(sorted(content["id2label"].items()))
    (folder / "config.json").write_text(json.dumps(content))
    assert list(content["id2label"])[:3] == ["0", "1", "10"]
    assert read_weights(folder).class_names == names


def test_placeholders_are_no_names(saved) -> None:
    _, folder = saved()
    assert read_weights(folder).class_names is None


def test_400_placeholders_are_kinetics_400(saved) -> None:
    _, folder = saved(num_labels=400, hidden_size=4)
    weights = read_weights(folder)
    assert len(weights.class_names) == 400
    assert weights.class_names[:2] == ["abseiling", "air drumming"]
    assert weights.class_names[-1] == "zumba"
    assert weights.class_names == sorted(weights.class_names, key=str.lower)
    assert weights.origin.endswith("(400 unnamed classes, taken as those of Kinetics-400)")
    edit_config(folder, id2label={str(i): f"mine {i}" for i in range(400)})
    assert read_weights(folder).class_names[7] == "mine 7"


@pytest.mark.parametrize("id2label", [{"0": "a", "1": "b"}, {"0": "a", "1": "b", "3": "c"}])
def test_names_that_do_not_fit_the_head(id2label: dict, saved) -> None:
    _, folder = saved()
    edit_config(folder, id2label=id2label)
    refused(folder, "id2label", f"names {len(id2label)} classes", "0 to 2")


def test_another_model(saved) -> None:
    _, folder = saved()
    edit_config(folder, model_type="bert", architectures=["BertForMaskedLM"])
    refused(folder, "model_type 'bert' (BertForMaskedLM); it must be 'vivit'")
    edit_config(folder, model_type=None, architectures=None)
    refused(folder, "model_type None (unnamed)")
    refused(folder / "model.safetensors", "it must be 'vivit'")


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not readable as JSON"), ("[1]", "must hold a JSON object")]
)
def test_broken_config(text: str, message: str, saved) -> None:
    _, folder = saved()
    (folder / "config.json").write_text(text)
    refused(folder, "config.json", message)


@pytest.mark.parametrize("processor", ["VivitImageProcessor", "VivitVideoProcessor"])
def test_processor_settings_as_stored(processor: str, saved) -> None:
    import transformers

    _, folder = saved()
    assert read_weights(folder).processor is None
    before = set(folder.iterdir())
    getattr(transformers, processor)().save_pretrained(folder)
    (written,) = set(folder.iterdir()) - before
    assert read_weights(folder).processor == json.loads(written.read_text())
    assert read_weights(folder / "model.safetensors").processor["size"] == {"shortest_edge": 256}


# Containers


def test_shards(saved, tmp_path: Path) -> None:
    theirs, folder = saved()
    sharded = tmp_path / "sharded"
    theirs.save_pretrained(sharded, max_shard_size="8KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    one, many = read_weights(folder).state, read_weights(sharded).state
    assert one.keys() == many.keys()
    assert all(torch.equal(one[name], many[name]) for name in one)

    index = sharded / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["ghost"] = sorted(content["weight_map"].values())[0]
    index.write_text(json.dumps(content))
    refused(sharded, "lists 1 tensors that no shard holds, e.g. ghost")
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    refused(sharded, f"{shard} is missing: model.safetensors.index.json lists it")
    index.write_text("{}")
    refused(sharded, "has no 'weight_map'")


def test_pytorch_files(saved) -> None:
    _, folder = saved()
    expected = read_weights(folder).state
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    refused(folder, "has no weights: expected one of model.safetensors")

    torch.save(tensors, folder / "pytorch_model.bin")
    for source in (folder, folder / "pytorch_model.bin"):
        state = read_weights(source).state
        assert all(torch.equal(state[name], expected[name]) for name in expected)

    names = list(tensors)
    halves = {"a.bin": names[:9], "b.bin": names[9:]}
    for name, held in halves.items():
        torch.save({n: tensors[n] for n in held}, folder / name)
    weight_map = {n: file for file, held in halves.items() for n in held}
    (folder / "pytorch_model.bin").unlink()
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    state = read_weights(folder).state
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_shards_lie_beside_their_index(saved, tmp_path: Path) -> None:
    _, folder = saved()
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "../outside.safetensors"}}))
    refused(folder, f"{folder / 'outside.safetensors'} is missing")


def test_one_file_with_its_config_beside_it(saved) -> None:
    _, folder = saved(id2label={0: "a", 1: "b", 2: "c"})
    weights = read_weights(folder / "model.safetensors")
    assert weights.model == read_weights(folder).model
    assert weights.class_names == ["a", "b", "c"]
    assert weights.origin == f"Hugging Face file {folder / 'model.safetensors'}"


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_one_file_alone_tells_what_shapes_tell(qkv_bias: bool, saved, tmp_path: Path) -> None:
    _, folder = saved(qkv_bias=qkv_bias)
    path = (folder / "model.safetensors").rename(tmp_path / "alone.safetensors")
    weights = read_weights(path)
    assert weights.origin.endswith("(no config.json beside it)")
    assert weights.model == {
        "attention": "spatio_temporal",
        "pooling": "cls",
        "num_classes": 3,
        "tubelet_size": [2, 8, 8],
        "num_channels": 3,
        "hidden_size": 16,
        "num_layers": 2,
        "mlp_size": 32,
        "qkv_bias": qkv_bias,
    }
    untold = {"num_heads": 2, "image_size": (16, 24), "num_frames": 4}
    rows = load_weights(ViViT(**weights.model | untold), weights)
    assert {row.status for row in rows} == {"loaded"}


def test_one_file_alone_of_another_model(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"bert.embeddings.weight": torch.zeros(2, 2)}, path)
    refused(path, "does not hold a video model of Hugging Face's ViViT", "bert.embeddings.weight")
    # An image ViT has the same names, but flat patches.
    save_file({"vit.embeddings.patch_embeddings.projection.weight": torch.zeros(8, 3, 4, 4)}, path)
    refused(path, "with 5 dimensions")


def test_folder_of_something_else(tmp_path: Path) -> None:
    refused(tmp_path, "has no config.json")


# Files that are broken or not to be trusted


class RunsCode:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_is_not_run(legacy: bool, tmp_path: Path) -> None:
    path, trace = tmp_path / "pytorch_model.bin", tmp_path / "ran"
    content = {"a": torch.zeros(2), "b": RunsCode(trace)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    refused(path, "holds Python objects besides tensors", "posix.mkdir", "was not opened")
    assert not trace.exists()


@pytest.mark.parametrize("protocol", [2, pickle.DEFAULT_PROTOCOL])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_bare_pickle_is_not_run(protocol: int, tmp_path: Path) -> None:
    path, trace = tmp_path / "pytorch_model.bin", tmp_path / "ran"
    path.write_bytes(pickle.dumps({"b": RunsCode(trace)}, protocol=protocol))
    refused(path, str(path))
    assert not trace.exists()


def test_harmless_objects_are_named(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"path": tmp_path}, path)
    refused(path, "besides tensors (pathlib.PosixPath)")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("container", ["safetensors", "zip", "legacy"])
def test_truncated_files(container: str, keep: float, saved, tmp_path: Path) -> None:
    _, folder = saved()
    path = folder / "model.safetensors"
    if container != "safetensors":
        tensors = load_file(path)
        path = tmp_path / "pytorch_model.bin"
        torch.save(tensors, path, _use_new_zipfile_serialization=container == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    refused(path, f"{path} is not a ", "or not a whole one", "copy or download it again")


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>Not found</html>", "or not a whole one"),
        (b"hello world, this is text\n" * 4, "or not a whole one"),
        (b"\x00\x01\x02\x03" * 100, "or not a whole one"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
    ],
    ids=["empty", "html", "text", "bytes", "lfs"],
)
def test_files_that_are_no_weights(suffix: str, content: bytes, message: str, tmp_path) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    refused(path, str(path), message)


@pytest.mark.parametrize(
    ("content", "held"),
    [
        ({"state_dict": {}, "epoch": 3}, "it holds ['state_dict', 'epoch']"),
        (torch.zeros(3), "it holds Tensor"),
        ([1, 2], "it holds list"),
    ],
)
def test_other_contents(content: Any, held: str, tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save(content, path)
    refused(path, "is not a dictionary of tensors", held)


# The hub


def test_hub_id(saved, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = saved()
    asked = []

    def snapshot_download(repo_id: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo_id, revision, allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    weights = read_weights("google/vivit-b-16x2")
    assert weights.origin == "Hugging Face hub google/vivit-b-16x2"
    # Not a second copy of the same weights.
    assert asked == [("google/vivit-b-16x2", None, ["*.json", "model*.safetensors"])]
    for source in (
        "hf://google/vivit-b-16x2@refs/pr/1",
        Path("hf://google/vivit-b-16x2@refs/pr/1"),
    ):
        read_weights(source)
        assert asked[-1][:2] == ("google/vivit-b-16x2", "refs/pr/1")

    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    read_weights("google/vivit-b-16x2")
    assert asked[-1] == ("google/vivit-b-16x2", None, ["*.json", "pytorch_model*.bin"])


def test_an_existing_path_wins_over_the_hub(saved, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = saved()

    def snapshot_download(*_: Any, **__: Any) -> str:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.chdir(folder.parent.parent)
    weights = read_weights(f"{folder.parent.name}/{folder.name}")
    assert weights.origin.startswith("Hugging Face folder")


@pytest.mark.parametrize("error", [ConnectionError("no route\nto host"), ValueError("bad name")])
def test_no_hub(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    first_line = str(error).splitlines()[0]
    refused(
        "google/vivit-b-16x2",
        "google/vivit-b-16x2 is no file or folder here",
        f"({first_line})",
        "give the path of its folder",
    )


@pytest.mark.parametrize("offline", [True, False])
def test_offline_is_honoured(
    offline: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """HF_HUB_OFFLINE, which the client reads when it is imported: no host is looked for."""
    asked = []

    def getaddrinfo(host: str, *_: Any, **__: Any) -> list:
        asked.append(host)
        raise socket.gaierror("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    refused("nobody/no-such-model", "could not be fetched from the Hugging Face hub")
    assert bool(asked) != offline
