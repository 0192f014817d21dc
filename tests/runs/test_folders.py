"""Folders of runs: two processes never write into one, and none is written over."""

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock
import pytest

from tests.conftest import REPOSITORY
from vivit_train.config import compose_config
from vivit_train.errors import UserError
from vivit_train.io.layout import LOCK_FILE
from vivit_train.runs import folders
from vivit_train.runs.folders import (
    names_the_moment,
    new_folder,
    owned,
    remove_temporaries,
    run_folder,
)

HOLDER = """
import sys, time
from pathlib import Path
from vivit_train.runs import folders
folders.HEARTBEAT_SECONDS = 0.2
with folders.owned(Path(sys.argv[1]), "run_dir"):
    print("mine", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen:
    """Another process that owns the folder ``run``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    yield process
    process.kill()
    process.communicate()


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)


def test_names_never_collide(tmp_path: Path) -> None:
    """As for job arrays, whose runs start in the same second."""
    path = tmp_path / "runs" / "2026-01-31_10-00-00"
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: new_folder(path), range(16)))
    assert len(set(made)) == 16
    assert path in made
    assert path.with_name("2026-01-31_10-00-00_16") in made


@pytest.mark.parametrize(
    ("words", "expected"),
    [((), True), (("run_dir=runs/${now:%f}",), True), (("run_dir=runs/mine",), False)],
)
def test_which_names_are_of_the_moment(words: tuple[str, ...], expected: bool) -> None:
    assert names_the_moment(compose_config(words), "run_dir") is expected


