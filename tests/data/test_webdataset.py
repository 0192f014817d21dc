import argparse
import itertools
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import SMALL
from tests.data.tar_shards import put_into_store, samples, write_tar
from tests.data.test_datamodule import attach
from tests.data.tiny import TINY
from vivit_train.commands import check as check_command
from vivit_train.data.check import check, jobs_of
from vivit_train.data.folder import Folder
from vivit_train.data.rates import video_rates
from vivit_train.data.shards import connect
from vivit_train.data.verdicts import FILE_NAME as VERDICTS
from vivit_train.data.verdicts import read_verdicts
from vivit_train.data.webdataset import WebDataset
from vivit_train.errors import UserError
from vivit_train.video.guard import CAN_GUARD
from vivit_train.video.write import write_video

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
needs_fork = pytest.mark.skipif(not CAN_GUARD, reason="needs fork")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Twelve videos that differ."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    found = []
    for i in range(12):
        write_video(path, np.full((4, 32, 32, 3), 20 * i, np.uint8))
        found.append(path.read_bytes())
    return found


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where indexes go that cannot lie beside their shards."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vivit_train"


def build(root: Path | str | None, **kwargs: Any) -> WebDataset:
    options = {"root": root and str(root), "name": "webdataset"}
    return WebDataset(**TINY | options | kwargs)


def write_shards(root: Path, clips: Sequence[bytes], names: Sequence[str], each: int = 4) -> None:
    """Shards of ``each`` videos of the classes a and b by turns; keys count through all."""
    for number, name in enumerate(names):
        some = clips[number * each : (number + 1) * each]
        members = [
            member
            for i, clip in enumerate(some)
            for member in samples(clip, ["ab"[i % 2]], first=number * each + i)
        ]
        write_tar(root / name, members)


def listed(data: WebDataset, role: str) -> list[tuple[str, str]]:
    """(name, class name) of every video of a split."""
    records = data.records[role]
    return [(records.name(i), data.class_names[label]) for i, label in enumerate(records.labels)]


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("train/0.tar", "train/1.tar", "val/0.tar"), ()),
        (("train-000.tar", "train_001.tar", "val-0.tar"), ()),
        (("train.tar", "train-1.tar", "val.tar"), ()),
        (("0.tar", "1.tar", "x/2.tar"), ("{0..1}.tar", "x/*.tar", "x/{2,2}.tar")),
        (("0.tar", "1.tar", "2.tar"), ("[01].tar", "2.tar", "2.tar")),
    ],
)
def test_splits(tmp_path: Path, clips: list[bytes], names: Sequence[str], splits: Any) -> None:
    write_shards(tmp_path, clips, names)
    data = build(tmp_path, **dict(zip(("train_split", "val_split", "test_split"), splits)))
    data.setup()
    assert data.class_names == ["a", "b"]
    keys = {role: [Path(name).stem for name, _ in listed(data, role)] for role in data.records}
    assert sorted(keys["train"]) == [f"{i:08}" for i in range(8)]
    assert keys["val"] == keys["test"] == [f"{i:08}" for i in range(8, 12)]
    assert [label for _, label in listed(data, "val")] == ["a", "b", "a", "b"]


def test_videos_in_shards_tell_their_rates(tmp_path: Path, clips: list[bytes]) -> None:
    write_shards(tmp_path, clips, ["train/0.tar", "val/0.tar"])
    data = build(tmp_path)
    data.setup()
    assert list(video_rates(data.records["train"]).values()) == [30] * 4


def test_shards_of_a_test_split_are_used(tmp_path: Path, clips: list[bytes]) -> None:
    write_shards(tmp_path, clips, ["train/0.tar", "val/0.tar", "test/0.tar"])
    data = build(tmp_path)
    data.setup()
    assert data.splits["test"] == "test"
    assert listed(data, "test") != listed(data, "val")


def test_a_part_is_set_aside(tmp_path: Path, clips: list[bytes]) -> None:
    """The same videos as in a data set of files with the same names."""
    write_shards(tmp_path, clips, ["0.tar", "1.tar", "2.tar"])
    data = build(tmp_path, val_fraction=0.4)
    data.setup()
    train, val = set(listed(data, "train")), set(listed(data, "val"))
    assert len(train | val) == 12
    assert not train & val
    assert {label for _, label in train} == {label for _, label in val} == {"a", "b"}
    rows = "\n".join(f"{name},{label}" for name, label in sorted(train | val))
    (tmp_path / "list").mkdir()
    (tmp_path / "list/videos.csv").write_text(rows)
    files = Folder(root=str(tmp_path / "list"), name="folder", val_fraction=0.4, **TINY)
    records, _ = files.read_split("val")
    assert {records.name(i) for i in range(len(records))} == {name for name, _ in val}


