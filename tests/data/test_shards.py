import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import braceexpand
import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from vivit_train.data import shards as shards_module
from vivit_train.data.records import Records
from vivit_train.data.shards import (
    ReadError,
    ShardRecords,
    Span,
    Stat,
    connect,
    expand_braces,
    find_shards,
    is_remote,
    open_shard,
    read_range,
    read_text,
)
from vivit_train.errors import UserError
from vivit_train.video.guard import CAN_GUARD, Guard
from vivit_train.video.watch import watched

CONTENT = bytes(range(256)) * 1000


class FlakyStore(MemoryFileSystem):
    """A store in memory that fails as often as it is told to."""

    protocol = "flaky"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    errors: ClassVar[list[Exception]] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("flaky://"))

    def cat_file(self, path: str, *args: Any, **kwargs: Any) -> bytes:
        if self.errors:
            raise self.errors.pop(0)
        return super().cat_file(path, *args, **kwargs)


fsspec.register_implementation("flaky", FlakyStore, clobber=True)


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Exception]]:
    """flaky://bucket/0.tar; what is put into the list is raised by the next reads."""
    monkeypatch.setattr(shards_module, "PAUSES", (0, 0, 0))
    connect("flaky://bucket")[0].pipe("/bucket/0.tar", CONTENT)
    yield FlakyStore.errors
    FlakyStore.errors.clear()
    FlakyStore.store.clear()


