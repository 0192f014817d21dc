"""Which kernels a step's time goes to: torch's profiler, by name and by kind."""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

# By the first pattern that a kernel's name has.
KINDS = {
    "attention, backward": r"(sdpa|flash|fmha|attention).*(bprop|bwd|backward)",
    "attention, forward": r"sdpa|flash|fmha|attention",
    "matrix products": r"gemm|nvjet|cutlass|xmma|splitK|aten::(mm|addmm|bmm)",
    "optimiser and clipping": r"multi_tensor|adam|norm_kernel|foreach",
    "copies": r"memcpy|memset|copy_|aten::copy",
    "fused by the compiler": r"^triton_|^graph_",
    "the rest": r"",
}
MOST_KERNELS = 30


def of_step(run: Callable[[], Any], device: str) -> dict[str, Any]:
    """What one call of a function runs: kernels on a GPU, operators on a CPU.

    Returns:
        ``seconds`` of all together, ``launches``, ``kinds`` (seconds by kind) and ``kernels``: the
        longest, each with ``name``, ``seconds``, ``share`` and ``launches``.
    """
    activity = ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU
    run()
    with profile(activities=[activity]) as profiler:
        run()
        if device == "cuda":
            torch.cuda.synchronize()
    kernels = []
    for event in profiler.key_averages():
        on_gpu = event.device_type == DeviceType.CUDA
        if on_gpu != (device == "cuda") or getattr(event, "is_user_annotation", False):
            continue
        micros = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if micros:
            kernels.append({"name": event.key, "seconds": micros / 1e6, "launches": event.count})
    kernels.sort(key=lambda kernel: -kernel["seconds"])
    whole = sum(kernel["seconds"] for kernel in kernels)
    kinds = dict.fromkeys(KINDS, 0.0)
    for kernel in kernels:
        kernel["share"] = kernel["seconds"] / whole
        kinds[kind_of(kernel["name"])] += kernel["seconds"]
    return {
        "seconds": whole,
        "launches": sum(kernel["launches"] for kernel in kernels),
        "kinds": kinds,
        "kernels": kernels[:MOST_KERNELS],
    }


def kind_of(name: str) -> str:
    """One of ``KINDS``."""
    return next(kind for kind, word in KINDS.items() if re.search(word, name, re.IGNORECASE))


def table(found: dict[str, Any]) -> str:
    """What `of_step` found, as text."""
    lines = [f"{1e3 * found['seconds']:.2f} ms in {found['launches']} launches", ""]
    lines += [f"{1e3 * seconds:9.3f} ms  {kind}" for kind, seconds in found["kinds"].items()]
    lines += ["", "       ms  share  launches  kernel"]
    lines += [
        f"{1e3 * k['seconds']:9.3f} {k['share']:6.1%} {k['launches']:9d}  {k['name'][:150]}"
        for k in found["kernels"]
    ]
    return "\n".join(lines) + "\n"
