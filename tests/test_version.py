"""The commit that a version is of: of a clone, of an address, or unknown."""

import json
import subprocess
from pathlib import Path

import pytest

from vivit_train import version


@pytest.fixture(autouse=True)
def asked_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "__version__", "1.2")
    monkeypatch.setattr(version, "_CLONE", tmp_path)
    version.version_and_commit.cache_clear()
    yield
    version.version_and_commit.cache_clear()


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_of_a_clone(tmp_path: Path) -> None:
    git(tmp_path, "init")
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    git(tmp_path, "tag", "-a", "v9", "-m", "not asked for")
    (tmp_path / "notes").touch()  # not of the code
    expected = "1.2+g" + git(tmp_path, "rev-parse", "--short=12", "HEAD")
    assert version.version_and_commit() == expected
    (tmp_path / "code.py").write_text("2")
    version.version_and_commit.cache_clear()
    assert version.version_and_commit() == expected + ".dirty"


def test_of_a_clone_that_git_cannot_read(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    assert version.version_and_commit() == "1.2"


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        (
            {"url": "u", "vcs_info": {"vcs": "git", "commit_id": "0123456789abcdef"}},
            "+g0123456789ab",
        ),
        ({"url": "file:///x", "dir_info": {}}, ""),
        (None, ""),
        ([], ""),
    ],
)
def test_of_what_pip_installed(held, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Installed:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return None if held is None else json.dumps(held)

    monkeypatch.setattr(version, "distribution", lambda name: Installed())
    assert version.version_and_commit() == "1.2" + expected
