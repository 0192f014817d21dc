"""Sweeps: what runs, what is skipped, and what becomes of trials that fail."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from PIL import Image

from tests.conftest import REPOSITORY
from tests.sweep_program import scores, signal_once_begun, starts
from vivit_train.errors import UserError
from vivit_train.runs import folders
from vivit_train.runs.trial import trials_of
from vivit_train.sweep.command import compose_hydra, is_sweep
from vivit_train.sweep.runner import Sweep


class TestGrid:
    def test_every_combination_and_one_table(self, run, home: Path, capfd) -> None:
        assert run("optim.lr=0.25,0.5", "seed=1,2", "model.num_layers=2") == 0
        found = [(w["optim.lr"], w["seed"]) for f in "0123" for w in starts(home / f)]
        assert found == [("0.25", "1"), ("0.25", "2"), ("0.5", "1"), ("0.5", "2")]
        assert all(starts(home / f)[0]["model.num_layers"] == "2" for f in "0123")
        table = scores(home)
        assert [(row["optim.lr"], row["top1"]) for row in table] == [
            ("0.5", "1.0"), ("0.5", "1.0"), ("0.25", "0.75"), ("0.25", "0.75"),
        ]  # fmt: skip
        assert "model.num_layers" not in table[0]
        with Image.open(home / "sweep.png") as image:
            assert image.format == "PNG"
            assert image.height > 4 * 14
        screen = capfd.readouterr().out
        assert "optim.lr  seed" in screen
        assert screen.splitlines()[-1] == str(home)

    def test_values_may_come_from_the_configuration(self, run, home: Path) -> None:
        assert run("+hydra.sweeper.params={optim.lr: '0.25,0.5'}", "seed=1") == 0
        assert [starts(home / f)[0]["optim.lr"] for f in "01"] == ["0.25", "0.5"]

    def test_a_trial_that_fails_stops_no_other(self, run, home: Path, capfd) -> None:
        assert run("seed=13,14,1", "optim.lr=0.5") == 1
        assert [trial.error for trial in trials_of(home)] == [
            "ValueError: unlucky (exit code 1)", "killed by SIGKILL", None,
        ]  # fmt: skip
        assert (home / "2/results.json").is_file()
        errors = capfd.readouterr().err
        log = home / "0/log.txt"
        assert f"error: trial 0 (seed=13): ValueError: unlucky (exit code 1); see {log}" in errors
        assert "error: trial 1 (seed=14): killed by SIGKILL" in errors
        assert f"repeat the command with hydra.sweep.dir='{home}'" in errors
        assert "trial 2 (" not in errors
        assert log.read_text().startswith("warming up") or "Traceback" in log.read_text()
        assert [row["state"].split(":")[0] for row in scores(home)] == [
            "finished", "failed", "failed",
        ]  # fmt: skip

    def test_repeating_runs_what_is_not_finished(self, run, home: Path) -> None:
        run("seed=13,1", "optim.lr=0.5")
        assert run("seed=13,1,2", "optim.lr=0.5") == 1
        assert [len(starts(home / f)) for f in "012"] == [2, 1, 1]
        # Known by what they are, not by their place.
        assert run("seed=2,1", "optim.lr=0.5") == 0
        assert [len(starts(home / f)) for f in "012"] == [2, 1, 1]
        # Another value of what does not vary makes other trials.
        assert run("seed=2", "optim.lr=0.25") == 0
        assert [trial.varied for trial in trials_of(home)][3:] == [[]]

    def test_a_signal_handler_starts_no_program(self) -> None:
        """`scancel` may take long; it runs between two looks at the trials."""
        told: list[int] = []
        running = Sweep(SimpleNamespace(), SimpleNamespace(n_jobs=1))
        running._running[0] = SimpleNamespace(), SimpleNamespace(stop=told.append)
        running._take_down(signal.SIGHUP, None)
        running._take_down(signal.SIGINT, None)
        assert told == []
        running._pass_on()
        assert told == [signal.SIGHUP, signal.SIGINT]
        assert running.received == signal.SIGINT

    def test_a_folder_is_of_one_sweep_at_a_time(self, run, home: Path, monkeypatch) -> None:
        monkeypatch.setattr(folders, "HEARTBEAT_SECONDS", 0.1)
        with folders.owned(home, "hydra.sweep.dir"):
            with pytest.raises(UserError, match=f"hydra.sweep.dir={home} is in use by process"):
                run("seed=1", "optim.lr=0.5")
            assert trials_of(home) == []

    def test_stopped_by_a_signal_it_goes_on_when_repeated(self, run, home: Path, capfd) -> None:
        signal_once_begun(home, signal.SIGTERM)
        assert run("seed=15,1", "optim.lr=0.5") == 128 + signal.SIGTERM
        assert (home / "0/saved").is_file()
        assert not (home / "1").exists()
        assert trials_of(home)[0].error is None
        assert scores(home)[0]["state"].startswith("epoch 1 of")
        assert "to continue, repeat the command" in capfd.readouterr().err
        assert run("seed=15,1", "optim.lr=0.5") == 0
        assert [len(starts(home / f)) for f in "01"] == [2, 1]
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run_dir=x"], "run_dir=x: each trial of a sweep has a numbered folder in the sweep's"),
        (["ckpt_path=x"], "ckpt_path=x: each trial"),
        (["optim.lrr=1,2"], "did you mean optim.lr"),
        (["optim.lr=interval(0,1)"], "a grid needs a list of values, e.g. optim.lr=0.1,0.2"),
        (["hydra/sweeper=best"], "Could not find 'hydra/sweeper/best'"),
        (["hydra.launcher.jobs=2"], "hydra.launcher.jobs"),
        (["hydra.launcher.n_jobs=0"], "hydra.launcher.n_jobs=0: expected a whole number, 1"),
    ],
)
def test_mistakes_end_before_anything_runs(words, message, run, home: Path) -> None:
    with pytest.raises(UserError) as error:
        run(*words)
    assert message in str(error.value)
    assert not home.exists()


def test_not_under_torchrun(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(UserError, match="without torchrun, with trainer.devices=N"):
        run("seed=1,2")


def test_whose_sweep_it_is() -> None:
    assert not is_sweep(["optim.lr=1"])
    assert is_sweep(["-m", "optim.lr=1,2"])
    assert is_sweep(["--multirun", "hydra/launcher=slurm"])
    assert not is_sweep(["-m", "hydra/launcher=basic"])  # Hydra's own
    for word in ("hydra/launcher=slurm", "hydra.sweep.dir=x", "hydra/sweeper=optuna"):
        with pytest.raises(UserError, match="is for sweeps: add -m"):
            is_sweep([word])
    assert compose_hydra([]).sweep.dir.startswith("runs/sweeps/2")


@pytest.mark.slow
def test_train_py_with_two_processes_per_trial(
    small: tuple[str, ...], tmp_path: Path, command
) -> None:
    """The whole way: both ranks of a trial get its values, one trial fails, the other trains."""
    home = tmp_path / "sweep"
    words = [*small, "trainer.max_epochs=1", "trainer.devices=2", "trainer.strategy=ddp"]
    words += ["data.batch_size=2", "model.num_heads=3,1", f"hydra.sweep.dir={home}"]
    done = command("train.py", "-m", *words)
    assert done.returncode == 1, done.stderr
    assert "error: trial 0 (model.num_heads=3): model.hidden_size=16 is not a m" in done.stderr
    assert done.stdout.splitlines()[-1] == str(home)
    results = json.loads((home / "1/results.json").read_text())
    assert results["num_videos_scored"] == 16
    assert results["devices"] == 2
    assert OmegaConf.load(home / "1/config.yaml").model.num_heads == 1


@pytest.mark.slow
def test_two_nodes_of_two_processes(small: tuple[str, ...], tmp_path: Path) -> None:
    """Two launches of torchrun, as on two machines with one file system: one run folder."""
    runs = tmp_path / "runs"
    words = [*small, f"run_dir={runs}/${{now:%f}}", "trainer.devices=2", "trainer.num_nodes=2"]
    words += ["trainer.strategy=ddp", "data.batch_size=1", "trainer.max_epochs=1"]
    launch = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=2"]
    launch += ["--rdzv-backend=static", "--master-addr=127.0.0.1", "--master-port=29671"]
    nodes = [
        subprocess.Popen(
            [sys.executable, *launch, f"--node-rank={node}", "train.py", *words],
            cwd=REPOSITORY, stdout=subprocess.PIPE, text=True,
        )
        for node in (0, 1)
    ]  # fmt: skip
    said = [node.communicate(timeout=250)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0]
    (run,) = runs.iterdir()
    assert said[0].splitlines()[-1] == str(run)
    results = json.loads((run / "results.json").read_text())
    assert (results["devices"], results["num_videos_scored"]) == (4, 16)
