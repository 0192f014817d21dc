"""Whether a run's model is compiled, and what that needs of the machine."""

from typing import Any

import torch

from vivit_train.errors import UserError
from vivit_train.io.compilers import missing_for_cpp, missing_for_triton
from vivit_train.io.terminal import is_rank_zero, say


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
    missing = missing_for_cpp()
    if missing is None and on_gpu:
        missing = missing_for_triton(torch.cuda.get_device_capability())
    return missing
