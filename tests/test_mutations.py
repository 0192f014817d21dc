"""Whatever a file of weights holds, reading it ends in a classifier or in one line.

Each test changes a good file in hundreds of ways, the same ones each time.
"""

import copy
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.export.classifiers import build
from tests.golden_files import GOLDEN
from vivit_train import load
from vivit_train.classifier import Classifier
from vivit_train.errors import UserError
from vivit_train.export.description import description_of
from vivit_train.export.huggingface import write as write_huggingface
from vivit_train.export.safetensors import write as write_safetensors

ODD = [
    None, 0, -1, 1, 2, 10**7, 10**30, 1.5, float("nan"), float("inf"), True, False, "", "x",
    "9" * 5000, "\udcff", [], [1], ["x"], [1, 2, 3], [None], {}, {"x": 1}, [[[]]], "${oc.env:HOME}",
]  # fmt: skip
ODD_TENSORS = [
    torch.zeros(()), torch.zeros(0), torch.zeros(3), torch.zeros(1, 1), torch.zeros(2, 0, 3),
    torch.zeros(1, 2, 3, 4, 5, 6), torch.zeros(1).expand(10**9), torch.ones(4, dtype=torch.int64),
    torch.zeros(2, 2, dtype=torch.complex64), torch.eye(3).to_sparse(), torch.full((5,), torch.nan),
    torch.empty(3, device="meta"),
]  # fmt: skip


def loaded(path: Path, change: str, **model: Any) -> Classifier | None:
    """The classifier, or ``None`` where a `UserError` of bearable length says why not."""
    try:
        return load(path, **model)
    except UserError as error:
        message = str(error)
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}, after {change}") from error
    # Tensors that do not fit are listed, a line each.
    assert message.count("\n") <= 22, change
    assert len(message) < 6000, change
    return None


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of nested dicts and lists."""
    if isinstance(tree, dict | list):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from places(tree[key])


def change(tree: Any, rng: random.Random) -> str:
    """Changes one value somewhere, and says which."""
    found = list(places(tree))
    # Tensors are many and of few kinds: half of the changes are of other values.
    plain = [(c, k) for c, k in found if not isinstance(c[k], torch.Tensor | np.ndarray)]
    container, key = rng.choice(plain if plain and rng.random() < 0.6 else found)
    before = container[key]
    how = rng.choice(["replace", "replace", "replace", "remove", "rename", "int key"])
    odd = rng.choice(
        ODD_TENSORS if isinstance(before, torch.Tensor) and rng.random() < 0.7 else ODD
    )
    if how == "replace" or isinstance(container, list):
        container[key] = copy.deepcopy(odd) if not isinstance(odd, torch.Tensor) else odd
    else:
        del container[key]
        if how == "rename":
            container[f"{key}x"] = before
        elif how == "int key":
            container[7] = before
    return f"{how} {key!r:.60} by {odd!r:.60}"


def corrupt(content: bytes, rng: random.Random) -> bytes:
    """A bit flipped, bytes overwritten, or the end missing."""
    changed = bytearray(content)
    at = rng.randrange(len(changed))
    match rng.randrange(3):
        case 0:
            changed[at] ^= 1 << rng.randrange(8)
        case 1:
            changed[at : at + 8] = rng.randbytes(8)
        case 2:
            del changed[at:]
    return bytes(changed)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return build()


@pytest.fixture(scope="module")
def checkpoint(classifier: Classifier) -> dict[str, Any]:
    state = {f"model.{name}": value for name, value in classifier.model.state_dict().items()}
    return {"state_dict": state, "hyper_parameters": description_of(classifier)}


def test_checkpoints(checkpoint: dict[str, Any], tmp_path: Path) -> None:
    path, whole = tmp_path / "last.ckpt", 0
    for seed in range(200):
        content = copy.deepcopy(checkpoint)
        told = change(content, random.Random(seed))
        torch.save(content, path)
        whole += loaded(path, told) is not None
    assert 0 < whole < 200


def test_damaged_checkpoints(checkpoint: dict[str, Any], tmp_path: Path) -> None:
    """A changed byte of a tensor or of its description never goes unseen."""
    path = tmp_path / "last.ckpt"
    torch.save(checkpoint, path)
    whole, state = path.read_bytes(), load(path).model.state_dict()
    for seed in range(150):
        path.write_bytes(corrupt(whole, random.Random(seed)))
        found = loaded(path, f"seed {seed}")
        if found is not None:  # it was in what aligns the parts
            assert all(torch.equal(state[k], v) for k, v in found.model.state_dict().items())


@pytest.mark.parametrize(
    ("write", "description"),
    [
        (write_safetensors, "vivit_train.json"),
        (write_huggingface, "config.json"),
        (write_huggingface, "preprocessor_config.json"),
    ],
)
def test_descriptions_of_folders(
    write: Callable, description: str, classifier: Classifier, tmp_path: Path
) -> None:
    write(classifier, tmp_path)
    path, whole = tmp_path / description, 0
    text = path.read_text()
    for seed in range(100):
        rng, content = random.Random(seed), json.loads(text)
        told = change(content, rng)
        path.write_text(json.dumps(content))
        whole += loaded(tmp_path, told) is not None
        path.write_bytes(corrupt(text.encode(), rng))
        loaded(tmp_path, f"seed {seed}")
    assert 0 < whole < 100


@pytest.mark.parametrize("write", [write_safetensors, write_huggingface])
def test_tensors_of_folders(write: Callable, classifier: Classifier, tmp_path: Path) -> None:
    write(classifier, tmp_path)
    path = tmp_path / "model.safetensors"
    whole, tensors = path.read_bytes(), load_file(path)
    for seed in range(75):
        rng, content = random.Random(seed), dict(tensors)
        name = rng.choice(list(content))
        odd = rng.choice([t for t in ODD_TENSORS if t.is_contiguous() and not t.is_meta])
        content[name] = odd if odd.layout == torch.strided else odd.to_dense()
        save_file(content, path)
        loaded(tmp_path, f"{name} {odd.shape}")
        path.write_bytes(corrupt(whole, rng))
        loaded(tmp_path, f"seed {seed}")


def test_indices_of_shards(classifier: Classifier, tmp_path: Path) -> None:
    write_huggingface(classifier, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").rename(tmp_path / "part.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "part.safetensors")}
    path = tmp_path / "model.safetensors.index.json"
    for seed in range(60):
        content = copy.deepcopy(index)
        told = change(content, random.Random(seed))
        path.write_text(json.dumps(content))
        loaded(tmp_path, told)


def test_files_of_tensors_alone(classifier: Classifier, tmp_path: Path) -> None:
    """``pytorch_model.bin`` without config.json, and timm's."""
    write_huggingface(classifier, tmp_path)
    ours = load_file(tmp_path / "model.safetensors")
    (tmp_path / "alone").mkdir()
    image = {"patch_embed.proj.weight": torch.zeros(4, 3, 8, 8), "pos_embed": torch.zeros(1, 5, 4)}
    image |= {"blocks.0.mlp.fc1.weight": torch.zeros(8, 4), "cls_token": torch.zeros(1, 1, 4)}
    path = tmp_path / "alone" / "pytorch_model.bin"
    for seed in range(100):
        content = dict(ours if seed % 2 else image)
        told = change(content, random.Random(seed))
        torch.save(content, path)
        loaded(path, told, num_heads=2, image_size=16, num_frames=4)


