"""Whether a run's model is compiled, and what that needs of the machine."""

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import torch

from vivit_train.errors import UserError
from vivit_train.io.terminal import is_rank_zero, say

# Below this compute capability Triton, which writes the kernels, has no code.
LEAST_CAPABILITY = (7, 0)


def compiles(config: dict[str, Any]) -> bool:
    """Whether a run compiles its model; says so, with what it costs, or why it does not.

    ``model.compile=auto`` compiles on a GPU, where it pays after some hundred steps, and where the
    compilers are there.

    Args:
        config: The resolved configuration.

    Raises:
        UserError: If ``model.compile=true`` and a compiler is missing.
    """
    wanted, accelerator = config["model"]["compile"], config["trainer"]["accelerator"]
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if wanted is False or (wanted == "auto" and not on_gpu):
        return False
    missing = missing_compiler(on_gpu)
    if missing and wanted != "auto":
        raise UserError(
            f"model.compile=true needs {missing[0]}, and there is none on this machine: "
            f"{missing[1]}, or set model.compile=false"
        )
    if is_rank_zero():
        say(
            f"the model is not compiled, which would make training faster: there is no "
            f"{missing[0].removeprefix('a ')} on this machine; {missing[1]}"
            if missing
            else "compiling the model's blocks: the first step takes about half a minute, the "
            "others less than without (model.compile=false)"
        )
    return missing is None


def missing_compiler(on_gpu: bool) -> tuple[str, str] | None:
    """What `torch.compile` lacks here, and the cure; ``None``: nothing."""
    if not _is_there("CXX", "g++", "clang++", "cl"):
        return "a C++ compiler", "install g++ or clang++, name one in CXX"
    if not on_gpu:
        return None
    if importlib.util.find_spec("triton") is None:
        return "Triton", "install the package triton that belongs to this torch"
    if torch.cuda.get_device_capability() < LEAST_CAPABILITY:
        return (
            "a GPU that Triton can write kernels for",
            "use one of compute capability 7.0 or more",
        )
    # Triton builds the part that starts its kernels as a Python extension.
    if not _is_there("CC", "gcc", "clang", "cl"):
        return "a C compiler", "install gcc or clang, name one in CC"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "Python.h", "install Python's headers (python3-dev)"
    return None


def _is_there(variable: str, *names: str) -> bool:
    return any(name and shutil.which(name) for name in (os.environ.get(variable), *names))
