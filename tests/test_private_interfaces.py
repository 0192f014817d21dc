"""Names of libraries that are promised to nobody: where they are used, why, and what is relied on.

Each has a test here that fails when a new version of the library means something else by it. What
has a public name is used by that: a new private one needs a row, a reason and a test.
"""

import ast
import csv
import importlib
import os
import pkgutil
import re
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache
from inspect import getsource, signature
from itertools import pairwise
from multiprocessing import util
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler, recv_handle, send_handle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies.launchers import subprocess_script
from torch.utils.data import DataLoader

import vivit_train
from tests.conftest import REPOSITORY

# Name -> library, files that use it, and why no public name does.
INTERFACES = {
    # The loops of training.
    "fit_loop": (
        "Lightning",
        "callbacks/checkpoints callbacks/same_steps callbacks/step_seed callbacks/stop_signals "
        "data/loader",
        "where a run stands: the trainer tells steps and epochs, not batches",
    ),
    "_should_accumulate": (
        "Lightning",
        "callbacks/checkpoints callbacks/stop_signals",
        "whether a batch ended an optimiser step; the end of an epoch ends one too",
    ),
    "_should_check_val_fx": (
        "Lightning",
        "callbacks/stop_signals",
        "whether a validation comes next: by batches, epochs, or because the run ends",
    ),
    "_data_fetcher": ("Lightning", "callbacks/stop_signals", "argument of _should_check_val_fx"),
    "_batches_that_stepped": (
        "Lightning",
        "callbacks/checkpoints callbacks/same_steps",
        "the step that a row is logged with",
    ),
    "_logger_connector": (
        "Lightning",
        "callbacks/checkpoints",
        "the row of a step, which is logged after the hooks that save",
    ),
    "val_check_batch": (
        "Lightning",
        "callbacks/same_steps",
        "validations come after whole optimiser steps; the argument has a number of batches only",
    ),
    # Signals and processes.
    "_signal_connector": (
        "Lightning",
        "callbacks/stop_signals",
        "Lightning's signal handlers save between any two instructions; no switch turns them off",
    ),
    "_broadcast_sigterm_tensor": (
        "Lightning",
        "callbacks/stop_signals",
        "costs a broadcast in every step, for the handlers that are not installed",
    ),
    "_launch_process_observer": (
        "Lightning", "launch/processes", "the only place that has the processes just started",
    ),
    "_basic_subprocess_cmd": (
        "Lightning", "launch/processes", "the command of the other processes is not an argument",
    ),
    "_hydra_subprocess_cmd": (
        "Lightning", "launch/processes", "the same where Hydra has composed the configuration",
    ),
    "_timeout": (
        "Lightning", "build", "DDPStrategy takes it, but not with strategy=auto",
    ),
    "_data_parallel_size": (
        "Lightning",
        "launch/sharding",
        "the number of processes, which the constructor does not know yet",
    ),
    # Others.
    "checkpoint_connector": (
        "Lightning", "runs/checkpoint", "tells errors of restoring by the file that they are from",
    ),
    "_wandb_init": (
        "Lightning", "runs/loggers", "an unset argument is passed on, and wandb warns of it",
    ),
    "_step_supports_amp_scaling": (
        "torch", "optim", "fused optimisers would undo loss scaling after clipping",
    ),
    "_iterator": ("torch", "callbacks/stop_signals", "of a loader whose workers persist"),
    "_shutdown_workers": (
        "torch", "callbacks/stop_signals", "workers that are left to the exit take a minute",
    ),
    "_workers": ("torch", "data/loader", "the processes that are watched"),
    "_subclasses": ("torch", "describe/memory", "FakeTensorMode has no other path"),
    "_new_shared_fd_cpu": (
        "torch", "video/handover", "memory that is a file other processes get without a copy",
    ),
    "_is_amx_tile_supported": ("torch", "launch/devices", "get_capabilities is not in torch 2.8"),
    "_is_avx512_bf16_supported": ("torch", "launch/devices", "the same"),
    "_is_arm_bf16_supported": ("torch", "launch/devices", "not in torch 2.15: ARM is without"),
    "_internal": ("Hydra", "config/words", "Hydra's flags, read as Hydra reads them"),
    "_fused_sdp_choice": (
        "torch",
        "model/kernels",
        "which attention kernel torch takes; torch.backends.cuda.can_use_* tell only what could be",
    ),
    "_get_node": ("OmegaConf", "config/compose", "a value as it is written, unresolved"),
    "_value": ("OmegaConf", "config/compose", "the same"),
    "multiprocessing.util": (
        "Python", "data/loader video/guard", "what is done at the end of a process, in order",
    ),
    "multiprocessing.reduction": (
        "Python", "video/handover", "files handed to another process, and pickling of tensors",
    ),
}  # fmt: skip
# Names of the interfaces above that look public.
PLAIN = {name for name in INTERFACES if not name.startswith("_")}
# Python's own and Hydra's, which are no private ones.
DOCUMENTED = {"_abc_impl", "_asdict", "_exit", "_fields", "_replace", "_target_"}
TESTED: set[str] = set()


