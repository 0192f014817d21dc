"""What pyproject.toml and constraints.txt promise, and what a wheel holds."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.conftest import REPOSITORY

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


def test_the_readme_promises_the_pythons_of_pyproject() -> None:
    pythons = SpecifierSet(PROJECT["project"]["requires-python"])
    first, last = re.findall(r"You need Python 3\.(\d+) to 3\.(\d+)", readme())[0]
    allowed = [minor for minor in range(8, 20) if pythons.contains(f"3.{minor}.1")]
    assert allowed == list(range(int(first), int(last) + 1))
    assert PROJECT["tool"]["mypy"]["python_version"] == f"3.{first}"
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py3{first}"


def readme() -> str:
    return (REPOSITORY / "README.md").read_text()


def test_every_package_is_listed() -> None:
    found = [path.parent for path in (REPOSITORY / "vivit_train").rglob("__init__.py")]
    names = [".".join(path.relative_to(REPOSITORY).parts) for path in found]
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(
        [*names, "vivit_train.configs"]
    )


def test_a_wheel_has_the_configurations(tmp_path: Path) -> None:
    """An installation without the repository composes and describes."""
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, clone)
    for name in ("vivit_train", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, clone / name, ignore=ignored)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=clone, capture_output=True, text=True, check=True
    )
    site = tmp_path / "site"
    with zipfile.ZipFile(clone / done.stdout.split()[-1]) as wheel:
        wheel.extractall(site)
    files = {path.relative_to(REPOSITORY) for path in (REPOSITORY / "configs").rglob("*.yaml")}
    held = {path.relative_to(site / "vivit_train") for path in site.rglob("*.yaml")}
    assert held == files
    probe = (
        "from vivit_train.config import CONFIG_DIR, compose_config\n"
        "print(CONFIG_DIR, compose_config(['model=vivit_b_fe']).model.name)"
    )
    shutil.rmtree(clone)
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(site)},
    )  # fmt: skip
    assert done.stdout.split() == [str(site / "vivit_train" / "configs"), "vivit_b_fe"]
