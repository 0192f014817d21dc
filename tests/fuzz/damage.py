"""Damaged and odd files, each with the command that reads it."""

import csv
import io
import json
import os
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from tests.fuzz.inputs import SETTINGS, TRAIN
from tests.fuzz.sandbox import Case

LIST = ("data=csv", "data.root=..", "data.val_split=names.csv", "data.test_split=names.csv")
# A file of the user that a link in a foreign folder points to, from `sandbox/<folder>/`.
SECRET = "../home/secret.txt"
ODD: tuple[Any, ...] = (
    None, 0, -1, 1.5, float("nan"), float("inf"), 10**12, -(10**30), "", "x", "ä\x1b[31m", "=1+1",
    "${oc.env:HOME}", "../../x", "x" * 6000, True, [], [1, 2, 3], [[]], {}, {"x": 1},
    {"_target_": "os.system"},
)  # fmt: skip
TEXTS = (
    b"", b"\0" * 100, b"{}", b"[]", b"null", b"[" * 10_000, b"\xff\xfe\x00", b"a,b\n1\n\n\"",
    b"ffconcat version 1.0\nfile secret.txt\n", b"#EXTM3U\n#EXTINF:1,\nsecret.mp4\n",
    b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    b"!!python/object/apply:os.system ['touch x']\n", b"PK\x03\x04" + b"\0" * 50,
)  # fmt: skip

Damage = Callable[[random.Random, Path], str]


def damaged_files(seed: int) -> Iterator[Callable[[Path], Case]]:
    """Endless damages; each is called with a sandbox, and gives the command that meets it."""
    draw = random.Random(seed)
    while True:
        name, words, damages = draw.choice(READERS)
        yield partial(_damaged, draw.getrandbits(64), name, words, draw.choice(damages))


def _damaged(seed: int, name: str, words: tuple[str, ...], damage: Damage, sandbox: Path) -> Case:
    how = damage(random.Random(seed), sandbox / name)
    program, *rest = words
    return Case(program, rest, f"{name}: {how}")


def _bytes(draw: random.Random, path: Path) -> str:
    """Cuts, flips, fills or doubles bytes."""
    data = bytearray(path.read_bytes())
    at, length = draw.randrange(len(data)), draw.randint(1, 200)
    how = draw.choice(("cut", "flip", "zero", "noise", "remove", "double", "append"))
    if how == "cut":
        del data[at:]
    elif how == "flip":
        for _ in range(draw.randint(1, 10)):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif how == "zero":
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif how == "noise":
        data[at : at + length] = draw.randbytes(length)
    elif how == "remove":
        del data[at : at + length]
    elif how == "double":
        data[at:at] = data[at : at + length]
    else:
        data += draw.randbytes(length)
    _write(path, bytes(data))
    return f"{how} at {at}"


def _other(draw: random.Random, path: Path) -> str:
    """Puts something else in the file's place."""
    path.unlink()
    how = draw.choice(("text", "text", "nothing", "pipe", "folder", "loop", "outside", "zeros"))
    if how == "text":
        text = draw.choice(TEXTS)
        path.write_bytes(text)
        return f"is {text[:20]!r}"
    if how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how == "loop":
        path.symlink_to(path.name)
    elif how == "outside":
        path.symlink_to(SECRET)
    elif how == "zeros":
        path.symlink_to("/dev/zero")
    return f"is {how}"


def _values(draw: random.Random, path: Path) -> str:
    """Changes one value in a file of nested values."""
    load, dump = FORMATS[path.suffix]
    content = load(path)
    where = list(_places(content))
    parents, last = draw.choice(where)
    value = draw.choice(ODD)
    node = content
    for key in parents:
        node = node[key]
    if draw.random() < 0.15:
        del node[last]
        how = "removed"
    else:
        node[last] = value
        how = f"= {value!r:.40}"
    dump(path, content)
    return f"{'.'.join(map(str, [*parents, last]))} {how}"


def _rows(draw: random.Random, path: Path) -> str:
    """Changes a cell, a row or the encoding of a list."""
    rows = list(csv.reader(io.StringIO(path.read_text())))
    row = draw.randrange(len(rows))
    how = draw.choice(("cell", "more", "less", "header", "latin-1", "nul", "double"))
    cells = rows[row]
    if how == "cell":
        cells[draw.randrange(len(cells))] = str(draw.choice(ODD))
    elif how == "more":
        cells.insert(draw.randint(0, len(cells)), str(draw.choice(ODD)))
    elif how == "less":
        cells.pop()
    elif how == "header":
        rows[0] = draw.sample(
            ["path", "label", "class", "start", "end", "split", "x", "", "fps"], 2
        )
    elif how == "double":
        rows.append(cells)
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    data = text.getvalue().encode("utf-8", "surrogateescape")
    if how == "latin-1":
        data += "videos/jump/é.mp4,jump\n".encode("latin-1")
    elif how == "nul":
        data = data[:20] + b"\0" + data[20:]
    path.write_bytes(data)
    return f"{how} in row {row + 1}"


