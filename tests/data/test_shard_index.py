import gzip
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
import webdataset

from tests.data.tar_shards import samples, write_tar
from vivit_train.data import shard_index
from vivit_train.data.shard_index import (
    FILE_NAME,
    Fields,
    Shard,
    ShardFault,
    index_shard,
    index_shards,
)
from vivit_train.data.shards import connect, find_shards
from vivit_train.errors import UserError

VIDEO = b"video " * 300


def look(path: Path, label_key: str | None = None) -> Shard:
    found = find_shards(str(path.parent), [path.name])
    return index_shard(str(path.parent), path.name, found[path.name], Fields(label_key))


def index(root: Path, label_key: str | None = None, folder: Path | None = None) -> list[Shard]:
    found = find_shards(str(root), ["*.tar"])
    return index_shards(str(root), found, Fields(label_key), folder or root)


def contents(path: Path, shard: Shard) -> list[bytes]:
    whole = path.read_bytes()
    return [whole[start : start + size] for start, size in zip(shard.starts, shard.sizes)]


def test_what_video2dataset_writes(tmp_path: Path) -> None:
    """A json for every row of the input table; no video where one was not to be had."""
    failed = {"status": "failed_to_download", "error_message": "gone", "label": "run"}
    members = [
        *samples(VIDEO, ["run", "jump"]),
        ("00000002.json", failed), ("00000002.txt", "run"),
        ("00000003.txt", "alone"),
        *samples(b"other", ["run"], first=4),
    ]  # fmt: skip
    path = write_tar(tmp_path / "00000.tar", members)
    shard = look(path)
    assert shard.members == ["00000000.mp4", "00000001.mp4", "00000004.mp4"]
    assert contents(path, shard) == [VIDEO, VIDEO, b"other"]
    assert shard.labels == ["run", "jump", "run"]
    assert shard.sources == ["json label"]
    assert shard.skipped == {"failed_to_download": 1, "no video": 1}


def test_the_webdataset_library_agrees(tmp_path: Path) -> None:
    """What its writer writes, and what its reader makes of it: keys, videos and labels."""
    path = tmp_path / "0.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for i in range(5):
            writer.write(
                {"__key__": f"folder.d/{i}", "mp4": VIDEO + bytes([i]), "cls": i, "json": {"a": i}}
            )
        writer.write({"__key__": "x" * 150, "deep.webm": VIDEO, "cls": 7})
    read = [
        (sample["__key__"], sample.get("mp4", sample.get("deep.webm")), sample["cls"].decode())
        for sample in webdataset.WebDataset(str(path), shardshuffle=False)
    ]
    shard = look(path)
    names = [name.removesuffix(".mp4").removesuffix(".deep.webm") for name in shard.members]
    assert names == [key for key, _, _ in read]
    assert len(names) == 6
    assert contents(path, shard) == [video for _, video, _ in read]
    assert shard.labels == [label for _, _, label in read]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_folders_and_what_is_no_sample(tmp_path: Path, form: int) -> None:
    key = "a folder/" + "long " * 40 + "é"
    members = [("README", "hello"), ("._a.mp4", b"of a Mac"), (f"{key}.cls", "3\n")]
    path = write_tar(tmp_path / "0.tar", [*members, (f"{key}.MP4", VIDEO)], format=form)
    with tarfile.open(path, "a") as tar:
        folder = tarfile.TarInfo("some.folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    shard = look(path)
    assert shard.members == [f"{key}.MP4"]
    assert contents(path, shard) == [VIDEO]
    assert shard.labels == ["3"]
    assert shard.skipped == {"no video": 1, "with a dot at the beginning": 1}


@pytest.mark.parametrize(
    ("label_key", "beside", "label", "sources"),
    [
        (None, {"cls": "4", "json": {"label": "b"}, "txt": "c"}, "4", ["cls"]),
        (None, {"json": {"class_name": "x", "class": 3, "caption": "z"}}, "3", ["json class"]),
        (None, {"json": {"label": None, "caption": "z"}, "txt": "c "}, "c", ["txt"]),
        (None, {"json": {"caption": "z"}}, "z", ["json caption"]),
        (None, {"json": {"other": "z"}}, None, []),
        (None, {}, None, []),
        ("other", {"json": {"other": 0, "label": "b"}, "cls": "4"}, "0", ["json other"]),
        ("other", {"cls": "4"}, None, []),
        ("txt", {"cls": "4", "txt": "\ufeffc"}, "c", ["txt"]),
        ("cls", {"txt": "c"}, None, []),
        ("cls", {"cls": " \n"}, None, []),
    ],
)
def test_where_labels_are(
    tmp_path: Path, label_key: str | None, beside: dict[str, Any], label: str, sources: list[str]
) -> None:
    members = [("a.mp4", VIDEO), *((f"a.{kind}", content) for kind, content in beside.items())]
    shard = look(write_tar(tmp_path / "0.tar", members), label_key)
    assert (shard.labels, shard.sources) == ([label], sources)


def cut(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        (0, "empty file"),
        (512 + 1024, "unexpected end of data"),  # within the first video
        (512 + 2048, "the end of the archive is missing"),  # between two members
        (512 + 2048 + 100, "the end of the archive is missing|damaged"),  # within a header
        (2 * (512 + 2048), "the end of the archive is missing"),  # behind the last
    ],
)
def test_a_shard_that_is_cut_off(tmp_path: Path, size: int, reason: str) -> None:
    path = write_tar(tmp_path / "0.tar", [("a.mp4", VIDEO), ("b.mp4", VIDEO)])
    assert len(VIDEO) <= 2048
    cut(path, size)
    with pytest.raises(ShardFault, match=reason):
        look(path)