def holds(*names: str) -> Callable[[Callable], Callable]:
    """Marks a test as the one of these interfaces."""
    TESTED.update(names)
    return lambda test: test


def is_private(name: str) -> bool:
    return re.fullmatch("_[a-z]\\w*", name) is not None and name not in DOCUMENTED


def trees() -> dict[str, ast.Module]:
    root = REPOSITORY / "vivit_train"
    paths = {str(path.relative_to(root).with_suffix("")): path for path in root.rglob("*.py")}
    files = {name: ast.parse(path.read_text()) for name, path in paths.items()}
    return {**files, "train.py": ast.parse((REPOSITORY / "train.py").read_text())}


def own_names(files: dict[str, ast.Module]) -> set[str]:
    """What the package itself defines: functions, classes, variables, attributes of self."""
    found = set()
    for node in (node for tree in files.values() for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found |= {node.attr} if ast.unparse(node.value) in ("self", "cls") else set()
    return found


def foreign_names(tree: ast.AST, own: set[str]) -> Iterator[str]:
    """Private names that a file has from elsewhere, and those in `PLAIN`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.JoinedStr):
            continue  # a text that is put together
        if isinstance(node, ast.Attribute):
            # Another object's may have the name of one of ours.
            is_ours = node.attr in own and not ast.unparse(node.value).endswith(
                ("loop", "strategy")
            )
            if node.attr in PLAIN or (is_private(node.attr) and not is_ours):
                yield node.attr
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            module = getattr(node, "module", None)
            for name in names + [module] * bool(module):
                yield from (name for name in [name] if name in PLAIN)
                yield from (part for part in name.split(".") if is_private(part))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.removesuffix(".py")
            if name in PLAIN or (is_private(name) and name not in own):
                yield name
        is_ending = isinstance(node, ast.Call) and ast.unparse(node.func).endswith("endswith")
        yield from () if is_ending else foreign_names(node, own)


def used(files: dict[str, ast.Module]) -> set[tuple[str, str]]:
    own = own_names(files) - INTERFACES.keys()
    return {(name, path) for path, tree in files.items() for name in foreign_names(tree, own)}


def listed() -> set[tuple[str, str]]:
    return {(name, path) for name, (_, paths, _) in INTERFACES.items() for path in paths.split()}


def test_every_use_has_a_row_and_every_row_a_use() -> None:
    assert used(trees()) == listed()


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("trainer.fit_loop", "fit_loop"),
        ("x = trainer._callback_connector", "_callback_connector"),
        ("trainer._active_loop._fetcher_of_tomorrow = 1", "_fetcher_of_tomorrow"),
        ("def later():\n    from torch._dynamo import config", "_dynamo"),
        ("from torch import _tensor", "_tensor"),
        ("getattr(loader, '_index_sampler', None)", "_index_sampler"),
        ("import multiprocessing.reduction", "multiprocessing.reduction"),
    ],
)
def test_a_planted_use_is_found(line: str, name: str) -> None:
    files = trees()
    files["losses"].body += ast.parse(line).body
    assert (name, "losses") in used(files) - listed()


def test_every_interface_is_tested() -> None:
    assert set(INTERFACES) == TESTED


@cache
def private_names(cls: type) -> set[str]:
    """Those that a class itself defines, in its body or on self."""
    names = set(vars(cls))
    try:
        source = ast.parse(textwrap.dedent(getsource(cls)))
    except (OSError, TypeError):  # written in C
        source = ast.Module([], [])
    for node in ast.walk(source):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names |= {node.attr} if ast.unparse(node.value) == "self" else set()
    return {name for name in names if is_private(name)}


def test_no_class_of_ours_takes_a_private_name_of_its_base() -> None:
    """By chance: the library's own methods would then find our value."""
    taken = set()
    for module in pkgutil.walk_packages(vivit_train.__path__, "vivit_train."):
        if module.name.endswith(("__main__", "torchcodec", "decord", "search")):  # optional
            continue
        for cls in vars(importlib.import_module(module.name)).values():
            if isinstance(cls, type) and cls.__module__ == module.name:
                bases = [
                    b for b in cls.__mro__ if b.__module__.split(".")[0] in ("torch", "lightning")
                ]
                theirs = set().union(*map(private_names, bases))
                taken |= private_names(cls) & theirs
    assert taken == {"_data_parallel_size"}


class Notes(Callback):
    """What the interfaces say at each batch of a fit, and what then happened."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.validated_after: list[int] = []
        self.checkpoint: dict[str, Any] = {}
        self.ready_at_start: int | None = None
        self.sigterm: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loop: Any = trainer.fit_loop.epoch_loop
        self.ready_at_start = loop.batch_progress.current.ready
        self.restarting = loop.restarting
        self.sigterm = signal.getsignal(signal.SIGTERM)

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.rows.append({"total_batch_idx": trainer.fit_loop.epoch_loop.total_batch_idx})

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        loop: Any = trainer.fit_loop
        connector = trainer._logger_connector
        progress = loop.epoch_loop.batch_progress.total
        optimizer = loop.epoch_loop.automatic_optimization.optim_progress.optimizer
        self.rows[-1] |= {
            "accumulates": loop._should_accumulate(),
            "validates": loop.epoch_loop._should_check_val_fx(loop._data_fetcher),
            "logs": connector.should_update_logs,
            "row": {name: float(value) for name, value in connector.metrics["log"].items()},
            "stepped": loop.epoch_loop._batches_that_stepped,
            "processed": progress.processed,
            "completed": progress.completed,
            "step": trainer.global_step,
            "optimizer_steps": optimizer.step.total.completed,
        }

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated_after.append(len(self.rows))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.checkpoint = trainer._checkpoint_connector.dump_checkpoint()


class Model(LightningModule):
    """A weight that learns nothing in particular."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.log("train/number", float(batch_idx))
        return (self.weight * batch).sum()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(callback: Callback, **arguments: Any) -> Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu", "devices": 1, "max_epochs": 2, "accumulate_grad_batches": 2,
        "val_check_interval": 4, "num_sanity_val_steps": 0, "log_every_n_steps": 1,
        "enable_checkpointing": False, "enable_progress_bar": False,
        "enable_model_summary": False,
    }  # fmt: skip
    trainer = Trainer(callbacks=[callback], **{**settings, "logger": False, **arguments})
    loader: Any = DataLoader(torch.ones(5, 1))
    trainer.fit(Model(), loader, loader)
    return trainer


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Notes:
    """Of two epochs of 5 batches, two to an optimiser step, with validations after batch 4."""
    notes = Notes()
    notes.folder = tmp_path_factory.mktemp("fit")
    notes.trainer = fit(notes, logger=CSVLogger(notes.folder, name="", version=""))
    return notes


