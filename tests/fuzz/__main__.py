"""Runs random command lines and damaged files, and says what went wrong.

    python -m tests.fuzz --commands 2000 --files 2000 --seed 0

Each case is a process with its own copy of small inputs. It must end within a time limit with an
answer: no traceback, no death by a signal, nothing left running, no file written where it was not
asked to write. A case that fails is printed with its number; `--only NUMBER` repeats it.
"""

import argparse
import itertools
import multiprocessing
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.conftest import measure_small_matrices
from tests.fuzz.commands import command_lines
from tests.fuzz.damage import damaged_files
from tests.fuzz.inputs import make
from tests.fuzz.sandbox import Case, Outcome, run

Result = tuple[str, Case, Outcome]


def fuzz(
    folder: Path, commands: int, files: int, seed: int = 0, only: str = "", jobs: int = 2
) -> Iterator[Result]:
    """Runs the cases, each in a fork of a process that has imported what is heavy.

    Args:
        folder: An empty folder to work in.
        commands: Number of command lines.
        files: Number of damaged files.
        seed: Of the draws.
        only: The number of the one case to run, e.g. ``c17`` or ``f3``; empty for all.
        jobs: How many run at a time.

    Yields:
        The number of a case, the case and what came of it, in the order in which they end.
    """
    import av  # noqa: F401

    import train
    import vivit_train.build  # noqa: F401

    assert train
    measure_small_matrices()
    inputs = make(folder / "inputs")
    lines = itertools.islice(command_lines(seed), commands)
    damages = itertools.islice(damaged_files(seed), files)
    cases: list[tuple[str, Callable[[Path], Case]]] = [
        *((f"c{i}", partial(_unchanged, line)) for i, line in enumerate(lines)),
        *((f"f{i}", damage) for i, damage in enumerate(damages)),
    ]
    cases = [case for case in cases if only in ("", case[0])]
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap_unordered(partial(_one, inputs), cases)


def _unchanged(case: Case, sandbox: Path) -> Case:
    return case


def _one(inputs: Path, numbered: tuple[str, Callable[[Path], Case]]) -> Result:
    number, case_of = numbered
    sandbox = inputs.with_name(number)
    shutil.copytree(inputs, sandbox, symlinks=True)
    try:
        case = case_of(sandbox)
        return number, case, run(case, sandbox)
    finally:
        shutil.rmtree(sandbox, ignore_errors=True)


def main() -> None:
    """Prints each fault with its case, then the counts; exit code 1 if there was one."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--commands", type=int, default=2000)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", metavar="NUMBER", help="one case, with what it said")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    codes: Counter[int] = Counter()
    faults: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        options = {**vars(arguments), "folder": Path(folder)}
        for number, case, outcome in fuzz(**options):
            codes[outcome.code] += 1
            if sum(codes.values()) % 100 == 0:
                print(f"{sum(codes.values())} cases so far", file=sys.stderr, flush=True)
            faults.update(outcome.faults)
            if outcome.faults or arguments.only:
                said = outcome.said if arguments.only else outcome.said[-600:]
                print(f"== {number}: {', '.join(outcome.faults) or 'fine'}", flush=True)
                print(f"   {case}\n   code {outcome.code}, {outcome.seconds:.1f} s", flush=True)
                print("   " + said.strip().replace("\n", "\n   "), flush=True)
    print(f"{sum(codes.values())} cases; exit codes {dict(codes)}; faults {dict(faults)}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