class Ranges(SimpleHTTPRequestHandler):
    """Python's file server, which knows no ranges, with ranges."""

    def do_GET(self) -> None:
        content = Path(self.translate_path(self.path)).read_bytes()
        start, end = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        self.send_response(206)
        self.send_header("Content-Length", str(end + 1 - start))
        self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[start : end + 1])

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """URL of a server of the folder ``tmp_path``."""
    serve = ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, directory=str(tmp_path)))
    thread = threading.Thread(target=serve.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{serve.server_port}"
    serve.shutdown()
    serve.server_close()


def span(url: str, start: int = 10, size: int = 20) -> Span:
    return Span(url, start, size, Stat(len(CONTENT), None))


@pytest.mark.parametrize(
    "pattern",
    [
        "a.tar", "{0..3}.tar", "t-{08..11}.tar", "t-{8..11}.tar", "{a,b}/{000..002}.tar",
        "x{,y}.tar", "{00..100}", "{7..7}",
    ],
)  # fmt: skip
def test_braces(pattern: str) -> None:
    assert expand_braces(pattern) == list(braceexpand.braceexpand(pattern))


@pytest.mark.parametrize("store", ["folder", "memory"])
def test_finding_shards(tmp_path: Path, store: str) -> None:
    root = str(tmp_path) if store == "folder" else "memory://finding"
    files, path = connect(root)
    for name in ("b/1.tar", "b/0.tar", "b/notes.txt", "b/2.tar.gz", "top.tar", "b/deep/9.tar"):
        files.makedirs(os.path.dirname(f"{path}/{name}"), exist_ok=True)
        files.pipe(f"{path}/{name}", CONTENT)
    found = find_shards(root, ["b/*.tar", "{top,b/1}.tar"])
    assert list(found) == ["b/0.tar", "b/1.tar", "top.tar"]
    assert {stat.size for stat in found.values()} == {len(CONTENT)}
    assert found == find_shards(root, ["b/{0,1}.tar", "t*.tar"])  # versions agree, however found
    assert find_shards(root, ["nothing/*.tar"]) == {}
    with pytest.raises(UserError, match=r"2 of the 3 shards .* do not exist: b/2.tar, b/3.tar"):
        find_shards(root, ["b/{1..3}.tar"])
    if store == "folder":
        os.utime(tmp_path / "top.tar", ns=(1, 1))
    else:
        files.pipe(f"{path}/top.tar", CONTENT)
    again = find_shards(root, ["b/*.tar", "top.tar"])
    assert [name for name in found if found[name] != again[name]] == ["top.tar"]


def test_what_is_remote() -> None:
    assert is_remote("s3://bucket/x")
    assert is_remote("simplecache::https://host/x")
    assert not is_remote("/data/x")


def test_a_package_that_is_missing() -> None:
    with pytest.raises(UserError, match=r"oss://b/x needs a package that is not .*Install ossfs"):
        connect("oss://b/x")
    with pytest.raises(UserError, match=r"zz://b/x cannot be read: .*zz.*such as s3://"):
        connect("zz://b/x")


def test_reading_in_a_store(flaky: list[Exception]) -> None:
    assert read_range("flaky://bucket/0.tar", 300, 500) == CONTENT[300:800]
    assert read_text("flaky://bucket/nothing.txt") is None
    with open_shard("flaky://bucket/0.tar", len(CONTENT)) as file:
        file.seek(200_000)
        assert file.read(100) == CONTENT[200_000:200_100]
        assert file.seek(-5, os.SEEK_END) == len(CONTENT) - 5
        assert file.read(10) == CONTENT[-5:]


def test_passing_errors_are_tried_again(flaky: list[Exception]) -> None:
    flaky += [OSError("busy"), TimeoutError("slow"), RuntimeError("a client's own")]
    told: list[Any] = []
    with watched(told.append):
        assert span("flaky://bucket/0.tar").read("video") == CONTENT[10:30]
    assert told == [("video", None)] * 4  # so that the time limit is one for each try
    assert flaky == []


def test_errors_that_last(flaky: list[Exception]) -> None:
    flaky += [RuntimeError("busy\nagain")] * 4
    with pytest.raises(ReadError, match=r"^video: RuntimeError: busy again$"):
        span("flaky://bucket/0.tar").read("video")
    flaky += [PermissionError("not yours"), RuntimeError("not reached")]
    with pytest.raises(ReadError, match="not yours"):
        span("flaky://bucket/0.tar").read("video")
    assert len(flaky) == 1


def test_a_shard_that_became_shorter(flaky: list[Exception]) -> None:
    with pytest.raises(ReadError, match="10 bytes came where 20 from 255990 on were asked for"):
        span("flaky://bucket/0.tar", start=len(CONTENT) - 10).read("video")


def test_a_store_that_refuses(flaky: list[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, *args: Any, **kwargs: Any) -> None:
        raise PermissionError("no credentials")

    flaky.append(PermissionError("no credentials"))
    with pytest.raises(UserError, match="classes.txt cannot be read: .*no credentials"):
        read_text("flaky://bucket/classes.txt")
    monkeypatch.setattr(FlakyStore, "ls", refuse)
    with pytest.raises(UserError, match="bucket/ cannot be listed: .*no credentials"):
        find_shards("flaky://bucket", ["*.tar"])
    monkeypatch.setattr(FlakyStore, "info", refuse)
    with pytest.raises(UserError, match="0.tar cannot be read: .*no credentials"):
        find_shards("flaky://bucket", ["0.tar"])
    monkeypatch.setattr(FlakyStore, "info", lambda *args, **kwargs: {"size": None})
    with pytest.raises(UserError, match="0.tar: its store does not say how large it is"):
        find_shards("flaky://bucket", ["0.tar"])


def test_a_local_shard_that_changed(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(CONTENT)
    found = find_shards(str(tmp_path), ["0.tar"])
    video = Span(str(tmp_path / "0.tar"), 10, 20, found["0.tar"])
    assert video.read("video") == CONTENT[10:30]
    os.utime(tmp_path / "0.tar", ns=(1, 1))
    with pytest.raises(ReadError, match="its shard has changed since it was indexed"):
        video.read("video")


@pytest.mark.skipif(not CAN_GUARD, reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_web_server_and_a_fork(tmp_path: Path, server: str) -> None:
    """Its client runs a thread and an event loop, of which a forked process has neither."""
    (tmp_path / "0.tar").write_bytes(CONTENT)
    (stat,) = find_shards(server, ["{0..0}.tar"]).values()
    assert stat.size == len(CONTENT)
    video = Span(f"{server}/0.tar", 1000, 3000, stat)
    assert video.read("video") == CONTENT[1000:4000]
    guard = Guard(lambda name: video.read(name), 60.0)
    assert guard("video") == CONTENT[1000:4000]
    guard.close()


def records(root: Path, url: str) -> ShardRecords:
    shards = {"0.tar": Stat(5000, "a"), "1.tar": Stat(6000, "b")}
    members = [("0.tar", "x.mp4", 512, 100), ("0.tar", "y.mp4", 1024, 50), ("1.tar", "x.mp4", 5, 7)]
    return ShardRecords(root, url, shards, members, [0, 1, 0])


def test_records_of_shards(tmp_path: Path) -> None:
    rows = records(tmp_path, "s3://bucket/")
    assert [rows.name(i) for i in range(3)] == ["0.tar/x.mp4", "0.tar/y.mp4", "1.tar/x.mp4"]
    assert rows.source(2) == ("s3://bucket/1.tar/x.mp4", None)
    assert rows.span(1) == Span("s3://bucket/0.tar", 1024, 50, Stat(5000, "a"))
    assert rows.identity(2) == (6000, "b")
    plain = Records(tmp_path, [rows.relative_path(i) for i in range(3)], rows.labels)
    assert rows.fingerprint(["a", "b"]) == plain.fingerprint(["a", "b"])
    part = rows.subset([2, 1]).with_labels([5, 6])
    assert isinstance(part, ShardRecords)
    assert [part.span(i) for i in range(2)] == [rows.span(2), rows.span(1)]
    assert [part.name(i) for i in range(2)] == ["1.tar/x.mp4", "0.tar/y.mp4"]
    assert part.labels.tolist() == [5, 6]
    assert len(rows) == 3


def test_many_rows_are_few_bytes(tmp_path: Path) -> None:
    shards = {f"{i:05}.tar": Stat(1, None) for i in range(10)}
    members = [(f"{i % 10:05}.tar", f"{i:09}.mp4", i, i) for i in range(1000)]
    rows = ShardRecords(tmp_path, str(tmp_path), shards, members, [0] * 1000)
    arrays = [value for value in vars(rows).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) < 100 * 1000