@holds("fit_loop", "val_check_batch")
def test_where_a_run_stands(notes: Notes) -> None:
    assert [row["total_batch_idx"] for row in notes.rows] == list(range(10))
    assert [row["processed"] for row in notes.rows] == list(range(1, 11))
    assert [row["completed"] for row in notes.rows] == list(range(10))  # after the hooks
    assert [row["optimizer_steps"] for row in notes.rows] == [row["step"] for row in notes.rows]
    assert (notes.ready_at_start, notes.restarting) == (0, False)
    assert notes.trainer.fit_loop.epoch_progress.current.completed == 2
    assert notes.trainer.val_check_batch == 4


def test_where_a_checkpoint_has_the_counters(notes: Notes) -> None:
    """They are written on resuming: see `same_steps._set_counters`."""
    loops = notes.checkpoint["loops"]["fit_loop"]
    counts = {"ready", "started", "processed", "completed"}
    for name in (
        "epoch_progress",
        "epoch_loop.batch_progress",
        "epoch_loop.val_loop.batch_progress",
    ):
        assert loops[name]["total"].keys() == loops[name]["current"].keys() == counts
    assert "is_last_batch" in loops["epoch_loop.batch_progress"]
    assert "_batches_that_stepped" in loops["epoch_loop.state_dict"]
    optimizer = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
    assert optimizer["step"]["total"]["completed"] == notes.checkpoint["global_step"] == 5


