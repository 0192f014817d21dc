"""The measurement on a GPU: each part runs, tiny, on a CPU; what was measured is never lost."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gpu
import gpu_runs
import gpu_steps
import kernel_times
import measure
import pytest
import torch
from gpu_steps import Bench, Row

# What a process of its own measures is left out: it takes as long as a run.
IN_PROCESS = ("matrix", "step", "transforms", "huggingface", "attention_tables", "kernels")


@pytest.fixture(autouse=True)
def settings_of_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for sizes in (measure.MATRIX_SIDE, measure.COPY_BYTES):
        monkeypatch.setitem(sizes, "cpu", sizes["cpu"])
    disabled = torch._dynamo.config.disable
    yield
    torch._dynamo.config.disable = disabled


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench("cpu", "tiny", (1, 2), (2,), (1,), 1, tmp_path, tmp_path / "kernels.txt")


def test_every_part_of_its_own_process(tmp_path: Path) -> None:
    output = tmp_path / "results" / "gpu.json"
    report = gpu.main(["--smoke", "--parts", ",".join(IN_PROCESS), "--output", str(output)])
    assert json.loads(output.read_text()) == report
    parts = report["parts"]
    assert {name: part["ended"] for name, part in parts.items()} == dict.fromkeys(
        IN_PROCESS, "done"
    )
    rows = {name: part["rows"] for name, part in parts.items()}
    assert [row["precision"] for row in rows["matrix"]] == ["fp32", "bf16"]
    steps = [row for row in rows["step"] if "profile" not in row]
    assert [(row["form"], row["batch"]) for row in steps] == [
        ("compiled", 1), ("compiled", 2), ("eager", 1), ("eager", 2),
    ]  # fmt: skip
    for row in steps:
        assert row["clips_per_second"] == pytest.approx(row["batch"] / row["median_seconds"])
    (profile,) = (row["profile"] for row in rows["step"] if "profile" in row)
    assert profile["kinds"]["matrix products"] > 0
    assert sum(profile["kinds"].values()) == pytest.approx(profile["seconds"])
    assert "matrix products" in (output.with_suffix(".kernels.txt")).read_text()
    augment, processor = rows["transforms"]
    assert (augment["what"], processor["what"]) == ("augment", "processor")
    # Of 2 clips, as the step's larger batch.
    share = augment["median_seconds"] / steps[1]["median_seconds"]
    assert augment["share_of_step"] == pytest.approx(share)
    assert [(row["phase"], row["form"]) for row in rows["huggingface"]] == [
        ("training", "eager"), ("training", "compiled"),
        ("inference", "eager"), ("inference", "compiled"),
    ]  # fmt: skip
    assert all(row["speed_ratio"] > 0 for row in rows["huggingface"])
    tables = [(row["phase"], row["batch"]) for row in rows["attention_tables"]]
    assert tables == [("training", 1), ("inference", 1), ("inference", 2)]
    assert all(row["logits_differ"] < 1e-5 for row in rows["attention_tables"])
    found = {row["kernel"]: row for row in rows["kernels"]}
    assert found["math"]["both_seconds"] > 0
    assert "left_out" in found["cudnn"]  # of a GPU alone


def test_a_form_that_takes_too_long_is_left_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepared(bench: Bench, models: Any, variant: Any, before: int) -> Any:
        if variant.form == "compiled" and variant.origin == "huggingface":
            raise gpu.OutOfTime
        return (lambda: None), {"peak_bytes": 2_000_000}

    monkeypatch.setattr(gpu_steps, "_prepared", prepared)
    bench.rates["bf16"] = {"matrix_tflops": 1.0}
    eager, compiled, *_ = gpu_steps.huggingface(bench)
    assert eager["speed_ratio"] > 0
    assert eager["memory_ratio"] == 1
    assert compiled["speed_ratio"] is None
    assert compiled["speed_ratio_to_huggingface_eager"] > 0
    assert compiled["left_out"] == {"huggingface compiled": "over 60 s"}


def test_what_was_measured_stays_however_a_part_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "gpu.json"
    between: list[Any] = []

    def whole(bench: Bench) -> Iterator[Row]:
        yield {"batch": 1, "seconds": [1.0]}
        between.append(json.loads(output.read_text()))

    def broken(bench: Bench) -> Iterator[Row]:
        yield {"batch": 2}
        raise RuntimeError("no such kernel")

    def endless(bench: Bench) -> Iterator[Row]:
        yield {"batch": 3}
        while True:
            pass

    ended: list[int] = []
    monkeypatch.setattr(gpu, "kill_all", lambda: ended.append(len(between)))
    parts = {
        "whole": gpu.Part(whole, 10),
        "broken": gpu.Part(broken, 10),
        "endless": gpu.Part(endless, 10),
        "late": gpu.Part(whole, 10),
    }
    monkeypatch.setattr(gpu, "PARTS", parts)
    given = ["--smoke", "--parts", "late,endless,broken,whole", "--minutes", "0.02"]
    report = gpu.main([*given, "--output", str(output)])["parts"]
    assert json.loads(output.read_text())["parts"] == report
    assert between[0]["parts"]["whole"] | {"seconds": None} == {
        "rows": [{"batch": 1, "seconds": [1.0]}], "ended": "killed", "seconds": None,
    }  # fmt: skip
    assert [part["rows"] for part in report.values()] == [
        [{"batch": 1, "seconds": [1.0]}], [{"batch": 2}], [{"batch": 3}], [],
    ]  # fmt: skip
    assert report["broken"]["ended"] == "failed: RuntimeError: no such kernel"
    assert report["endless"]["ended"].startswith("out of time")
    assert len(ended) == 3  # what a part has started ends with it
    assert report["late"]["ended"] == "not begun: no time was left"
    assert '{"batch": 1}' in capsys.readouterr().out


def test_a_part_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--smoke", "--parts", "matrix,trian"])
    assert "trian: not one of matrix, step, train" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "no GPU: --smoke tries the parts on a CPU" in capsys.readouterr().err


PROGRAM = """
import pathlib, shutil, sys, time
given = dict(word.split("=", 1) for word in sys.argv[1:])
folder = pathlib.Path(given["run_dir"])
if folder.name == "train_2":
    print("no memory")
    sys.exit(3)