def _places(node: Any, parents: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in list(items):
        yield parents, key
        if isinstance(value, dict | list):
            yield from _places(value, (*parents, key))


def _write(path: Path, data: bytes) -> None:
    path.unlink()  # another file may be a link to the same bytes
    path.write_bytes(data)


def _dump_torch(path: Path, content: Any) -> None:
    path.unlink()
    torch.save(content, path)


FORMATS: dict[str, tuple[Callable[[Path], Any], Callable[[Path, Any], Any]]] = {
    ".ckpt": (lambda path: torch.load(path, weights_only=True), _dump_torch),
    ".json": (
        lambda path: json.loads(path.read_text()),
        lambda path, content: path.write_text(json.dumps(content)),
    ),
    ".yaml": (
        lambda path: yaml.safe_load(path.read_text()),
        lambda path, content: path.write_text(yaml.safe_dump(content)),
    ),
    ".jsonl": (
        lambda path: [json.loads(line) for line in path.read_text().split("\n") if line],
        lambda path, rows: path.write_text("".join(json.dumps(row) + "\n" for row in rows)),
    ),
}
ANY: tuple[Damage, ...] = (_bytes, _bytes, _other)
NESTED: tuple[Damage, ...] = (*ANY, _values, _values, _values)
TABLE: tuple[Damage, ...] = (*ANY, _rows, _rows, _rows)

# A file of the sandbox, the command that reads it, and how it may be damaged.
READERS: tuple[tuple[str, tuple[str, ...], tuple[Damage, ...]], ...] = (
    ("videos/jump/0.mp4", ("vivit", "predict", "../run", "../videos/jump/0.mp4"), ANY),
    ("videos/jump/1.mkv", ("vivit", "predict", "../run", "../videos/jump/1.mkv"), ANY),
    ("videos/run/2.avi", ("vivit", "check", "data=folder", "data.root=../videos"), ANY),
    ("videos/run/1.mkv", ("vivit", "evaluate", "../run"), ANY),
    ("videos/run/0.mp4", ("train.py", *TRAIN), ANY),
    (
        "videos/run/0.mp4",
        ("vivit", "prepare", "data=folder", "data.root=../videos", "--output", "../out"),
        ANY,
    ),
    ("videos/vivit_check.jsonl", ("train.py", *TRAIN), NESTED),
    ("videos/vivit_check.jsonl", ("vivit", "check", "data=folder", "data.root=../videos"), NESTED),
    ("names.csv", ("train.py", *LIST, "data.train_split=names.csv", *SETTINGS), TABLE),
    ("names.csv", ("vivit", "check", *LIST, "data.train_split=names.csv"), TABLE),
    ("numbers.txt", ("vivit", "check", *LIST, "data.train_split=numbers.txt"), TABLE),
    ("classes.txt", ("vivit", "check", *LIST, "data.train_split=numbers.txt"), TABLE),
    ("shards/train-000000.tar", ("vivit", "check", "data=webdataset", "data.root=../shards"), ANY),
    (
        "shards/vivit_index.jsonl",
        ("train.py", "data=webdataset", "data.root=../shards", *SETTINGS),
        NESTED,
    ),
    ("run/config.yaml", ("vivit", "evaluate", "../run"), NESTED),
    ("run/config.yaml", ("train.py", "ckpt_path=../run/checkpoints/last.ckpt"), NESTED),
    ("run/checkpoints/best.ckpt", ("vivit", "predict", "../run", "../videos/jump/0.mp4"), NESTED),
    ("run/checkpoints/best.ckpt", ("vivit", "evaluate", "../run"), NESTED),
    (
        "run/checkpoints/best.ckpt",
        ("vivit", "export", "../run", "--format", "safetensors", "--output", "../out"),
        NESTED,
    ),
    (
        "run/checkpoints/last.ckpt",
        ("train.py", "ckpt_path=../run/checkpoints/last.ckpt", "trainer.max_epochs=2"),
        NESTED,
    ),
    (
        "run/checkpoints/last.ckpt",
        ("train.py", "run_dir=../run", "ckpt_path=auto", *TRAIN, "trainer.max_epochs=2"),
        NESTED,
    ),
    ("run/metrics.csv", ("train.py", "run_dir=../run", "ckpt_path=last"), TABLE),
    ("run/metrics.csv", ("vivit", "compare", "../run"), TABLE),
    ("run/results.json", ("vivit", "compare", "../run"), NESTED),
    (
        "huggingface/config.json",
        ("vivit", "predict", "../huggingface", "../videos/jump/0.mp4"),
        NESTED,
    ),
    (
        "huggingface/preprocessor_config.json",
        ("vivit", "predict", "../huggingface", "../videos/jump/0.mp4"),
        NESTED,
    ),
    (
        "huggingface/model.safetensors",
        ("train.py", *TRAIN, "model.pretrained=../huggingface"),
        ANY,
    ),
    (
        "safetensors/model.safetensors",
        ("vivit", "predict", "../safetensors", "../videos/jump/0.mp4"),
        ANY,
    ),
)