@holds("_should_accumulate")
def test_which_batches_end_a_step(notes: Notes) -> None:
    ends = [not row["accumulates"] for row in notes.rows]
    assert ends == [False, True, False, True, True] * 2
    steps = [0, *(row["step"] for row in notes.rows)]
    assert ends == [after > before for before, after in pairwise(steps)]


@holds("_should_check_val_fx", "_data_fetcher")
def test_which_batches_a_validation_follows(notes: Notes) -> None:
    said = [number for number, row in enumerate(notes.rows, start=1) if row["validates"]]
    assert said == notes.validated_after == [4, 9]


@holds("_logger_connector", "_batches_that_stepped")
def test_the_row_that_is_logged_next(notes: Notes) -> None:
    with (notes.folder / "metrics.csv").open() as file:
        logged = [(int(row["step"]), float(row["train/number"])) for row in csv.DictReader(file)]
    steps = [row for row in notes.rows if row["logs"] and not row["accumulates"]]
    assert [(row["stepped"], row["row"]["train/number"]) for row in steps] == logged
    assert [step for step, _ in logged] == list(range(6))


@holds("_signal_connector")
def test_signal_handlers_are_not_installed_where_that_is_replaced() -> None:
    before = signal.getsignal(signal.SIGTERM)

    class Off(Notes):
        def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
            trainer._signal_connector.register_signal_handlers = lambda: None

    stock, off = Notes(), Off()
    fit(stock, fast_dev_run=True)
    fit(off, fast_dev_run=True)
    assert off.sigterm == before != stock.sigterm


@holds("_broadcast_sigterm_tensor")
def test_the_broadcast_of_each_step() -> None:
    assert "_broadcast_sigterm_tensor" in _TrainingEpochLoop.advance.__code__.co_names
    assert list(signature(_TrainingEpochLoop._broadcast_sigterm_tensor).parameters) == ["self"]


@holds("_launch_process_observer", "_basic_subprocess_cmd", "_hydra_subprocess_cmd")
@pytest.mark.parametrize("by_hydra", [False, True])
def test_how_the_other_processes_are_started(
    by_hydra: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "0")  # it leaves them changed
    monkeypatch.delenv("LOCAL_RANK")  # of a process that another one has started
    monkeypatch.setattr("hydra.core.hydra_config.HydraConfig.initialized", lambda: by_hydra)
    started, seen = [], []
    monkeypatch.setattr(
        subprocess, "Popen", lambda command, env, cwd: started.append((command, cwd)) or "process"
    )
    monkeypatch.setattr(subprocess_script, "_launch_process_observer", seen.extend)
    monkeypatch.setattr(subprocess_script, "_basic_subprocess_cmd", lambda: ["ours"])
    monkeypatch.setattr(subprocess_script, "_hydra_subprocess_cmd", lambda rank: (["by it"], "/x"))
    launcher = subprocess_script._SubprocessScriptLauncher(LightningEnvironment(), 2, 1)
    monkeypatch.setattr(LightningEnvironment, "local_rank", lambda self: 0)
    assert launcher.launch(lambda: "done") == "done"
    assert started == [(["by it"], "/x") if by_hydra else (["ours"], None)]
    assert seen == ["process"]


