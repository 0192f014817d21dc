import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.data.tiny import TINY
from vivit_train.data import demo
from vivit_train.data.demo import Demo
from vivit_train.data.demo_clips import CLASS_NAMES
from vivit_train.errors import UserError
from vivit_train.io.quiet import hush_lightning


def build(root: Path, train_per_class: int = 1, val_per_class: int = 1, **kwargs: Any) -> Demo:
    counts = {"train_per_class": train_per_class, "val_per_class": val_per_class}
    return Demo(root=root, name="demo", **TINY | counts | {"clip_frames": 4} | kwargs)


def test_the_first_run_writes_it_and_the_next_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    root = tmp_path / "not yet" / "demo"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)  # in this process
    hush_lightning()  # which says nothing of our own lines
    first = build(root)
    first.setup()
    line = f"writing 16 demo clips to {root}, once\n"
    assert capsys.readouterr().err.startswith(line)
    assert first.class_names == list(CLASS_NAMES)
    assert [len(first.records[role]) for role in ("train", "val", "test")] == [8, 8, 8]
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    build(root).setup()
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert "writing" not in capsys.readouterr().err


def test_clips_are_those_of_the_recipe(demo_root: Path) -> None:
    data = build(demo_root, 4, 2)
    data.setup()
    assert [len(data.records[role]) for role in ("train", "val")] == [32, 16]
    for role in ("train", "val"):
        for i, label in enumerate(data.records[role].labels):
            folder, name, _ = data.records[role].relative_path(i).split("/")
            assert (folder, name) == (role, CLASS_NAMES[label])


def test_two_objects_of_two_classes(tmp_path: Path) -> None:
    data = build(tmp_path / "two", 7, 1, multi_label=True)
    data.setup()
    assert data.class_names == list(CLASS_NAMES)
    assert [len(data.records[role]) for role in ("train", "val")] == [56, 8]
    labels = data.records["train"].labels
    assert set(labels.sum(axis=1)) == {2}
    assert set(labels.sum(axis=0)) == {14}  # each class with each other one, twice
    assert len({tuple(row) for row in labels.tolist()}) == 28
    assert data.records["train"].path(0).is_file()
    with pytest.raises(UserError, match=r"objects.*asked for is.*experiment=demo_multi_label has"):
        build(tmp_path / "two", 7, 1).setup()


def write_slowly(root: Path, train_per_class: int, val_per_class: int, multi_label: bool) -> None:
    """Stands in for `write_demo`: like it, it writes only what is not there."""
    with (root.parent / "log").open("a") as log:
        log.write("+")
    if root.exists():
        return
    staging = root.with_name("partial")  # a second writer would write there, too
    for split, name in (("train", "a"), ("val", "a")):
        (staging / split / name).mkdir(parents=True)
    time.sleep(0.5)
    with (root.parent / "log").open("a") as log:
        log.write("w")
    (staging / "demo.json").write_text("{}")
    staging.rename(root)


def setup_in_a_process(root: Path, gate: Any, seen: Any) -> None:
    demo.write_demo = write_slowly
    data = build(root)
    # What is asked after the lock is released: is the data set whole?
    Demo.__mro__[1].setup = lambda self, stage=None: seen.put((root / "demo.json").is_file())
    gate.wait()
    data.setup()


def test_processes_that_start_at_once_write_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    gate, seen = context.Barrier(2), context.Queue()
    root = tmp_path / "demo"
    processes = [
        context.Process(target=setup_in_a_process, args=(root, gate, seen)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    assert [seen.get(timeout=30) for _ in processes] == [True, True]
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0]
    assert (tmp_path / "log").read_text() == "+w+"


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((0, 1), "train_per_class=0 must be at least 1"),
        ((1, 0), "val_per_class=0 must be at least 1"),
    ],
)
def test_counts(tmp_path: Path, counts: tuple[int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(tmp_path / "demo", *counts).setup()
    assert not (tmp_path / "demo").exists()


def test_another_recipe_is_not_overwritten(demo_root: Path) -> None:
    before = (demo_root / "demo.json").read_text()
    with pytest.raises(UserError, match=r"holds .*4.* asked for is .*5.*: delete the folder"):
        build(demo_root, 5, 2).setup()
    assert (demo_root / "demo.json").read_text() == before
    assert json.loads(before)["train_per_class"] == 4


def test_something_else_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="holds something other than demo clips"):
        build(tmp_path / "demo").setup()
    assert os.listdir(tmp_path / "demo") == ["thesis.tex"]
    assert os.listdir(tmp_path) == ["demo"]  # no lock beside a folder of the user's


def test_no_root() -> None:
    with pytest.raises(UserError, match=r"data\.root is not set"):
        build(None)  # type: ignore[arg-type]