def test_scenics_checkpoints(tmp_path: Path) -> None:
    container = GOLDEN / "ckpt_optax_small_model1_token_plain"
    content = msgpack.unpackb(
        container.read_bytes(), ext_hook=msgpack.ExtType, raw=False, strict_map_key=False
    )
    path, whole = tmp_path / "checkpoint_1", container.read_bytes()
    shapes = [[], [-1], [3], [2, -3], [10**9], ["x"], [1, 1, 1, 1, 1, 1], None, [1.5]]
    for seed in range(100):
        rng, tree = random.Random(seed), copy.deepcopy(content)
        at = [place for place in places(tree) if isinstance(place[0][place[1]], msgpack.ExtType)]
        holder, name = rng.choice(at)
        shape, kind, values = msgpack.unpackb(holder[name].data, raw=True)
        match rng.randrange(3):
            case 0:
                shape = rng.choice(shapes)
            case 1:
                kind = rng.choice([b"float16", b"strided", b"complex64", b"", b"load"])
            case 2:
                holder[f"{name}_9999999999999999999"] = holder[name]
        holder[name] = msgpack.ExtType(1, msgpack.packb([shape, kind, values]))
        path.write_bytes(corrupt(whole, rng) if seed % 4 == 0 else msgpack.packb(tree))
        loaded(path, f"{name}, seed {seed}", image_size=16, num_frames=4)


def test_npz(tmp_path: Path) -> None:
    with np.load(GOLDEN / "ckpt_bigvision_prelinen_vit.npz") as file:
        arrays = dict(file)
    odd = [np.zeros(()), np.zeros(3), np.zeros((0, 2)), np.array(["x"]), np.zeros(2, "M8[s]"),
           np.zeros((1, 1, 1, 1, 1, 1)), np.zeros(2, np.uint32), np.full(4, np.nan)]  # fmt: skip
    path = tmp_path / "vit.npz"
    for seed in range(75):
        rng, content = random.Random(seed), dict(arrays)
        name = rng.choice(list(content))
        content[name] = rng.choice(odd)
        np.savez(path, **content)
        if seed % 3 == 0:
            shutil.copy(GOLDEN / "ckpt_bigvision_prelinen_vit.npz", path)
            path.write_bytes(corrupt(path.read_bytes(), rng))
        loaded(path, f"{name}, seed {seed}")