@holds("_timeout")
def test_the_timeout_of_collectives(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {}
    monkeypatch.setattr(
        "lightning.pytorch.strategies.ddp._init_dist_connection", lambda *_, **k: given.update(k)
    )
    trainer = Trainer(strategy="ddp", accelerator="cpu", devices=1, logger=False)
    trainer.strategy._timeout = timedelta(seconds=7)
    trainer.strategy.setup_environment()
    assert given["timeout"] == timedelta(seconds=7)


@holds("_data_parallel_size")
def test_the_mesh_is_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    from vivit_train.launch.sharding import Sharded

    meshes = []
    place = "lightning.pytorch.strategies.model_parallel"
    monkeypatch.setattr(f"{place}._setup_device_mesh", lambda *sizes: meshes.append(sizes[:2]))
    monkeypatch.setattr(f"{place}.ModelParallelStrategy._setup_distributed", lambda self: None)
    monkeypatch.setattr(Sharded, "num_processes", 4)
    monkeypatch.setattr(Sharded, "world_size", 8)
    monkeypatch.setattr(Sharded, "root_device", torch.device("cpu"))
    strategy = Sharded()
    strategy.num_nodes = 2
    strategy._accelerator = SimpleNamespace(setup_device=lambda device: None)
    strategy._lightning_module = Model()
    strategy.setup_environment()
    assert meshes == [(8, 1)]


@holds("checkpoint_connector")
def test_where_an_error_of_restoring_is_from(tmp_path: Path) -> None:
    import traceback

    notes = Notes()
    trainer = fit(notes)
    broken = {**notes.checkpoint, "optimizer_states": [{"param_groups": [], "state": {}}]}
    torch.save(broken, tmp_path / "broken.ckpt")
    loader: Any = DataLoader(torch.ones(5, 1))
    with pytest.raises(ValueError, match="different number of parameter groups") as error:
        trainer.fit(Model(), loader, ckpt_path=tmp_path / "broken.ckpt", weights_only=True)
    frames = traceback.extract_tb(error.value.__traceback__)
    names = [f.name for f in frames if f.filename.endswith("checkpoint_connector.py")]
    assert any("restore" in name for name in names)


@holds("_wandb_init")
def test_what_wandb_is_started_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    given: dict[str, Any] = {}

    def init(**arguments: Any) -> None:
        given.update(arguments)
        raise InterruptedError

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb, "run", None)
    logger = WandbLogger(save_dir=tmp_path, name="x", mode="offline")
    assert logger._wandb_init.pop("anonymous") is None
    with pytest.raises(InterruptedError):
        _ = logger.experiment
    assert given["mode"] == "offline"
    assert "anonymous" not in given


@holds("_step_supports_amp_scaling")
def test_who_undoes_loss_scaling() -> None:
    from lightning.fabric.plugins.precision.amp import _optimizer_handles_unscaling

    for declines in (False, True):
        gradients = []
        weight = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.AdamW([weight], fused=True)
        assert optimizer._step_supports_amp_scaling
        if declines:
            optimizer._step_supports_amp_scaling = False
        assert _optimizer_handles_unscaling(optimizer) is not declines
        optimizer.register_step_pre_hook(
            lambda *_, w=weight, seen=gradients: seen.append(w.grad.clone())
        )
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        scaler.scale(weight.sum()).backward()
        scaler.step(optimizer)
        (gradient,) = gradients
        assert torch.equal(gradient, torch.full((3,), 1.0 if declines else 1024.0))


@holds("_iterator", "_workers", "_shutdown_workers")
def test_the_workers_of_a_loader() -> None:
    loader: Any = DataLoader(torch.ones(4, 1), num_workers=1, persistent_workers=True)
    batches = iter(loader)
    next(batches)
    assert loader._iterator is batches
    (worker,) = batches._workers
    assert worker.is_alive()
    assert isinstance(worker.pid, int)
    batches._shutdown_workers()
    assert not worker.is_alive()


@holds("_subclasses")
def test_fake_tensors_have_sizes_and_no_memory() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        much = torch.empty(2**40)
        assert (much + 1).shape == much.shape
        assert much.untyped_storage().nbytes() == 2**42


