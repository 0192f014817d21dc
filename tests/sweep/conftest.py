from pathlib import Path

import pytest

from tests.sweep_program import Run, sweeping


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The sweep's folder; its name is one that a shell, and Hydra, would stumble over."""
    return tmp_path / "a sweep, of=lr"


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return sweeping(home, monkeypatch)
