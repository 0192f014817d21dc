"""Completion, by a bash that is asked as the Tab key asks it."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from vivit_train.__main__ import main
from vivit_train.commands.completion import SHELLS, Words

# Asks for the last word of each line; as in a bash of which `=` ends a word, which is its default.
ASK = """
eval "$(vivit completion bash)"
function=$(complete -p vivit | sed 's/.*-F \\([^ ]*\\).*/\\1/')
for line in "vivit pu" "vivit export --for" "vivit train optim.label" \
    "vivit train model=vivit_b_fs" "vivit describe optim.fr" \
    "vivit describe optim.we" "vivit completion f"; do
    COMP_LINE=$line COMP_POINT=${#line} COMP_TYPE=9 COMP_WORDS=($line) COMP_CWORD=1 COMPREPLY=()
    $function vivit
    echo "$line: ${COMPREPLY[*]}"
done
"""


def test_bash(tmp_path: Path) -> None:
    vivit = tmp_path / "vivit"
    vivit.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vivit_train "$@"\n')
    vivit.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        ["bash", "-c", ASK], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    said = dict(line.split(": ") for line in done.stdout.splitlines())
    assert {line: words.strip() for line, words in said.items()} == {
        "vivit pu": "publish",
        "vivit export --for": "--format",
        "vivit train optim.label": "optim.label_smoothing=",
        "vivit train model=vivit_b_fs": "vivit_b_fsa",
        "vivit describe optim.fr": "optim.freeze=",
        "vivit describe optim.we": "",  # which describe does not use
        "vivit completion f": "fish",
    }


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["completion", shell])
    assert end.value.code == 0
    told = capsys.readouterr().out
    assert "vivit" in told
    assert ("compdef" in told) == (shell != "fish")


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a verb, or a key, takes one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").mkdir()
    parser = argparse.ArgumentParser()
    word = parser.add_argument("overrides", metavar="KEY=VALUE")
    other = parser.add_argument("run")

    def words(prefix: str, action: argparse.Action) -> list[str]:
        found = Words()(prefix=prefix, action=action, parser=parser, parsed_args=parser)  # type: ignore
        return sorted(found)

    assert words("data.root=vi", word) == ["data.root=videos/"]
    assert words("seed=1", word) == []
    assert words("vi", other) == ["videos/"]
