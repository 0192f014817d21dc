"""The compilers that torch and Triton call, where the machine has them."""

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

# Below this compute capability Triton, which writes kernels for GPUs, has no code.
LEAST_CAPABILITY = (7, 0)


def missing_for_cpp() -> tuple[str, str] | None:
    """What compiling C++ lacks here, and the cure; ``None``: nothing."""
    if not _is_there("CXX", "g++", "clang++", "cl"):
        return "a C++ compiler", "install g++ or clang++, name one in CXX"
    return None


def missing_for_triton(capability: tuple[int, int]) -> tuple[str, str] | None:
    """What kernels written in Triton lack here, and the cure; ``None``: nothing.

    Args:
        capability: Of the GPU, as torch tells it.
    """
    if importlib.util.find_spec("triton") is None:
        return "Triton", "install the package triton that belongs to this torch"
    if capability < LEAST_CAPABILITY:
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
