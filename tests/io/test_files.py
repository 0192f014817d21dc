import errno
import os
from pathlib import Path

import pytest

from vivit_train.io.files import user_path, write_whole, written_whole


def test_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_whole(path, "größe\n")
    assert path.read_text(encoding="utf-8") == "größe\n"
    with pytest.raises(TypeError), written_whole(path) as file:
        file.writelines([b"half", "not bytes"])  # type: ignore[list-item]
    assert path.read_text(encoding="utf-8") == "größe\n"
    assert os.listdir(path.parent) == ["file"]


def test_synced_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append("sync"), fsync(fd)))
    write_whole(tmp_path / "file", "")
    monkeypatch.setattr(os, "fsync", fsync)
    assert done == ["sync", "sync"]  # the file, its folder

    def put(source: Path, target: Path) -> None:
        assert source.read_bytes() == b"x" * 100_000
        replace(source, target)

    with written_whole(tmp_path / "file", put) as file:
        file.write(b"x" * 100_000)


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_whole(tmp_path / "results.json", "{}")
    assert caught.value.filename == str(tmp_path / "results.json")
    assert os.listdir(tmp_path) == []


def test_what_a_process_of_the_same_number_left_is_not_written_into(tmp_path: Path) -> None:
    """In a container numbers repeat; the file may be a second name of another."""
    other = tmp_path / "best"
    other.write_text("precious")
    os.link(other, tmp_path / f"last.tmp-{os.getpid()}")
    write_whole(tmp_path / "last", "new")
    assert other.read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["best", "last"]


def test_paths_that_a_user_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert user_path("~/a") == Path("/home/me/a")
    assert user_path("~nobody.here/a") == Path("~nobody.here/a")  # pathlib's fails