@pytest.mark.parametrize("train", ["train", "train-{0..1}.tar"])
@pytest.mark.parametrize("test", ["test-0.tar", "other.tar"])
def test_validation_is_held_out_from_the_shards_of_train(
    tmp_path: Path, clips: list[bytes], train: str, test: str
) -> None:
    write_shards(tmp_path, clips, ["train-0.tar", "train-1.tar", test])
    data = build(tmp_path, train_split=train)
    data.setup()
    held, rest = set(listed(data, "val")), set(listed(data, "train"))
    assert not held & rest
    assert {name.split("/")[0] for name, _ in held | rest} == {"train-0.tar", "train-1.tar"}
    assert (len(held), len(rest)) == (2, 6)
    is_found = (train, test) == ("train", "test-0.tar")
    assert set(listed(data, "test")) == held or is_found
    assert data.tests_on_validation != is_found


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["train/0.tar"], {"val_split": "x"}, "has shards of train but none of x: expected x/"),
        (["0.tar"], {"test_split": "x"}, "nothing under .* names a split 'x': leave"),
        (["0.tar.gz", "1.tgz"], {}, r"no tar shards.*0\.tar\.gz, 1\.tgz are compressed"),
        ([], {}, r"holds no tar shards. Expected train/\*.tar.*train-{000..146}.tar"),
        (["0.tar"], {"train_split": "x-*.tar"}, r"no shard under .* matches 'x-\*.tar'"),
        (["0.tar"], {"train_split": "{0..1}.tar"}, r"1 of the 2 shards .* do not exist: 1\.tar"),
    ],
)
def test_shards_that_are_not_there(
    tmp_path: Path, clips: list[bytes], names: list[str], options: dict[str, str], message: str
) -> None:
    write_shards(tmp_path, clips, names)
    with pytest.raises(UserError, match=message):
        build(tmp_path, **options).setup()


