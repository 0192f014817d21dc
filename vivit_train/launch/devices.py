"""The devices of a run and the precision they compute in, made definite."""

import os
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from vivit_train.errors import UserError
from vivit_train.launch.processes import devices_of_launcher


def device_memory(settings: dict[str, Any]) -> int:
    """Bytes of memory that one process of a run has: of its GPU, or its part of the machine's.

    Args:
        settings: Of the trainer.
    """
    if settings["accelerator"] != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    processes = count_processes(settings) // settings["num_nodes"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // processes


def count_processes(settings: dict[str, Any]) -> int:
    """Processes that train together, one per device, on all machines.

    Args:
        settings: Of the trainer.

    Raises:
        UserError: As `resolve_devices` does.
    """
    devices = resolve_devices(settings)
    if isinstance(devices, list):
        devices = len(devices)
    elif devices in ("auto", -1):
        on_cpu = settings["accelerator"] == "cpu"
        devices = 1 if on_cpu else max(1, torch.cuda.device_count())
    return devices * settings["num_nodes"]


def resolve_devices(settings: dict[str, Any]) -> Any:
    """``trainer.devices`` made definite where it can be: the launcher's, or one CPU.

    Args:
        settings: Of the trainer.

    Raises:
        UserError: If several devices are asked for, not named as CPUs, and there is no GPU; or if
            the launcher has started another number of processes.
    """
    devices = devices_of_launcher(settings)
    if settings["accelerator"] == "auto" and not torch.cuda.is_available():
        devices = 1 if devices == "auto" else devices
        if devices != 1:
            raise UserError(
                f"trainer.devices={devices}: no GPU that torch can use was found on this machine. "
                "To train in processes on its CPU add trainer.accelerator=cpu"
            )
    elif (
        settings["accelerator"] != "cpu"
        and settings["devices"] == "auto" != devices
        and devices < torch.cuda.device_count()
    ):
        rank_zero_warn(
            f"{torch.cuda.device_count()} GPUs are there, and the launcher has started {devices} "
            "process(es) on this machine: the other GPUs are not used"
        )
    return devices


def resolve_precision(precision: str, accelerator: str) -> str:
    """``auto`` made definite: bf16-mixed, or 32-true where bf16 would be slower.

    Raises:
        UserError: For half precision on a CPU: Lightning would silently run 16-mixed as bf16, and
            16-true takes minutes for what others do in a second.
    """
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    if str(precision) in ("16-mixed", "16", "16-true") and on_cpu:
        raise UserError(
            f"trainer.precision={precision} needs a GPU; on a CPU use bf16-mixed or 32-true"
        )
    if precision != "auto":
        return precision
    return "32-true" if on_cpu and not cpu_has_bf16() else "bf16-mixed"


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 matrices in hardware (AMX, AVX512-BF16, ARM's BF16)."""
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported", "_is_arm_bf16_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
