"""One command in a process and a folder of its own, and what it did there."""

import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.conftest import REPOSITORY

# A run that still trains after this long gets SIGTERM; it must then end as the docs promise.
SECONDS = 30.0
# What ends by itself in a healthy product, on a loaded machine.
PATIENCE_SECONDS = 120.0
MEMORY_BYTES = 8 << 30
# Exit codes of docs/faults.md, and argparse's 2.
EXIT_CODES = (0, 1, 2, 74, 75, 128 + signal.SIGTERM)
# Commands that end with 1 for what they have found in the data or the settings.
REPORTS = ("check", "doctor", "prepare")
# Files that the product writes beside its input, by design.
OWN_FILES = ("vivit_index.jsonl", "vivit_check.jsonl")


@dataclass(frozen=True)
class Case:
    """A command line in a sandbox.

    Args:
        program: ``train.py`` or ``vivit``.
        words: What follows it.
        damage: How an input was changed before; empty if none was.
    """

    program: str
    words: Sequence[str]
    damage: str = ""

    def __str__(self) -> str:
        line = " ".join([self.program, *map(repr, self.words)])
        return f"{line}  [{self.damage}]" if self.damage else line


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Args:
        code: Exit code; minus the signal that killed the process.
        said: Its standard output and standard error.
        seconds: How long it took.
        faults: What must not happen and did; empty for a right answer.
    """

    code: int
    said: str
    seconds: float
    faults: tuple[str, ...]


def run(case: Case, sandbox: Path) -> Outcome:
    """Runs a case in a fork of this process, which should have imported what is heavy.

    Args:
        case: The command.
        sandbox: A folder with the inputs; the process works in ``sandbox/work``.
    """
    for name in ("work", "home", "tmp"):
        (sandbox / name).mkdir(exist_ok=True)
    before = _files(sandbox)
    log = sandbox.with_name(f"{sandbox.name}.log")
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _become(case, sandbox, log)
    code, faults = _wait(pid, trains=case.program == "train.py")
    seconds = time.monotonic() - started
    said = log.read_text(errors="replace")
    log.unlink()
    faults += _left_running(pid)
    faults += _answer(case, code, said)
    faults += outside(before, _files(sandbox), case)
    return Outcome(code, said, seconds, tuple(faults))


def _become(case: Case, sandbox: Path, log: Path) -> None:
    """In the fork: turns it into the command, and never returns."""
    import resource

    code = 70
    try:
        os.setsid()
        output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(sandbox / "work")
        os.environ.update(HOME=str(sandbox / "home"), TMPDIR=str(sandbox / "tmp"))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        multiprocessing.current_process().daemon = False  # the command starts workers
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        sys.argv = [str(REPOSITORY / case.program), *case.words]
        if case.program == "train.py":
            runpy.run_path(sys.argv[0], run_name="__main__")
        else:
            from vivit_train.__main__ import main

            main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _wait(pid: int, trains: bool) -> tuple[int, list[str]]:
    """The exit code; a training that goes on is asked to stop, anything else has to end."""
    deadline = time.monotonic() + (SECONDS if trains else PATIENCE_SECONDS)
    asked = not trains
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), []
        if time.monotonic() > deadline:
            if asked:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return -signal.SIGKILL, ["hang"]
            os.kill(pid, signal.SIGTERM)
            asked, deadline = True, time.monotonic() + PATIENCE_SECONDS
        time.sleep(0.02)


def _left_running(session: int, seconds: float = 10.0) -> list[str]:
    """Names processes of the command that outlive it, and ends them."""
    deadline = time.monotonic() + seconds
    while left := _processes_of(session):
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            return [f"{len(left)} processes left running"]
        time.sleep(0.1)
    return []


def _processes_of(session: int) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.getsid(int(entry)) == session:
                state = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[0]
                found += [int(entry)] if state != "Z" else []
        except (ProcessLookupError, FileNotFoundError):
            continue
    return found


def _answer(case: Case, code: int, said: str) -> list[str]:
    faults = []
    if "Traceback (most recent call last)" in said:
        faults.append("traceback")
    if code < 0 and code != -signal.SIGKILL:
        faults.append(f"died of {signal.Signals(-code).name}")
    elif code > 0 and code not in EXIT_CODES:
        faults.append(f"exit code {code}")
    elif code == 1 and not _tells_error(said) and case.words[0] not in REPORTS:
        faults.append("failed without an error message")
    return faults


def _tells_error(said: str) -> bool:
    """Whether an error is told, as a line or in the JSON that was asked for."""
    return "error: " in said or '"error": "' in said


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder, with its size and time; links are not followed."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            stat = os.lstat(path)
            found[os.path.relpath(path, folder)] = (stat.st_size, stat.st_mtime_ns)
    return found


def outside(
    before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]], case: Case
) -> list[str]:
    """Files that were made, changed or removed where the command was not asked to write."""
    asked = ["work/runs/", "work/data/demo", "run/", "tmp/", "home/.cache/"]
    for word in case.words:
        key, _, value = word.partition("=")
        if value and key.lstrip("+") in ("run_dir", "hydra.sweep.dir", "data.index_dir"):
            asked.append(_place(value))
    for option, value in pairwise(case.words):
        if option in ("--output", "--csv", "--json", "--png"):
            asked.append(_place(value))
    changed = [n for n in {**before, **after} if before.get(n) != after.get(n)]
    strangers = [
        name
        for name in sorted(changed)
        if not name.startswith(tuple(asked)) and os.path.basename(name) not in OWN_FILES
    ]
    return [f"wrote outside: {', '.join(strangers[:3])}"] if strangers else []


def _place(path: str) -> str:
    """Where in the sandbox a path of the command line is."""
    at_home = path.split("/")[0] == "~"
    return os.path.normpath("home" + path[1:] if at_home else os.path.join("work", path))
