"""Trainings that are killed, stopped and starved go on to what they would have become."""

import contextlib
import io
import os
import random
import resource
import signal
import tempfile
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.faults import Training, rows, same_run
from tests.test_extending import code_of
from vivit_train.module import VivitModule
from vivit_train.runs.resume import damage

# Everything that draws at random, and batches that are no whole steps.
RANDOM = (
    "data.batch_size=4",
    "data.num_workers=2",
    "augment.mixup=0.8",
    "augment.cutmix=1.0",
    "augment.repeats=2",
    "trainer.accumulate_grad_batches=2",
    "trainer.max_epochs=3",
    "callbacks.every_n_train_steps=3",
)


@pytest.fixture(scope="module")
def words(small: tuple[str, ...]) -> list[str]:
    return [*small, *RANDOM]


@pytest.fixture(scope="module")
def whole(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to: 16 batches, 8 steps per epoch."""
    run = tmp_path_factory.mktemp("whole") / "run"
    training = Training([*words, f"run_dir={run}"], run.parent / "log")
    assert training.end() == 0, training.said()
    assert len([row for row in rows(run) if row["train/loss"]]) == 24
    return run


def auto(words: list[str], run: Path) -> list[str]:
    return [*words, f"run_dir={run}", "ckpt_path=auto"]


def killed_in_write(number: int, by: int = signal.SIGKILL) -> None:
    """In the process: gets a signal when the file of the n-th checkpoint is half written."""
    save, calls = torch.save, []

    def half(content, file, *args, **kwargs):
        calls.append(file)
        if len(calls) < number:
            return save(content, file, *args, **kwargs)
        buffer = io.BytesIO()
        save(content, buffer)
        file.write(buffer.getvalue()[: buffer.tell() // 2])
        file.flush()
        os.kill(os.getpid(), by)
        time.sleep(60)  # it is answered by another thread

    torch.save = half


def signalled(number: int, method: str, call: int) -> None:
    """In the process: gets a signal during the n-th call of a method of the module."""
    step, calls = getattr(VivitModule, method), []

    def stepped(self, *args):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return step(self, *args)

    setattr(VivitModule, method, stepped)


def interrupted_twice() -> None:
    """In the process: Ctrl-C in the fifth step, and again while that is saved."""
    signalled(signal.SIGINT, "training_step", 9)
    killed_in_write(2, signal.SIGINT)  # the first is of step 3


def out_of_room(number: int) -> None:
    """In the process: the file of the n-th checkpoint meets a limit half way."""
    save, calls = torch.save, []

    def limited(content, file, *args, **kwargs):
        calls.append(file)
        if len(calls) == number:
            resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
        return save(content, file, *args, **kwargs)

    torch.save = limited


def cut_short(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def test_a_run_killed_anywhere_ends_the_same(words: list[str], whole: Path, tmp_path: Path) -> None:
    """While a checkpoint is written, inside a step's batches, inside a validation."""
    run = tmp_path / "run"
    last = run / "checkpoints" / "last.ckpt"
    for fault in (
        partial(killed_in_write, 3),
        partial(signalled, signal.SIGKILL, "training_step", 12),
        partial(signalled, signal.SIGKILL, "validation_step", 2),
    ):
        training = Training(auto(words, run), tmp_path / "log", fault)
        assert training.end() == -signal.SIGKILL, training.said()
    assert "DAMAGED" not in training.said()
    cut_short(last)
    training = Training(auto(words, run), tmp_path / "log")
    assert training.end() == 0, training.said()
    assert f"warning: DAMAGED CHECKPOINT {last}" in training.said()
    assert f"Resuming from {last.with_name('previous.ckpt')}" in training.said()
    same_run(run, whole)
    assert list(run.rglob("*.tmp-*")) == []


def test_parts_of_ones_own_are_killed_and_end_the_same(words: list[str], tmp_path: Path) -> None:
    """The callback of docs/extending.md, an outside logger, a schedule, and early stopping."""
    mine = tmp_path / "mine"
    for code in code_of("extending", "(?:python|yaml)"):
        path = mine / code.splitlines()[0].removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    # No score is above 1, so a run stops early once three steps have passed since its best one.
    words = [*words, "trainer.max_epochs=9", "callbacks.patience_steps=3", "callbacks=spikes"]
    words += ["optim.schedule._target_=torch.optim.lr_scheduler.StepLR"]
    words += ["optim.schedule.step_size=5", "--config-dir", str(mine)]
    log = "logger.extra.csv._target_=lightning.pytorch.loggers.CSVLogger"
    words += [log, f"logger.extra.csv.save_dir={tmp_path}/csv"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    training = Training([*words, f"run_dir={whole}"], tmp_path / "log")
    assert training.end() == 0, training.said()
    assert "stopping early: val/top1 has not been better for " in training.said()
    steps = len([row for row in rows(whole) if row["train/loss"]])
    assert 11 < steps < 72
    for call in (13, 10):  # batches: in step 7, and after the 6 steps that were kept in step 11
        fault = partial(signalled, signal.SIGKILL, "training_step", call)
        training = Training(auto(words, run), tmp_path / "log", fault)
        assert training.end() == -signal.SIGKILL, training.said()
    training = Training(auto(words, run), tmp_path / "log")
    assert training.end() == 0, training.said()
    same_run(run, whole)
    ours, theirs = (
        torch.load(r / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
        for r in (run, whole)
    )
    assert {"Spikes", "EarlyStopping"} <= {name.partition("{")[0] for name in theirs}
    for name in theirs:
        if name.startswith(("Spikes", "EarlyStopping")):
            assert ours[name] == theirs[name]


def test_a_run_that_is_told_to_stop_goes_on_the_same(
    words: list[str], whole: Path, tmp_path: Path
) -> None:
    """In the first of a step's two batches, inside a validation, in the test."""
    run = tmp_path / "run"
    for number, method, call in (
        (signal.SIGHUP, "training_step", 5),
        (signal.SIGUSR1, "validation_step", 2),
        (signal.SIGTERM, "test_step", 1),
    ):
        training = Training(
            auto(words, run), tmp_path / "log", partial(signalled, number, method, call)
        )
        assert training.end() == 128 + number, training.said()
        last = run / "checkpoints" / "last.ckpt"
        told = f"stopped by {number.name}; resume with: python train.py ckpt_path={last}"
        assert told in training.said()
        if method == "training_step":  # batch 5 is the first of step 3's
            assert torch.load(last, weights_only=True)["global_step"] == 3
    training = Training(auto(words, run), tmp_path / "log")
    assert training.end() == 0, training.said()
    same_run(run, whole)


def test_a_second_ctrl_c_leaves_at_once(words: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    training = Training([*words, f"run_dir={run}"], tmp_path / "log", interrupted_twice)
    assert training.end() == 130, training.said()
    last = run / "checkpoints" / "last.ckpt"
    assert "SIGINT: ending after this step; Ctrl-C ends at once" in training.said()
    assert training.said().endswith(f"saving {last}\ninterrupted\n")
    assert damage(last) is None
    assert torch.load(last, weights_only=True)["global_step"] == 3


def by_itself(folder: Path) -> None:
    """In the process: a session, and a folder for temporary files, of its own."""
    os.setsid()
    os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = None


def short_folder(tmp_path: Path) -> Path:
    """A folder with a short name: workers make sockets there, whose names have 107 bytes."""
    return Path(tempfile.mkdtemp(prefix="t", dir=tmp_path.parent))


def session_of(pid: int) -> list[int]:
    """The processes of a session that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ends at this moment
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
            if int(session) == pid and state != "Z":
                found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_nothing_stays(number: int, words: list[str], tmp_path: Path) -> None:
    """No process of a run that ended, nor a file outside of its folder."""
    run, temporary = tmp_path / "run", short_folder(tmp_path)
    words = [*words, f"run_dir={run}", "trainer.max_epochs=200"]
    training = Training(words, tmp_path / "log", partial(by_itself, temporary))
    assert training.wait_for((run / "checkpoints" / "last.ckpt").exists), training.said()
    processes = session_of(training.pid)
    assert len(processes) >= 5  # two workers, which have a decoding process each
    if number == signal.SIGKILL:
        training.send(number)  # what it cannot pass on, its children find out
    else:
        os.killpg(training.pid, number)
    training.end()
    deadline = time.monotonic() + 60
    while session_of(training.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert session_of(training.pid) == []
    shared = [name for name in os.listdir("/dev/shm") if name.startswith("torch_")]
    assert [name for name in shared if int(name.split("_")[1]) in processes] == []
    if number != signal.SIGKILL:
        assert list(temporary.glob("pymp-*")) == []  # the sockets of its workers


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)]
)
def test_a_lost_or_stopped_worker_ends_the_run(
    number: int, words: list[str], tmp_path: Path
) -> None:
    run, temporary = tmp_path / "run", short_folder(tmp_path)
    words = [*words, f"run_dir={run}", "trainer.max_epochs=200"]
    training = Training(words, tmp_path / "log", partial(by_itself, temporary))
    assert training.wait_for((run / "checkpoints" / "last.ckpt").exists), training.said()
    worker = int(Path(f"/proc/{training.pid}/task/{training.pid}/children").read_text().split()[0])
    os.kill(worker, number)
    assert training.end(120) == 75, training.said()
    assert f"error: process lost: a process that decodes (pid {worker}) " in training.said()
    assert "Traceback" not in training.said()
    deadline = time.monotonic() + 20
    while session_of(training.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert session_of(training.pid) == []
    assert damage(run / "checkpoints" / "last.ckpt") is None


def test_a_full_disk(words: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    training = Training([*words, f"run_dir={run}"], tmp_path / "log", partial(out_of_room, 2))
    assert training.end() == 74, training.said()
    last = run / "checkpoints" / "last.ckpt"
    assert f"error: {run}/checkpoints/" in training.said()
    assert "could not be written: File too large. It needs " in training.said()
    assert "MB are free" in training.said()
    assert "Traceback" not in training.said()
    assert damage(last) is None
    assert torch.load(last, weights_only=True)["global_step"] == 3
    assert list(run.rglob("*.tmp-*")) == []


@pytest.mark.slow
def test_ten_kills_at_random_moments(words: list[str], whole: Path, tmp_path: Path) -> None:
    draw, run, kills = random.Random(0), tmp_path / "run", 0
    csv = run / "metrics.csv"
    while kills < 10:
        training = Training(auto(words, run), tmp_path / "log")
        before = csv.stat().st_mtime_ns if csv.exists() else 0
        training.wait_for(lambda b=before: csv.exists() and csv.stat().st_mtime_ns > b)
        time.sleep(draw.uniform(0, 1))
        if training.process.is_alive():
            training.send(signal.SIGKILL)
            kills += 1
        assert training.end() in (0, -signal.SIGKILL), training.said()
    training = Training(auto(words, run), tmp_path / "log")
    assert training.end() == 0, training.said()
    same_run(run, whole)


def ddp(words: list[str], processes: int, batch_size: int = 2) -> list[str]:
    return [
        *words,
        f"trainer.devices={processes}",
        "trainer.strategy=ddp",
        "data.num_workers=1",
        "augment.repeats=1",
        f"data.batch_size={batch_size}",
    ]


@pytest.mark.slow
def test_two_processes_killed_and_stopped(words: list[str], tmp_path: Path) -> None:
    """A kill of rank 0, signals to it, and the end of an undisturbed run of 24 batches."""
    two = ddp(words, 2)
    whole, run = tmp_path / "whole", tmp_path / "run"
    training = Training([*two, f"run_dir={whole}"], tmp_path / "log")
    assert training.end(280) == 0, training.said()
    for number, call, code in (
        (signal.SIGKILL, 9, -9),  # goes on from batch 8
        (signal.SIGTERM, 9, 143),  # saved after batch 18
        (signal.SIGUSR1, 3, 138),
    ):
        training = Training(
            auto(two, run), tmp_path / "log", partial(signalled, number, "training_step", call)
        )
        assert training.end(280) == code, training.said()
    training = Training(auto(two, run), tmp_path / "log")
    assert training.end(280) == 0, training.said()
    same_run(run, whole)


@pytest.mark.slow
def test_four_processes_go_on_as_two(words: list[str], tmp_path: Path) -> None:
    """Each optimiser step takes the videos that it would have taken."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    plain = [*words, "augment.mixup=0", "augment.cutmix=0", "model.drop_path=0", "model.dropout=0"]
    # Softmax does not see the keys' bias: its gradient is rounding alone, which Adam makes a step.
    plain += ["model.qkv_bias=false"]
    four = [*ddp(plain, 4), "trainer.accumulate_grad_batches=1"]
    training = Training([*four, f"run_dir={whole}"], tmp_path / "log")
    assert training.end(280) == 0, training.said()
    training = Training(
        auto(four, run), tmp_path / "log", partial(signalled, signal.SIGTERM, "training_step", 6)
    )
    assert training.end(280) == 143, training.said()
    training = Training([*auto(four, run), "trainer.devices=2"], tmp_path / "log")
    assert training.end(280) == 0, training.said()
    assert "trainer.accumulate_grad_batches=1 becomes 2" in training.said()
    ours, theirs = (
        torch.load(r / "checkpoints" / "last.ckpt", weights_only=True) for r in (run, whole)
    )
    assert ours["global_step"] == theirs["global_step"] == 12
    assert ours["lr_schedulers"] == theirs["lr_schedulers"]
    for name, value in theirs["state_dict"].items():
        torch.testing.assert_close(ours["state_dict"][name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["child", "main"])
def test_a_dying_process_ends_the_run(victim: str, words: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    training = Training(
        [*ddp(words, 2), f"run_dir={run}", "trainer.max_epochs=200"], tmp_path / "log"
    )
    assert training.wait_for((run / "checkpoints" / "last.ckpt").exists), training.said()
    (child,) = trainers_below(training.pid)
    os.kill(child if victim == "child" else training.pid, signal.SIGKILL)
    code = training.end(120)
    if victim == "child":
        assert code == 75, training.said()
        assert f"error: process 1 of this run (pid {child}) was killed by SIGKILL" in (
            training.said()
        )
    else:
        deadline = time.monotonic() + 60
        while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not Path(f"/proc/{child}").exists()
        assert f"error: process 0 of this run (pid {training.pid}) is gone" in training.said()
        assert "Traceback" not in training.said()


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["child", "main"])
def test_a_stopped_process_does_not_make_the_run_deaf(
    victim: str, words: list[str], tmp_path: Path
) -> None:
    """SIGSTOP of one of two processes, then SIGTERM to the session: saved, and nothing is left."""
    run = tmp_path / "run"
    words = [*ddp(words, 2), f"run_dir={run}", "trainer.max_epochs=200"]
    training = Training(words, tmp_path / "log", partial(by_itself, short_folder(tmp_path)))
    assert training.wait_for((run / "checkpoints" / "last.ckpt").exists), training.said()
    (child,) = trainers_below(training.pid)
    os.kill(child if victim == "child" else training.pid, signal.SIGSTOP)
    time.sleep(3)  # the other waits for it
    os.killpg(training.pid, signal.SIGTERM)
    assert training.end(60) == 143, training.said()
    assert "stopped by SIGTERM; resume with" in training.said()
    deadline = time.monotonic() + 60
    while session_of(training.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert session_of(training.pid) == []


def trainers_below(pid: int) -> list[int]:
    """Processes that another has started as ``python train.py``."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"--config-path" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
