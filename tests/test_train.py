"""The main job from end to end, in one process and in two, stopped and resumed."""

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from tests.conftest import REPOSITORY, hears_ctrl_c
from tests.faults import Training, same_run
from train import train
from vivit_train import load
from vivit_train.config import compose_config
from vivit_train.errors import UserError


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_run_folder(finished_run: Path) -> None:
    names = sorted(p.relative_to(finished_run).as_posix() for p in finished_run.rglob("*.*"))
    # Other tests evaluate the same run, which adds a folder of its own.
    assert [name for name in names if not name.startswith("evaluations/")] == [
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "checkpoints/previous.ckpt",
        "classes.csv",
        "config.yaml",
        "confusion.csv",
        "metrics.csv",
        "predictions.csv",
        "report.html",
        "results.json",
        "videos.json.gz",
    ]


def test_results(finished_run: Path) -> None:
    results = json.loads((finished_run / "results.json").read_text())
    assert results["num_videos"] == results["num_videos_scored"] == 16
    assert results["undecodable"] == []
    assert results["views"] == [2, 1]
    assert results["precision"] == "32-true"
    assert results["seed"] == 0
    assert results["versions"]["torch"] == torch.__version__
    assert len(results["split_fingerprint"]) == 16
    for score in ("top1", "top5", "mean_class_accuracy"):
        assert 0 <= results[score] <= 1
    assert round(results["top1"] * 16, 9).is_integer()


def test_metrics(finished_run: Path) -> None:
    table = rows(finished_run)
    losses = [float(row["train/loss"]) for row in table if row["train/loss"]]
    assert len(losses) == 16  # 32 clips / 4 x 2 epochs, every step logged
    assert all(torch.isfinite(torch.tensor(losses)))
    assert sum(bool(row["val/top1"]) for row in table) == 2
    rates = [float(row["train/lr"]) for row in table if row["train/lr"]]
    assert rates[0] == 0  # Scenic's warm-up starts at 0
    assert max(rates) == pytest.approx(1e-3)


def test_checkpoints_hold_plain_values_only(finished_run: Path) -> None:
    for name in ("best", "last"):
        path = finished_run / "checkpoints" / f"{name}.ckpt"
        assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []


@pytest.mark.parametrize("every", [3, 0], ids=["inside an epoch", "between epochs"])
def test_a_killed_run_goes_on_to_the_same_weights(
    every: int, finished_run: Path, small: tuple[str, ...], tmp_path: Path
) -> None:
    """SIGKILL after a save; the resumed run ends with the weights of one never stopped."""
    run = tmp_path / "killed"
    last = run / "checkpoints" / "last.ckpt"
    words = [*small, f"run_dir={run}", f"callbacks.every_n_train_steps={every}"]
    training = Training(words, tmp_path / "log")
    assert training.wait_for(last.is_file), training.said()
    training.send(signal.SIGKILL)
    assert training.end() == -signal.SIGKILL, training.said()
    step = torch.load(last, weights_only=True)["global_step"]
    assert step % (every or 8) == 0
    assert step < 16

    training = Training([f"ckpt_path={last}"], tmp_path / "log")
    assert training.end() == 0, training.said()
    assert training.said().strip().endswith(str(run))
    same_run(run, finished_run)


FACTORISED = [f"model.attention=factorised_{name}" for name in ("self_attention", "dot_product")]
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "model",
    [
        (),
        ("model.attention=factorised_encoder", "model.temporal_layers=1"),
        *[pytest.param((name, "model.pooling=mean"), marks=SLOW) for name in FACTORISED],
    ],
    ids=["model_1", "model_2", "model_3", "model_4"],
)
def test_two_processes_one_run_folder(
    model: tuple[str, ...], small: tuple[str, ...], tmp_path: Path
) -> None:
    """The other process is a fresh interpreter, which the first starts."""
    runs = tmp_path / "runs"
    words = [*small, *model, f"run_dir={runs}/${{now:%S}}", "trainer.devices=2"]
    words += ["trainer.strategy=ddp", "data.batch_size=2", "trainer.max_epochs=1"]
    training = Training(words, tmp_path / "log")
    assert training.end(240) == 0, training.said()
    assert len(list(runs.iterdir())) == 1
    run = next(runs.iterdir())
    results = json.loads((run / "results.json").read_text())
    assert results["num_videos_scored"] == 16
    assert results["devices"] == 2
    assert len([row for row in rows(run) if row["train/loss"]]) == 8
    classifier = load(run / "checkpoints" / "best.ckpt")
    assert not model or model[0] == f"model.attention={classifier.model.attention}"


