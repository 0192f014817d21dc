"""What lies in a folder from strangers is read as it is or refused, and never written to."""

import json
import os
import socket
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from vivit_train.errors import UserError
from vivit_train.io.foreign import damage, from_json, open_own, own_lock, read_json

BEGINS = b'{"name": '
SECRET = "export PATH=/usr/bin\n"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of the user's, outside of the folder."""
    path = tmp_path / "bashrc"
    path.write_text(SECRET)
    return path


def link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def dangling_link(path: Path, victim: Path) -> None:
    path.symlink_to(victim.with_name("not there"))


def hard_link(path: Path, victim: Path) -> None:
    os.link(victim, path)


def pipe(path: Path, victim: Path) -> None:
    os.mkfifo(path)


def another_file(path: Path, victim: Path) -> None:
    path.write_text('{"title": "of another program"}\n')


PLANTED = [link, dangling_link, hard_link, pipe, another_file]


@pytest.mark.parametrize("plant", PLANTED)
def test_nothing_is_added_to_a_file_that_is_not_ours(
    plant: Callable[[Path, Path], None], victim: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    plant(folder / "index.jsonl", victim)
    plant(folder / "index.lock", victim)
    before = {path: path.lstat() for path in (victim, *folder.iterdir())}
    with pytest.raises(UserError, match=r"index\.jsonl .* nothing is written to it"):
        open_own(folder / "index.jsonl", BEGINS)
    with (
        pytest.raises(UserError, match=r"index\.lock .* nothing is written to it"),
        own_lock(folder / "index.lock"),
    ):
        pass
    assert victim.read_text() == SECRET
    assert not victim.with_name("not there").exists()
    assert {p: p.lstat().st_mtime_ns for p in before} == {
        path: status.st_mtime_ns for path, status in before.items()
    }


@pytest.mark.parametrize("content", [b"", b"\n", b'\n{"na', b'{"name": "a"}\n', b'\n{"name": "a'])
def test_a_file_of_ours_is_added_to_even_if_it_was_cut_off(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "index.jsonl"
    path.write_bytes(content)
    with open_own(path, BEGINS) as file:
        assert file.tell() == len(content)
        file.write(b"more")
    assert path.read_bytes() == content + b"more"


def test_a_new_file_has_the_users_usual_permissions(tmp_path: Path) -> None:
    open_own(tmp_path / "ours", BEGINS).close()
    (tmp_path / "plain").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_lock_is_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        with own_lock(tmp_path / "lock"):
            pass


@dataclass
class Line:
    name: str
    size: int | None = None
    parts: list[int] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    share: float = 0.0
    quick: bool = False


@pytest.mark.parametrize(
    "values",
    [
        {"name": 1}, {"size": "1"}, {"size": 1.0}, {"size": True}, {"parts": 3}, {"parts": ["x"]},
        {"parts": {"x": 1}}, {"counts": []}, {"counts": {"x": "y"}}, {"share": "x"},
        {"share": float("nan")}, {"share": True}, {"quick": 1}, {"name": None},
    ],
)  # fmt: skip
def test_a_line_of_other_types_is_none(values: dict) -> None:
    assert from_json(Line, json.dumps({"name": "a"} | values)) is None


@pytest.mark.parametrize("line", ["", "null", "[]", "3", '{"size": 1}', '{"name": "a', "[" * 10**5])
def test_a_line_that_is_something_else_is_none(line: str) -> None:
    assert from_json(Line, line) is None


def test_a_line_comes_back() -> None:
    line = Line("a", 1, [1, 2], {"x": 3}, 2, True)
    assert from_json(Line, json.dumps(vars(line) | {"of a later version": 1})) == line


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 10**5, "\udcff", '{"x": ' + "9" * 9999])
def test_json_that_is_no_object_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match="config.json") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_what_is_no_regular_file_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # a socket's address must be short
        server.bind("socket")
        for path in (tmp_path / "pipe", tmp_path / "socket", Path("/dev/zero"), tmp_path):
            with pytest.raises(UserError, match="is not a regular file but a pipe"):
                read_json(path)


def test_an_archive_that_fills_the_memory_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", bytes(2**27))
    assert "unpack to 134,217,728, more than 20 times" in (damage(path) or "")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", bytes(2**20))  # a few zeros are no harm
    assert damage(path) is None