@pytest.mark.skipif(sys.platform != "linux", reason="memfd is Linux's")
@holds("_new_shared_fd_cpu")
def test_memory_that_is_a_file() -> None:
    with os.fdopen(os.memfd_create("x"), "w+b") as file:
        file.write(bytes([1, 2, 3, 4]))
        file.flush()
        storage = torch.UntypedStorage._new_shared_fd_cpu(file.fileno(), 4)
        tensor = torch.empty(0, dtype=torch.uint8).set_(storage)
        assert tensor.tolist() == [1, 2, 3, 4]
        os.pwrite(file.fileno(), bytes([9]), 1)
        assert tensor.tolist() == [1, 9, 3, 4]  # no copy
    tensor += 1  # and it outlives the descriptor
    assert storage.is_shared()


@pytest.mark.skipif(
    not Path("/proc/cpuinfo").is_file() or "flags" not in Path("/proc/cpuinfo").read_text(),
    reason="an x86 processor under Linux says what it has",
)
@holds("_is_amx_tile_supported", "_is_avx512_bf16_supported", "_is_arm_bf16_supported")
def test_what_a_processor_has() -> None:
    flags = re.search(r"^flags\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.M)[1].split()
    assert torch.cpu._is_amx_tile_supported() is ("amx_tile" in flags)
    assert torch.cpu._is_avx512_bf16_supported() is ("avx512_bf16" in flags)
    assert not getattr(torch.cpu, "_is_arm_bf16_supported", lambda: False)()


@holds("_internal")
def test_the_flags_of_hydra() -> None:
    from hydra._internal.utils import get_args_parser

    words = ["a=1", "-m", "b=2", "--cfg", "job", "--config-name", "other"]
    parsed = get_args_parser().parse_intermixed_args(words)
    assert parsed.overrides == ["a=1", "b=2"]
    assert (parsed.multirun, parsed.cfg, parsed.config_name) == (True, "job", "other")
    unset = parsed.config_path, parsed.config_dir, parsed.experimental_rerun
    assert not any((*unset, parsed.shell_completion))


@holds("_get_node", "_value")
def test_values_as_they_are_written() -> None:
    from omegaconf import DictConfig, OmegaConf

    config: Any = OmegaConf.create({"a": "${b}", "b": {"c": None}, "d": "???", "e": None})
    assert config._get_node("a")._value() == "${b}"
    assert config._get_node("d")._value() == "???"
    assert isinstance(config._get_node("b"), DictConfig)
    assert config._get_node("b")._value() is not None


@holds("_fused_sdp_choice")
def test_torch_tells_which_attention_kernel_it_takes() -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    q = torch.zeros(1, 2, 8, 16)
    for backend in (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION):
        with sdpa_kernel([backend]):
            assert torch._fused_sdp_choice(q, q, q, dropout_p=0.0) == backend.value


@holds("multiprocessing.util")
def test_what_ends_with_a_process(tmp_path: Path) -> None:
    code = """
import multiprocessing.util
from multiprocessing.util import Finalize
print(multiprocessing.util.get_temp_dir())
Finalize(None, print, args=("second",), exitpriority=1)
Finalize(None, print, args=("first",), exitpriority=2)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    folder, *order = done.stdout.split()
    assert order == ["first", "second"]
    assert Path(folder).parent == tmp_path
    assert not Path(folder).exists()  # it removes it
    assert callable(util.get_temp_dir)


@holds("multiprocessing.reduction")
def test_files_handed_to_another_process() -> None:
    ours, theirs = socket.socketpair()
    with Connection(ours.detach()) as sender, Connection(theirs.detach()) as receiver:
        with os.fdopen(os.memfd_create("x"), "wb") as file:
            file.write(b"inside")
            file.flush()
            send_handle(sender, file.fileno(), None)
        handle = recv_handle(receiver)
    assert os.pread(handle, 6, 0) == b"inside"
    os.close(handle)
    tensor = torch.arange(3)
    assert torch.equal(ForkingPickler.loads(ForkingPickler.dumps(tensor)), tensor)