def test_a_damaged_header(tmp_path: Path) -> None:
    """tarfile takes it for the end."""
    path = write_tar(tmp_path / "0.tar", [("a.mp4", VIDEO), ("b.mp4", VIDEO)])
    with path.open("r+b") as file:
        file.seek(512 + 2048 + 10)
        file.write(b"rubbish")
    with tarfile.open(path) as tar:
        assert tar.getnames() == ["a.mp4"]
    with pytest.raises(ShardFault, match="damaged, .* no member begins at byte 2560"):
        look(path)


def test_two_archives_in_one(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", [("a.mp4", VIDEO)])
    other = write_tar(tmp_path / "1.tar", [("b.mp4", VIDEO)])
    path.write_bytes(path.read_bytes() + other.read_bytes())
    with pytest.raises(ShardFault, match="several archives in one"):
        look(path)


def test_a_compressed_shard(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", [("a.mp4", VIDEO)])
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(ShardFault, match="compressed or no tar"):
        look(path)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("a.mp4", b"1"), ("b.mp4", b"2"), ("a.cls", "3")], "the sample a is there twice"),
        ([("a.mp4", b"1"), ("a.webm", b"2")], "a has 2 videos: a.mp4, a.webm"),
        ([("a.mp4", b"1"), ("a.json", "{")], "the json, cls or txt of a is not as it should be"),
        ([("a.mp4", b"1"), ("a.cls", b"\xff")], "the json, cls or txt of a is not as it should"),
        ([("a.mp4", b"1"), ("a.json", "[1]")], "a.json holds no fields"),
        ([("a.mp4", b"1"), ("a.json", {"label": ["x", "y"]})], r"a \(json label\) is \['x', 'y'\]"),
        ([("a.mp4", b"1"), ("a.json", {"label": True})], "is True, not one name or number"),
        ([("a.mp4", b"1"), ("a.json", {"label": 0.5})], "is 0.5, not one name or number"),
    ],
)
def test_samples_that_cannot_be_told(tmp_path: Path, members: Any, reason: str) -> None:
    with pytest.raises(ShardFault, match=reason):
        look(write_tar(tmp_path / "0.tar", members))