class TestOwned:
    def test_another_process_is_refused_by_its_heartbeat(
        self, holder: subprocess.Popen, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        said = rf"run_dir={tmp_path}/run is in use by process {holder.pid} on \S+: wait for its end"
        with pytest.raises(UserError, match=said), owned(tmp_path / "run", "run_dir"):
            pass
        assert "waiting for a sign of life" in capsys.readouterr().err
        assert (tmp_path / "run" / LOCK_FILE).exists()

    def test_a_killed_owner_is_followed_at_once(
        self, holder: subprocess.Popen, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        holder.kill()
        holder.wait()
        start = time.monotonic()
        with owned(tmp_path / "run", "run_dir"):
            assert time.monotonic() - start < folders.LEASE_SECONDS / 10
        assert capsys.readouterr().err == ""

    def test_an_owner_on_another_machine_is_followed_after_the_lease(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(folders, "LEASE_SECONDS", 1.0)
        monkeypatch.setattr(folders, "HEARTBEAT_SECONDS", 0.2)
        lock = tmp_path / LOCK_FILE
        with owned(tmp_path, "run_dir"):
            record = lock.read_text()
        # This process's number, alive on this machine: of that machine it says nothing.
        lock.write_text(re.sub("host=.*", "host=node17", record))
        start = time.monotonic()
        with owned(tmp_path, "run_dir"):
            assert time.monotonic() - start >= 1.0
            assert "host=node17" not in lock.read_text()

    def test_an_empty_lock_is_nobodys(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A power cut can leave it so."""
        monkeypatch.setattr(folders, "LEASE_SECONDS", 0.5)
        monkeypatch.setattr(folders, "HEARTBEAT_SECONDS", 0.1)
        (tmp_path / LOCK_FILE).touch()
        with owned(tmp_path, "run_dir"):
            assert f"pid={os.getpid()}" in (tmp_path / LOCK_FILE).read_text()

    def test_who_loses_the_folder_ends(self, holder: subprocess.Popen, tmp_path: Path) -> None:
        """E.g. after it was suspended, and another machine took the folder over."""
        (tmp_path / "run" / LOCK_FILE).unlink()
        assert holder.wait(60) == 75
        assert holder.stderr is not None
        assert holder.stderr.read() == (
            f"error: {tmp_path}/run no longer belongs to this process (marker missing): the "
            "process ends without saving\n"
        )

    def test_nothing_is_left_where_nothing_came_of_it(self, tmp_path: Path) -> None:
        with owned(tmp_path / "run", "run_dir"):
            pass
        assert not (tmp_path / "run").exists()
        (tmp_path / "mine").mkdir()
        with owned(tmp_path / "mine", "run_dir"):
            (tmp_path / "mine" / "x").touch()
        assert os.listdir(tmp_path / "mine") == ["x"]

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("file/run", "(file/run: Not a directory|file: File exists)"),
            ("file", "file: File exists"),
            ("/proc/run", "/proc/run: (No such file or directory|Permission denied)"),
            ("a" * 300, "aaa: File name too long"),
        ],
    )
    def test_where_nothing_can_be_written(self, name: str, reason: str, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        path = tmp_path / name
        said = f"^run_dir={re.escape(str(path))} cannot be written to: .*{reason}$"
        for is_new in (False, True) if name != "file" else (False,):
            with pytest.raises(UserError, match=said), owned(path, "run_dir", is_new):
                pass

    def test_a_folder_that_is_read_only(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied", str(tmp_path / LOCK_FILE))

        monkeypatch.setattr(filelock.SoftFileLease, "acquire", refuse)
        with pytest.raises(UserError, match="cannot be written to: .*/.lock: Permission denied"):  # noqa: SIM117
            with owned(tmp_path, "run_dir"):
                pass


class TestRunFolder:
    def test_two_runs_of_one_moment_get_two_folders(self, tmp_path: Path) -> None:
        runs = [compose_config([f"run_dir={tmp_path}/${{now:%Y}}"]) for _ in range(2)]
        with run_folder(runs[0], False), run_folder(runs[1], False):
            first, second = (Path(run.run_dir) for run in runs)
            assert second == first.with_name(f"{first.name}_2")
            assert first.is_dir()

    @pytest.mark.parametrize("held", ["config.yaml", "metrics.csv", "results.json", "checkpoints"])
    def test_a_new_run_refuses_a_folder_that_holds_one(self, held: str, tmp_path: Path) -> None:
        (tmp_path / held).mkdir() if held == "checkpoints" else (tmp_path / held).touch()
        config = compose_config([f"run_dir={tmp_path}"])
        said = rf"run_dir={tmp_path} holds a run already \({held}\).*ckpt_path=auto"
        with pytest.raises(UserError, match=said), run_folder(config, False):
            pass
        assert os.listdir(tmp_path) == [held]

    def test_a_run_that_goes_on_does_not(self, tmp_path: Path) -> None:
        (tmp_path / "config.yaml").touch()
        last = tmp_path / "checkpoints" / "last.ckpt"
        with run_folder(compose_config([f"run_dir={tmp_path}", f"ckpt_path={last}"]), False):
            pass
        other = compose_config([f"run_dir={tmp_path}", "ckpt_path=other/checkpoints/last.ckpt"])
        with pytest.raises(UserError, match="holds a run already"), run_folder(other, False):
            pass

    def test_auto_starts_again_only_where_nothing_is_lost(self, tmp_path: Path) -> None:
        for name in ("config.yaml", "metrics.csv"):
            (tmp_path / name).touch()
        config = compose_config([f"run_dir={tmp_path}"])
        with run_folder(config, begun=True):
            pass
        (tmp_path / "results.json").touch()
        with pytest.raises(UserError, match=r"\(results.json\)"), run_folder(config, begun=True):
            pass

    def test_only_rank_zero_asks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "config.yaml").touch()
        monkeypatch.setenv("NODE_RANK", "1")
        with run_folder(compose_config([f"run_dir={tmp_path}"]), False):
            assert os.listdir(tmp_path) == ["config.yaml"]


def test_temporaries_go_whatever_process_wrote_them(tmp_path: Path) -> None:
    """Numbers of processes are of some machine; this process's own is alive here."""
    (tmp_path / "checkpoints").mkdir()
    ours = [tmp_path / "config.yaml", tmp_path / "checkpoints" / "last.ckpt"]
    kept = [*ours, tmp_path / "notes.tmp-new", tmp_path / "notes.tmp-1"]  # of the user's
    for path in kept:
        path.touch()
    for path in ours:
        path.with_name(f"{path.name}.tmp-{os.getpid()}").touch()
        path.with_name(f"{path.name}.tmp-12").touch()
    remove_temporaries(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*.*") if path.is_file()) == sorted(kept)
