import gc
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from vivit_train.data.demo_clips import write_demo

REPOSITORY = Path(__file__).parents[1]

# A run that takes seconds: 32 training and 16 validation clips, a model of two thin layers.
SMALL = (
    "data.train_per_class=4",
    "data.val_per_class=2",
    "data.batch_size=4",
    "data.num_workers=1",
    "data.clip_frames=4",
    "model.num_frames=4",
    "model.image_size=16",
    "model.hidden_size=16",
    "model.num_layers=2",
    "model.num_heads=2",
    "model.mlp_size=32",
    "model.drop_path=0.2",
    "model.dropout=0.1",
    "augment=basic",
    "augment.hue=0.0",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.precision=32-true",
    "trainer.log_every_n_steps=1",
    "optim.warmup_epochs=0.5",
    "optim.layer_decay=0.8",
    "callbacks.ema_decay=0.9",
)


def measure_small_matrices() -> None:
    """Spares each training the half second in which it measures the machine by large products.

    How it measures is tested in tests/callbacks/test_utilisation.py.
    """
    from vivit_train.callbacks import utilisation

    utilisation.MATRIX_SIDE = {"cpu": 64, "cuda": 8192}
    utilisation.MATRIX_SECONDS = 0.0


def pytest_collection_finish() -> None:
    """Leaves what is imported by now out of garbage collections, which else take 0.4 s each.

    A command that ends with an error collects garbage, and many tests give one a mistake.
    """
    if "lightning" in sys.modules:  # there are tests that train
        measure_small_matrices()
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Ends as Python does; else Triton names thousands of its functions as leaked."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo data set."""
    root = tmp_path_factory.mktemp("data") / "demo"
    write_demo(root, 4, 2)
    return root


@pytest.fixture(scope="session")
def uneven(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of a run that takes seconds: half of its classes have 4 clips, the others 1."""
    root = tmp_path_factory.mktemp("data") / "uneven"
    for i, folder in enumerate(sorted((demo_root / "train").iterdir())):
        for clip in sorted(folder.iterdir())[: 4 if i % 2 else 1]:
            place = root / "train" / folder.name / clip.name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(clip)
    (root / "val").symlink_to(demo_root / "val")
    words = [word for word in SMALL if "_per_class" not in word]
    return ["data=folder", *words, f"data.root={root}"]


@pytest.fixture(scope="session")
def small(demo_root: Path) -> tuple[str, ...]:
    """Overrides of a run that takes seconds."""
    return (*SMALL, f"data.root={demo_root}")


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a Python program of the repository as a user would, and returns what it printed."""

    def run(*words: str, timeout: float = 240, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words],
            cwd=REPOSITORY,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def finished_run(small: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run from start to end."""
    from train import train
    from vivit_train.config import compose_config

    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    return train(compose_config([*small, f"run_dir={run_dir}"]))


@pytest.fixture
def children() -> Callable[[], set[BaseProcess]]:
    """Tells which processes of ``multiprocessing`` the test has started and are alive.

    An earlier test may leave some, which end at any time: a loader's workers live until it is
    collected.
    """
    before = set(multiprocessing.active_children())
    return lambda: set(multiprocessing.active_children()) - before


def hears_ctrl_c() -> None:
    """For ``preexec_fn``: a child listens to SIGINT even where the tests run in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