def test_a_link_in_place_of_a_video(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        link = tarfile.TarInfo("a.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "b.mp4"
        tar.addfile(link)
    with pytest.raises(ShardFault, match=r"a\.mp4 is a link or a sparse file"):
        look(tmp_path / "0.tar")


def test_every_faulty_shard_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(4):
        write_tar(tmp_path / f"{i}.tar", samples(VIDEO, "ab"))
    cut(tmp_path / "1.tar", 1000)
    cut(tmp_path / "3.tar", 0)
    with pytest.raises(UserError) as caught:
        index(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"2 of the 4 shards under {tmp_path} cannot be used: 1.tar: ")
    assert "3.tar: empty file" in message
    (tmp_path / "1.tar").unlink()
    (tmp_path / "3.tar").unlink()
    capsys.readouterr()
    assert [shard.name for shard in index(tmp_path)] == ["0.tar", "2.tar"]
    assert capsys.readouterr().err == ""  # the others were kept


def test_the_index_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(3):
        write_tar(tmp_path / f"{i}.tar", samples(VIDEO, "ab"))
    first = index(tmp_path)
    said = capsys.readouterr().err
    assert f"indexing 3 shards of {tmp_path} into {tmp_path / FILE_NAME}, once" in said
    assert "6 videos in " in said
    looked_at = []
    plain = shard_index.index_shard

    def note(root: str, name: str, *args: Any) -> Shard:
        looked_at.append(name)
        return plain(root, name, *args)

    monkeypatch.setattr(shard_index, "index_shard", note)
    assert index(tmp_path) == first
    assert looked_at == []
    write_tar(tmp_path / "1.tar", samples(VIDEO, "abc"))
    write_tar(tmp_path / "3.tar", samples(VIDEO, "a"))
    with pytest.warns(UserWarning, match=r"1 shards of .* indexed again: 1\.tar"):
        second = index(tmp_path)
    assert sorted(looked_at) == ["1.tar", "3.tar"]
    assert [len(shard.members) for shard in second] == [2, 3, 2, 1]
    assert second[0] == first[0]
    looked_at.clear()
    with pytest.warns(UserWarning, match="indexed again"):
        assert index(tmp_path, "key")[0].labels == ["00000000", "00000001"]
    assert len(looked_at) == 4


def test_an_index_that_was_broken_off(tmp_path: Path) -> None:
    for i in range(2):
        write_tar(tmp_path / f"{i}.tar", samples(VIDEO, "ab"))
    whole = index(tmp_path)
    lines = (tmp_path / FILE_NAME).read_text()
    (tmp_path / FILE_NAME).write_text(lines[:-40] + "\nnull\n[]\n" + '{"name": "0.tar", "x": 1')
    assert index(tmp_path) == whole
    kept = [line for line in (tmp_path / FILE_NAME).read_text().splitlines() if line]
    assert json.loads(kept[-1])["name"] in ("0.tar", "1.tar")
    assert index(tmp_path) == whole


def test_an_index_beside_shards_that_is_not_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, ours = tmp_path / "shared", tmp_path / "ours"
    ours.mkdir()
    write_tar(root / "0.tar", samples(VIDEO, "ab"))
    index(root)
    before = (root / FILE_NAME).stat()
    write_tar(root / "1.tar", samples(VIDEO, "a"))
    capsys.readouterr()
    assert [len(shard.members) for shard in index(root, folder=ours)] == [2, 1]
    assert "indexing 1 shards" in capsys.readouterr().err
    assert (root / FILE_NAME).stat().st_mtime_ns == before.st_mtime_ns
    assert len((ours / FILE_NAME).read_text().split()) > 1


def test_an_index_that_cannot_be_written(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", samples(VIDEO, "ab"))
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(UserError, match=r"written to .*jsonl \(Is a directory\): .*index_dir"):
        index(tmp_path)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"a\xff.mp4")
    write_tar(tmp_path / "0.tar", [(name, VIDEO)])
    index(tmp_path)
    assert index(tmp_path)[0].members == [name]


def test_a_store_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers and labels alone: of ten videos of 200 kB each not even half."""
    path = write_tar(tmp_path / "0.tar", samples(bytes(200_000), "ab" * 5))
    files, _ = connect("memory://store")
    files.pipe("/store/0.tar", path.read_bytes())
    fetched = []
    plain = type(files).cat_file

    def cat_file(self: Any, path: str, start: int, end: int) -> bytes:
        fetched.append(end - start)
        return plain(self, path, start=start, end=end)

    monkeypatch.setattr(type(files), "cat_file", cat_file)
    (shard,) = index_shards(
        "memory://store", find_shards("memory://store", ["*.tar"]), Fields(), tmp_path
    )
    assert shard.starts == look(path).starts
    assert shard.labels == ["a", "b"] * 5
    assert sum(fetched) < path.stat().st_size / 2
    assert len(fetched) <= 12


@pytest.mark.parametrize("name", [FILE_NAME, f"{FILE_NAME}.lock"])
def test_a_link_in_the_place_of_the_index_is_not_followed(name: str, tmp_path: Path) -> None:
    """It would add a line to any file of the user's; member names may be shell code."""
    root, victim = tmp_path / "from strangers", tmp_path / ".bashrc"
    victim.write_text("alias ll='ls -l'\n")
    write_tar(root / "0.tar", [("a0$(touch X).mp4", VIDEO), ("a0$(touch X).cls", "run")])
    (root / name).symlink_to(victim)
    with pytest.raises(UserError, match=rf"{name} is a link to .*bashrc: .* nothing is written"):
        index(root)
    assert victim.read_text() == "alias ll='ls -l'\n"
    # Elsewhere, as the command lets its user choose, the index is written.
    (tmp_path / "ours").mkdir()
    assert index(root, folder=tmp_path / "ours")[0].members == ["a0$(touch X).mp4"]


def test_an_index_that_names_bytes_outside_of_its_shard_is_not_used(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", samples(VIDEO, "ab"))
    (whole,) = index(tmp_path)
    good = json.loads((tmp_path / FILE_NAME).read_text())
    for changes in (
        {"starts": [-1, 0]}, {"sizes": [10**12, 1]}, {"starts": good["starts"][:1]},
        {"members": ["a", 3]}, {"labels": None}, {"size": str(good["size"])},
    ):  # fmt: skip
        (tmp_path / FILE_NAME).write_text(json.dumps(good | changes))
        assert index(tmp_path) == [whole]