(folder / "checkpoints").mkdir(parents=True, exist_ok=True)
rates = ["", "1", "2", "40", "60", "50"]
lines = "".join(f"{step},{rate},0.5\\n" for step, rate in enumerate(rates))
(folder / "metrics.csv").write_text("step,train/clips_per_second,train/loss\\n" + lines)
shutil.copy(folder.parent / "state.ckpt", folder / "checkpoints" / "last.ckpt")
if "sleep" in given or (folder.name == "bits_killed" and "ckpt_path" not in given):
    time.sleep(60)
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of train.py, and of the videos."""
    (tmp_path / "train.py").write_text(PROGRAM)
    torch.save({"state_dict": {"a": torch.zeros(2)}}, tmp_path / "state.ckpt")
    monkeypatch.setattr(gpu_runs, "ROOT", tmp_path)
    (tmp_path / "set").mkdir()


@pytest.mark.usefixtures("program")
def test_train_beside_the_step(bench: Bench) -> None:
    bench.step_clips_per_second[1] = 200.0
    one, two = gpu_runs.train(bench)
    assert (one["rc"], one["clips_per_second"], one["share_of_step"]) == (0, 50.0, 0.25)
    assert (two["rc"], two["clips_per_second"], two["share_of_step"]) == (3, None, None)
    assert two["left_out"] == "no memory"


@pytest.mark.usefixtures("program")
def test_a_run_is_killed_once_it_has_saved_or_is_over_its_limit(bench: Bench) -> None:
    run = gpu_runs.Run(bench, "killed", ("data.batch_size=1", "sleep=1"))
    run.start()
    assert run.kill_after_checkpoint()
    assert run.process is not None
    assert run.process.poll() == -9
    assert not gpu_runs.RUNNING
    slow = gpu_runs.Run(bench, "slow", ("data.batch_size=1", "sleep=1"))
    slow.limit = 1
    row = slow.to_its_end()
    assert (row["rc"], row["left_out"]) == (None, "over 1 s")
    assert slow.process is not None
    assert slow.process.poll() == -9


@pytest.mark.usefixtures("program")
def test_bits_and_cost_of_deterministic_runs(bench: Bench) -> None:
    twice, resumed, cost = gpu_runs.deterministic(bench)
    same = {"rc": [0, 0], "tensors": 1, "tensors_that_differ": 0, "largest_difference": 0}
    assert twice == {"compared": "the same run twice"} | same
    assert resumed == {"compared": "killed, resumed"} | same
    assert (cost["clips_per_second"], cost["share_of_usual"]) == (50.0, 1.0)
    assert not gpu_runs.RUNNING


@pytest.mark.usefixtures("program")
def test_both_ways_to_train_on_several_gpus(bench: Bench) -> None:
    rows = list(gpu_runs.nccl(bench))
    assert [(row["strategy"], row["rc"], row["loss"]) for row in rows] == [
        ("ddp", 0, 0.5), ("fsdp", 0, 0.5),
    ]  # fmt: skip


@pytest.mark.usefixtures("program")
def test_none_outlives_its_part(bench: Bench) -> None:
    run = gpu_runs.Run(bench, "left", ("data.batch_size=1", "sleep=1"))
    run.start()
    gpu_runs.kill_all()
    assert run.process is not None
    assert run.process.poll() == -9


def test_states_that_differ() -> None:
    one = {"a": torch.zeros(2), "b": torch.ones(2)}
    assert gpu_runs.differences(one, dict(one)) == {
        "tensors": 2, "tensors_that_differ": 0, "largest_difference": 0,
    }  # fmt: skip
    other = {"a": torch.zeros(2), "b": torch.tensor([1.0, 1.5])}
    assert gpu_runs.differences(one, other) == {
        "tensors": 2, "tensors_that_differ": 1, "largest_difference": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16", "attention, backward"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16", "attention, forward"),
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel", "attention, backward"),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80", "attention, forward"),
        ("nvjet_tst_256x128_64x4_1x2_h_bz_coopA_bias_TNN", "matrix products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "matrix products"),
        ("triton_poi_fused_add_native_layer_norm_3", "fused by the compiler"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        (
            "void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>",
            "optimiser and clipping",
        ),
        ("void at::native::vectorized_elementwise_kernel<4, GeluCUDAKernelImpl>", "the rest"),
    ],
)
def test_kind_of_a_kernel(name: str, kind: str) -> None:
    assert kernel_times.kind_of(name) == kind
