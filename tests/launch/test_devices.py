from typing import Any

import pytest
import torch

from vivit_train.errors import UserError
from vivit_train.launch import devices
from vivit_train.launch.devices import (
    count_processes,
    cpu_has_bf16,
    resolve_devices,
    resolve_precision,
)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


class TestPrecision:
    @pytest.mark.parametrize("accelerator", ["cpu", "auto"])
    @pytest.mark.parametrize("has_bf16", [True, False])
    @pytest.mark.usefixtures("no_gpu")
    def test_auto_on_a_cpu(
        self, accelerator: str, has_bf16: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(devices, "cpu_has_bf16", lambda: has_bf16)
        expected = "bf16-mixed" if has_bf16 else "32-true"
        assert resolve_precision("auto", accelerator) == expected

    @pytest.mark.parametrize("accelerator", ["gpu", "auto", "cuda"])
    @pytest.mark.usefixtures("a_gpu")
    def test_auto_on_a_gpu(self, accelerator: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(devices, "cpu_has_bf16", lambda: False)
        assert resolve_precision("auto", accelerator) == "bf16-mixed"
        assert resolve_precision("auto", "cpu") == "32-true"
        assert resolve_precision("16-mixed", accelerator) == "16-mixed"

    @pytest.mark.usefixtures("no_gpu")
    def test_what_is_asked_for_is_what_runs(self) -> None:
        for precision in ("32-true", "bf16-mixed", "bf16-true"):
            assert resolve_precision(precision, "cpu") == precision

    @pytest.mark.parametrize("precision", ["16-mixed", 16, "16"])
    @pytest.mark.parametrize("accelerator", ["cpu", "auto"])
    @pytest.mark.usefixtures("no_gpu")
    def test_half_precision_on_a_cpu(self, precision: Any, accelerator: str) -> None:
        """Lightning would run bf16 instead, with a warning at most."""
        with pytest.raises(UserError, match=rf"precision={precision} needs a GPU; .*bf16-mixed"):
            resolve_precision(precision, accelerator)

    @pytest.mark.parametrize(
        "probe", ["_is_amx_tile_supported", "_is_avx512_bf16_supported", "_is_arm_bf16_supported"]
    )
    def test_probes(self, probe: str, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in (
            "_is_amx_tile_supported", "_is_avx512_bf16_supported", "_is_arm_bf16_supported"
        ):  # fmt: skip
            monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
        assert not cpu_has_bf16()
        monkeypatch.setattr(torch.cpu, probe, lambda: True)
        assert cpu_has_bf16()
        monkeypatch.delattr(torch.cpu, probe)  # another version of torch
        assert not cpu_has_bf16()


def test_gpus_that_the_launcher_leaves_out_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """E.g. a SLURM job of one task and eight GPUs."""
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    settings = {"accelerator": "gpu", "devices": "auto", "num_nodes": 1}
    with pytest.warns(UserWarning, match=r"8 GPUs are there, .* started 1 process"):
        assert resolve_devices(settings) == 1


@pytest.mark.parametrize(
    ("accelerator", "given", "nodes", "expected"),
    [
        ("cpu", "auto", 1, 1),
        ("cpu", 3, 2, 6),
        ("gpu", "auto", 1, 4),
        ("gpu", -1, 2, 8),
        ("auto", [0, 2], 1, 2),
    ],
)
@pytest.mark.usefixtures("a_gpu")
def test_processes(
    accelerator: str, given: Any, nodes: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    settings = {"accelerator": accelerator, "devices": given, "num_nodes": nodes}
    assert count_processes(settings) == expected