def test_torchrun(small: tuple[str, ...], tmp_path: Path, command) -> None:
    """One run of the processes that it starts, whose number need not be said again."""
    runs = tmp_path / "runs"
    done = command(
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py", *small,
        f"run_dir={runs}/${{now:%f}}", "trainer.devices=auto",
        "data.batch_size=2", "trainer.max_epochs=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list(runs.iterdir())) == 1
    results = json.loads((next(runs.iterdir()) / "results.json").read_text())
    assert results["num_videos_scored"] == 16


MISTAKES = {
    "trainer.max_epoch=3": "did you mean trainer.max_epochs",
    "+trainer.max_epoch=3": "did you mean trainer.max_epochs",
    "++trainer.max_epoch=3": "did you mean trainer.max_epochs",
    "ckpt_path=null +optim.lrr=1": "there is no key 'optim.lrr'",
    "++ckpt_path=none optim.lrr=1": "there is no key 'optim.lrr'",
    "ckpt_path=auto run_dir=x +optim.lrr=1": "there is no key 'optim.lrr'",
    "--cfg job +optim.lrr=1": "there is no key 'optim.lrr'",
    "+optim.lrr=1 --info all": "there is no key 'optim.lrr'",
    "seed=1 -m +optim.lrr=1,2": "there is no key 'optim.lrr'",
    "--config-path x +optim.lrr=1": "no key can be added",
    "--config-dir x seed=1": "--config-dir x: expected a folder with yaml files in folders named",
    "--config-path /nowhere seed=1": "/nowhere",
    "--config-name nothing": "nothing",
    "data@x=csv": "data@x=csv: every group is there once",
    "+data@x=csv": "+data@x=csv: every group is there once",
    "+model=vivit_b": "+model=vivit_b: every group is there once",
    "~optim.lr": "keys can be set, not removed",
    "+seed=1": "+seed=1: the key exists, write it without the +",
    "--fast": "unrecognized arguments: --fast",
    "model=vivit_bb": "did you mean vivit_b or ",
    "experiment=nope": "experiment=nope: there is no such option",
    "data=video": "data=video only holds what all data sets have in common",
    "optim={lr: 1}": "optim={lr: 1}: there is no such option",
    "optim.lr=fast": "optim.lr=fast: expected a number",
    "optim.lr=1e-4,3e-4": "add -m",
    "optim.lr=1e-4,x -m": "optim.lr=x: expected a number",
    "data.batch_size=null": "data.batch_size=null: expected a whole number",
    "data.frame_stride=${optim.lr}": "data.frame_stride=0.001: expected a whole number",
    "model.from_image={inflation: x}": "model.from_image.inflation=x: expected central",
    "model.from_image={x: 1}": "there is no key 'model.from_image.x'",
    "data.root=/nowhere": "To use the videos in that folder add data=folder",
    "ckpt_path=nowhere.ckpt": "expected RUN/checkpoints/last.ckpt",
    "--cfg job ckpt_path=nowhere.ckpt": "config.yaml in its folder",
    "hydra.launcher.n_jobs=0 -m": "hydra.launcher.n_jobs=0: expected a whole number",
    "hydra.launcher.jobs=2 -m": "hydra.launcher.jobs",
    "experiment=vivit_b_k400": "model.pretrained=none to start from scratch",
    "optim.warmup_epochs=5 trainer.max_epochs=2": (
        "optim.warmup_epochs=5: the run ends after 2 epochs (trainer.max_epochs=2), and the "
        "warm-up must end before: give less than 2, e.g. optim.warmup_epochs=0.2, or 0"
    ),
}


def test_mistakes_are_answered_in_a_line_before_torch_is_imported(command) -> None:
    probe = (
        "import json, runpy, sys\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    sys.argv = ['train.py', *words]\n"
        "    try: runpy.run_path('train.py', run_name='__main__')\n"
        "    except SystemExit as end: print(json.dumps(end.code))\n"
        "assert 'torch' not in sys.modules"
    )
    lines = [shlex.split(line.replace("{", "'{").replace("}", "}'")) for line in MISTAKES]
    done = command("-c", probe, json.dumps(lines))
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    for words, expected, message in zip(MISTAKES, MISTAKES.values(), told, strict=True):
        assert message.startswith("error: "), words
        assert expected in message, words
        assert len(message.splitlines()) == 1, words


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "trainer.val_check_interval=100",
            "trainer.val_check_interval=100: an epoch has 8 batches",
        ),
        ("trainer.limit_train_batches=0.01", "Please increase the"),
    ],
)
def test_what_only_the_data_can_tell(word, message, small, tmp_path: Path) -> None:
    with pytest.raises((UserError, MisconfigurationException), match=message):
        train(compose_config([*small, f"run_dir={tmp_path}/run", word]))


@pytest.mark.parametrize(("given", "spins"), [(None, "10000"), ("5", "5")])
@pytest.mark.parametrize("program", ["train.py modle=x", "vivit_train/__main__.py --help"])
def test_waiting_threads_leave_cores_to_workers(
    program: str, given: str | None, spins: str, monkeypatch: pytest.MonkeyPatch, command
) -> None:
    probe = (
        "import os, runpy, sys; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules  # which reads it when imported\n"
        "print('spins', os.environ['GOMP_SPINCOUNT'])"
    )
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if given:
        monkeypatch.setenv("GOMP_SPINCOUNT", given)
    done = command("-c", probe, *program.split())
    assert done.stdout.splitlines()[-1] == f"spins {spins}", done.stderr


def test_an_error_is_one_message(tmp_path: Path) -> None:
    training = Training(["data=folder", f"data.root={tmp_path}/nowhere"], tmp_path / "log")
    assert training.end() == 1
    (told,) = training.said().splitlines()
    assert told.startswith("error: data.root=")


def test_ctrl_c_leaves_a_checkpoint_to_resume_from(small: tuple[str, ...], tmp_path: Path) -> None:
    """An interrupted run ends by itself with code 130, and what it saved is whole."""
    run = tmp_path / "run"
    words = ["train.py", *small, f"run_dir={run}", "callbacks.every_n_train_steps=1"]
    process = subprocess.Popen(
        [sys.executable, *words, "trainer.max_epochs=50"],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hears_ctrl_c,
    )
    last = run / "checkpoints" / "last.ckpt"
    try:
        deadline = time.monotonic() + 120
        while not last.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert last.exists(), "no checkpoint was written"
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGINT, told
    assert f"stopped by SIGINT; resume with: python train.py ckpt_path={last}" in told
    assert "Traceback" not in told
    assert torch.load(last, weights_only=True)["global_step"] >= 1
