"""What is compiled, where, and what is said of it."""

import importlib.util
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch

from vivit_train.errors import UserError
from vivit_train.launch.compiling import compiles

COMPILERS = {"g++", "gcc"}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A machine with or without a GPU, and what is on it."""

    def has(
        gpu: bool = True,
        compilers: set[str] = COMPILERS,
        triton: bool = True,
        capability: tuple[int, int] = (9, 0),
        headers: bool = True,
    ) -> None:
        for variable in ("CXX", "CC"):
            monkeypatch.delenv(variable, raising=False)
        (tmp_path / "Python.h").unlink(missing_ok=True)
        if headers:
            (tmp_path / "Python.h").touch()
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(shutil, "which", lambda name: name if name in compilers else None)
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: object() if triton else None)
        monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))

    return has


def asked(value: bool | str, accelerator: str = "auto") -> bool:
    return compiles({"model": {"compile": value}, "trainer": {"accelerator": accelerator}})


def test_auto_compiles_on_a_gpu(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    machine()
    assert asked("auto")
    assert asked("auto", "gpu")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("compiling the model's blocks: the first step takes about half a")
    assert len(lines) == 2
    assert not asked(False)
    assert not asked("auto", "cpu")
    machine(gpu=False)
    assert not asked("auto")
    assert asked(True)  # on a CPU too
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize(
    ("lacks", "what", "cure"),
    [
        ({"compilers": {"gcc"}}, "a C++ compiler", "install g++ or clang++"),
        ({"compilers": {"g++"}}, "a C compiler", "install gcc or clang"),
        ({"triton": False}, "Triton", "install the package triton"),
        ({"capability": (6, 1)}, "a GPU that Triton can write kernels for", "capability 7.0"),
        ({"headers": False}, "Python.h", "python3-dev"),
    ],
)
def test_a_gpu_without(
    machine: Any, capsys: pytest.CaptureFixture[str], lacks: dict, what: str, cure: str
) -> None:
    machine(**lacks)
    assert not asked("auto")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("the model is not compiled")
    assert what.removeprefix("a ") in line
    assert cure in line
    with pytest.raises(UserError) as caught:
        asked(True)
    assert f"model.compile=true needs {what}, and there is none" in str(caught.value)
    assert str(caught.value).endswith(", or set model.compile=false")
    assert cure in str(caught.value)


def test_a_cpu_needs_a_compiler_alone(machine: Any) -> None:
    machine(gpu=False, triton=False, headers=False, compilers={"clang++"})
    assert asked(True)
    machine(gpu=False, compilers=set())
    with pytest.raises(UserError, match=r"model\.compile=true needs a C\+\+ compiler"):
        asked(True)
