"""What pyproject.toml and constraints.txt promise, and what a wheel holds."""

import contextlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from hatchling.build import build_wheel
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.conftest import REPOSITORY, SMALL

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
REQUIREMENTS = {r.name: r for r in map(Requirement, PROJECT["project"]["dependencies"])}


@pytest.mark.parametrize("name", ["lightning", "pytorch-lightning"])
@pytest.mark.parametrize("version", ["2.6.2", "2.6.3", "2.6.5"])
def test_releases_that_steal_credentials_or_run_code_are_excluded(name: str, version: str) -> None:
    assert not REQUIREMENTS[name].specifier.contains(version)
    assert REQUIREMENTS[name].specifier.contains("2.6.6")


def test_the_floor_of_hydra() -> None:
    assert not REQUIREMENTS["hydra-core"].specifier.contains("1.3.5")
    assert REQUIREMENTS["hydra-core"].specifier.contains("1.3.6")


def test_what_was_tested_together_is_allowed_and_for_every_python() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    tested = [Requirement(line) for line in lines if line and not line.startswith("#")]
    for requirement in tested:
        assert requirement.marker is None, requirement
        if requirement.name in REQUIREMENTS:
            (pinned,) = requirement.specifier
            assert REQUIREMENTS[requirement.name].specifier.contains(pinned.version)
    assert {"torch", "lightning", "av", "hydra-core"} <= {r.name for r in tested}


def test_uv_takes_torch_and_torchvision_from_one_index() -> None:
    """For each extra its own, which serves nothing else."""
    uv, extras = PROJECT["tool"]["uv"], PROJECT["project"]["optional-dependencies"]
    names = ("cpu", "cu130")
    assert uv["conflicts"] == [[{"extra": name} for name in names]]
    for name in names:
        both = {str(REQUIREMENTS["torch"]), str(REQUIREMENTS["torchvision"])}
        assert {str(Requirement(line)) for line in extras[name]} == both
        (index,) = [index for index in uv["index"] if index["name"] == f"pytorch-{name}"]
        assert index["explicit"]
        assert index["url"] == f"https://download.pytorch.org/whl/{name}"
        for library in ("torch", "torchvision"):
            assert {"index": f"pytorch-{name}", "extra": name} in uv["sources"][library]


def test_the_readme_promises_the_pythons_of_pyproject() -> None:
    pythons = SpecifierSet(PROJECT["project"]["requires-python"])
    first, last = re.findall(r"You need Python 3\.(\d+) to 3\.(\d+)", readme())[0]
    allowed = [minor for minor in range(8, 20) if pythons.contains(f"3.{minor}.1")]
    assert allowed == list(range(int(first), int(last) + 1))
    assert PROJECT["tool"]["mypy"]["python_version"] == f"3.{first}"
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py3{first}"


def readme() -> str:
    return (REPOSITORY / "README.md").read_text()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    with contextlib.chdir(REPOSITORY):  # where it builds from
        return folder / build_wheel(str(folder))


def test_a_wheel_holds_what_trains_and_nothing_else(wheel: Path) -> None:
    sources = [p for p in (REPOSITORY / "vivit_train").rglob("*") if p.is_file()]
    expected = {
        path.relative_to(REPOSITORY).as_posix(): path
        for path in sources
        if "__pycache__" not in path.parts
    }
    for path in (REPOSITORY / "train.py", *(REPOSITORY / "configs").rglob("*.yaml")):
        expected["vivit_train/program/" + path.relative_to(REPOSITORY).as_posix()] = path
    with zipfile.ZipFile(wheel) as held:
        names = {name for name in held.namelist() if ".dist-info/" not in name}
        assert names == expected.keys()
        assert all(held.read(name) == path.read_bytes() for name, path in expected.items())
    assert "vivit_train/py.typed" in names


@pytest.mark.slow
@pytest.mark.timeout(900)  # 30 s of processor time, and the machine may be busy
def test_an_installed_wheel_trains_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    """In a fresh environment that has the libraries and not the repository."""
    environment, empty = tmp_path / "environment", tmp_path / "empty"
    empty.mkdir()
    venv.create(environment)
    python = environment / "bin/python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    # A path alone: the .pth files in that folder, an editable install's among them, are not read.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run(*words: str | Path) -> str:
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            list(map(str, words)), cwd=empty, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel)
    where = run(python, "-c", "import vivit_train; print(vivit_train.__file__)").strip()
    assert Path(where) == site / "vivit_train/__init__.py"
    vivit = environment / "bin/vivit"
    assert run(vivit, "--version") == f"vivit-train {PROJECT['project']['version']}\n"
    told = run(vivit, "train", *SMALL, "trainer.max_epochs=1", "run_dir=run")
    assert told.splitlines()[-1] == "run"
    assert "python train.py" not in told
    results = json.loads((empty / "run/results.json").read_text())
    assert results["num_videos_scored"] == 16
    assert results["versions"]["vivit_train"] == PROJECT["project"]["version"]
    run(vivit, "predict", "run", next(empty.glob("data/demo/val/*/*.mp4")))