def test_a_root_that_is_not_there(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(UserError, match=r"data\.root=.*nothing is not a folder"):
        build(tmp_path / "nothing").setup()
    with pytest.raises(UserError, match=r"data\.root is not set"):
        build(None)
    assert not cache.exists()


def test_a_truncated_shard(tmp_path: Path, clips: list[bytes]) -> None:
    write_shards(tmp_path, clips, ["train/0.tar", "train/1.tar", "val/0.tar"])
    os.truncate(tmp_path / "train/1.tar", 2000)
    with pytest.raises(UserError, match=r"1 of the 2 shards .* cannot be used: train/1\.tar: .*"):
        build(tmp_path).setup()


@pytest.mark.parametrize("place", ["classes.txt", "train/labels.txt"])
def test_labels_by_number(tmp_path: Path, clips: list[bytes], place: str) -> None:
    write_tar(tmp_path / "train/0.tar", samples(clips[0], [2, "0"]))
    data = build(tmp_path)
    with pytest.raises(UserError, match=r"labels are numbers .* put a file classes\.txt into"):
        data.read_split("train")
    (tmp_path / place).write_text("x\ny\n")
    with pytest.raises(UserError, match=r"has label 2 but .*\.txt names only 2 cl"):
        data.read_split("train")
    (tmp_path / place).write_text("x\ny\nz\n")
    records, names = data.read_split("train")
    assert (records.labels.tolist(), names) == ([2, 0], ["x", "y", "z"])


def test_numbers_begin_at_0_where_another_split_shows_it(
    tmp_path: Path, clips: list[bytes]
) -> None:
    write_tar(tmp_path / "val/0.tar", samples(clips[0], [1]))
    (tmp_path / "classes.txt").write_text("x\ny\nz\n")
    with pytest.raises(UserError, match="labels begin at 1, and .*classes.txt does not say"):
        build(tmp_path).read_split("val")
    write_tar(tmp_path / "train/0.tar", samples(clips[0], [2, "0"]))
    assert build(tmp_path).read_split("val")[0].labels.tolist() == [1]


def labelled(root: Path, clip: bytes, *beside: dict[str, Any], **options: Any) -> WebDataset:
    members = [
        member
        for i, sidecars in enumerate(beside)
        for member in [(f"{i}.mp4", clip), *((f"{i}.{k}", v) for k, v in sidecars.items())]
    ]
    write_tar(root / "0.tar", members)
    return build(root, **options)


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        ([{"cls": "a"}, {}], r"1 videos have no label: 0\.tar/1\.mp4. Looked for cls, json"),
        ([{"cls": "a"}, {"txt": "b"}], "some videos have their label from cls, others from txt"),
        ([{"cls": "1"}, {"cls": "-1"}], r"0\.tar/1\.mp4: the label '-1' is neither a name nor"),
        ([{"cls": "1"}, {"cls": "run"}], r"0\.tar/1\.mp4: the label 'run' is a name, but '1' \("),
        ([{"cls": "1" * 6000}], r"0\.tar/0\.mp4: the label '1{120}\.\.\.' is neither a name"),
        ([{"txt": f"a film of {i}"} for i in range(4)], "4 videos have 4 different txt: .*key=txt"),
        (
            [{"json": {"caption": f"{i} men"}} for i in range(4)],
            "different json caption: these are captions.*data.label_key=caption if this is it",
        ),
    ],
)
def test_labels_that_are_none(
    tmp_path: Path, clips: list[bytes], beside: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        labelled(tmp_path, clips[0], *beside).setup()


def test_a_label_key(tmp_path: Path, clips: list[bytes]) -> None:
    beside = [{"json": {"caption": f"{i} men", "kind": "ab"[i % 2]}} for i in range(6)]
    data = labelled(tmp_path, clips[0], *beside, label_key="kind")
    data.setup()
    assert data.class_names == ["a", "b"]
    captions = labelled(tmp_path, clips[0], *beside, label_key="caption")
    with pytest.warns(UserWarning, match="indexed again"):
        _, names = captions.read_split("train")
    assert names == [f"{i} men" for i in range(6)]
    data = labelled(tmp_path, clips[0], *beside, label_key="knd")
    with (
        pytest.warns(UserWarning, match="indexed again"),
        pytest.raises(UserError, match="6 videos have no label.*Looked for knd beside each"),
    ):
        data.setup()


def test_a_field_says_what_stays_together(tmp_path: Path, clips: list[bytes]) -> None:
    """Three clips of each of four films; the json tells the film by a number."""
    beside = [{"json": {"label": "ab"[i % 2], "film": i // 3}} for i in range(12)]
    data = labelled(tmp_path, clips[0], *beside, group="film", val_fraction=0.25)
    data.setup()
    films = {
        role: {int(Path(name).stem) // 3 for name, _ in listed(data, role)}
        for role in ("train", "val")
    }
    assert [len(films[role]) for role in ("train", "val")] == [3, 1]
    assert not films["train"] & films["val"]
    again = build(tmp_path, group="film", val_fraction=0.25)
    again.setup()  # from the index
    assert listed(again, "val") == listed(data, "val")
    by_name = build(tmp_path, group=r"(\d)\d?\.mp4")
    with pytest.warns(UserWarning, match="indexed again"):
        by_name.setup()


@pytest.mark.parametrize(
    ("film", "message"),
    [
        (None, r"data.group=film: the json of 1 of 2 videos has no such field: 0\.tar/1\.mp4. Nam"),
        (["x"], r"the group of 1 \(json film\) is \['x'\], not one name or number"),
    ],
)
def test_a_group_that_a_sample_has_not(
    tmp_path: Path, clips: list[bytes], film: Any, message: str
) -> None:
    beside = [{"cls": "a", "json": {"film": "y"}}, {"cls": "a", "json": {"film": film}}]
    with pytest.raises(UserError, match=message):
        labelled(tmp_path, clips[0], *beside, group="film").setup()


def test_samples_without_video_are_counted(tmp_path: Path, clips: list[bytes]) -> None:
    gone = [(f"x{i}.json", {"status": "failed_to_download", "label": "a"}) for i in range(3)]
    odd = [("y.txt", "a"), ("z.divx", b""), ("._0.mp4", b"")]
    write_tar(tmp_path / "0.tar", [*samples(clips[0], "abab"), *gone, *odd])
    message = (
        "6 of the 10 samples in the shards of .* are left out: 3 failed_to_download, 2 no video, "
        "1 with a dot at the beginning"
    )
    with pytest.warns(UserWarning, match=message):
        build(tmp_path).setup("fit")


@pytest.mark.parametrize("writable", [True, False])
def test_where_the_index_lies(
    tmp_path: Path, clips: list[bytes], cache: Path, monkeypatch: pytest.MonkeyPatch, writable: bool
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: writable)
    root = tmp_path / "data"
    write_shards(root, clips, ["0.tar"])
    build(root).setup()
    indexes = [path.parent for path in tmp_path.rglob("vivit_index.jsonl")]
    assert len(indexes) == 1
    assert indexes == [root] if writable else indexes[0].parent == cache
    build(root, index_dir=str(tmp_path / "chosen")).setup()
    assert (tmp_path / "chosen").is_dir()


def test_an_index_folder_that_cannot_be_made(tmp_path: Path, clips: list[bytes]) -> None:
    write_shards(tmp_path, clips, ["0.tar"])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file/x, cannot be made \(Not a directory\): choose"):
        build(tmp_path, index_dir=str(tmp_path / "file/x")).setup()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_clips_from_a_store_are_those_of_the_folder(
    tmp_path: Path, clips: list[bytes], cache: Path, num_workers: int
) -> None:
    root, url = tmp_path / "data", f"memory://clips{num_workers}/x"
    write_shards(root, clips, ["train/0.tar", "train/1.tar", "val/0.tar"])
    put_into_store(root, url)
    here, there = build(root), build(url, num_workers=num_workers)
    for data in (here, there):
        data.setup()
        attach(data, "fit")
    assert listed(here, "train") == listed(there, "train")
    assert here.records["train"].fingerprint("ab") == there.records["train"].fingerprint("ab")
    pairs = list(zip(here.train_dataloader(), there.train_dataloader(), strict=True))
    assert len(pairs) == 4
    for ours, theirs in pairs:
        assert ours.indices.tolist() == theirs.indices.tolist()
        assert all(torch.equal(a, b) for a, b in zip(ours.frames, theirs.frames))
        assert not theirs.broken
    assert there.root.parent == cache
    assert there.root.name.startswith("memory_clips")


def test_resuming_and_ranks_see_each_key_once(tmp_path: Path, clips: list[bytes]) -> None:
    write_shards(tmp_path, clips, ["train/0.tar", "train/1.tar", "val/0.tar"])
    data = build(tmp_path)
    data.setup()

    def epoch(**kwargs: Any) -> list[list[int]]:
        attach(data, "fit", **kwargs)
        data.trainer.num_training_batches = 4 // kwargs.get("world_size", 1)
        return [batch.indices.tolist() for batch in data.train_dataloader()]

    whole = epoch()
    assert sorted(itertools.chain(*whole)) == list(range(8))
    assert epoch(done=3) == whole[3:]
    ranks = [epoch(rank=rank, world_size=2) for rank in range(2)]
    assert sorted(itertools.chain(*ranks[0], *ranks[1])) == list(range(8))
    rows = []
    for rank in range(3):
        attach(data, "test", rank=rank, world_size=3)
        rows += [row for batch in data.test_dataloader() for row in batch.indices.tolist()]
    assert sorted(row for row in rows if row >= 0) == list(range(4))


def test_a_broken_video_gives_way(tmp_path: Path, clips: list[bytes]) -> None:
    members = samples(b"no video", "a") + samples(clips[0], "ab", first=1)
    write_tar(tmp_path / "train.tar", members)
    write_tar(tmp_path / "val.tar", samples(b"no video", "ab"))
    data = build(tmp_path, batch_size=3)
    data.setup()
    attach(data, "fit")
    (batch,) = data.train_dataloader()
    assert 0 not in batch.indices.tolist()
    assert {error.path for error in batch.broken} == {f"{tmp_path}/train.tar/00000000.mp4"}
    attach(data, "test")
    assert [b.decoded.tolist() for b in data.test_dataloader()] == [[False], [False]]


@needs_fork
def test_a_read_that_hangs_is_a_broken_video(
    tmp_path: Path, clips: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shards(tmp_path / "data", clips, ["train/0.tar", "val/0.tar"])
    put_into_store(tmp_path / "data", "memory://hangs")
    data = build("memory://hangs", decode_timeout=1.0, batch_size=4)
    data.setup()
    files, _ = connect("memory://hangs")
    plain, hanging = type(files).cat_file, data.records["train"].span(2).start

    def cat_file(self: Any, path: str, start: int, end: int) -> bytes:
        if start == hanging:
            time.sleep(100)
        return plain(self, path, start=start, end=end)

    monkeypatch.setattr(type(files), "cat_file", cat_file)
    attach(data, "fit")
    (batch,) = data.train_dataloader()
    assert {error.path for error in batch.broken} == {"memory://hangs/train/0.tar/00000002.mp4"}
    assert "no answer within 1 s" in batch.broken[0].reason
    assert 2 not in batch.indices.tolist()


def test_training_is_that_on_files(demo_root: Path, tmp_path: Path) -> None:
    """To the bit: the same videos in the same order, in shards with a label beside each."""
    from train import train
    from vivit_train.config import compose_config

    root = tmp_path / "shards"
    for split in ("train", "val"):
        members = [
            member
            for path in sorted((demo_root / split).rglob("*.mp4"))
            for name in [path.relative_to(demo_root / split).with_suffix("").as_posix()]
            for member in ((f"{name}.mp4", path.read_bytes()), (f"{name}.cls", path.parent.name))
        ]
        middle = len(members) // 4 * 2
        write_tar(root / f"{split}-0.tar", members[:middle])
        write_tar(root / f"{split}-1.tar", members[middle:])
    options = [word for word in SMALL if not word.startswith("data.") or "per_class" not in word]
    weights = []
    for name, folder in (("folder", demo_root), ("webdataset", root)):
        words = [f"data={name}", f"data.root={folder}", f"run_dir={tmp_path / name}"]
        run = train(compose_config([*words, "model=vivit_demo", *options, "optim.lr=1.0e-3"]))
        state = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        weights.append((state, json.loads((run / "results.json").read_text())["top1"]))
    (ours, our_top1), (theirs, their_top1) = weights
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert our_top1 == their_top1


@needs_fork
@pytest.mark.parametrize("store", ["folder", "memory"])
def test_checking_shards(
    tmp_path: Path, clips: list[bytes], capsys: pytest.CaptureFixture[str], store: str
) -> None:
    root, url = tmp_path / "data", "memory://checked"
    write_shards(root, clips, ["train/0.tar", "val/0.tar"])
    whole = samples(clips[8], "ab", first=90)
    write_tar(root / "train/1.tar", [*samples(b"no video", "a"), *whole])
    put_into_store(root, url)
    root_word = str(root) if store == "folder" else url

    def run() -> tuple[int, dict[str, Any]]:
        words = ["data=webdataset", "data.clip_frames=2", f"data.root={root_word}"]
        options = {"quick": False, "timeout": 60.0, "workers": 2, "output": None, "json": True}
        code = check_command.run(argparse.Namespace(overrides=words, **options))
        return code, json.loads(capsys.readouterr().out)

    code, found = run()
    assert (code, found["unusable"], found["checked_now"]) == (1, 1, 11)
    assert [row["video"] for row in found["bad"]] == ["train/1.tar/00000000.mp4"]
    assert run()[1]["checked_now"] == 0
    data = build(root_word)
    assert len(read_verdicts(data.root / VERDICTS)) == 11
    with pytest.warns(UserWarning, match="1 of the 7 training videos are left out"):
        data.setup()
    assert "train/1.tar/00000000.mp4" not in dict(listed(data, "train"))
    attach(data, "fit")
    assert not [batch for batch in data.train_dataloader() if batch.broken]

    write_tar(root / "train/1.tar", [*samples(clips[7], "a"), *whole])  # mended
    put_into_store(root, url, "train/1.tar")
    with pytest.warns(UserWarning, match=r"indexed again: train/1\.tar"):
        code, found = run()
    assert (code, found["checked_now"]) == (0, 3)


@needs_fork
def test_a_store_that_is_down_is_no_verdict(tmp_path: Path, clips: list[bytes]) -> None:
    write_shards(tmp_path, clips, ["0.tar"])
    data = build(tmp_path)
    data.setup()
    jobs = list(jobs_of(data.records.values(), data.root).values())
    os.utime(tmp_path / "0.tar", ns=(1, 1))
    with pytest.raises(UserError, match=r"shard has changed since .* run the same again when"):
        list(check(jobs))
