"""Every command and every line of Python in the documentation works as written."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY
from vivit_train.__main__ import main
from vivit_train.config import command_line, compose_config, to_plain, use_config_dir
from vivit_train.video.write import write_video

PAGES = sorted(
    [REPOSITORY / "README.md", REPOSITORY / "data/README.md", *REPOSITORY.glob("docs/**/*.md")]
)


def commands(program: str) -> list[str]:
    """Lines of the pages' code blocks that call a program, and inline code of three words or more.

    A word or two in a sentence, such as `vivit evaluate`, names the program.
    """
    found = []
    for page in PAGES:
        text = page.read_text()
        fenced = re.split(r"^```", text, flags=re.MULTILINE)[1::2]
        blocks = [block for block in fenced if block.startswith("\n")]  # in no language
        lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
        lines += [line for line in re.findall(r"`([^`\n]+)`", text) if line.count(" ") >= 2]
        found += [line for line in lines if program in shlex.split(line, posix=True)[:4]]
    return sorted(set(found))


TRAINING = [*commands("train.py"), *(line for line in commands("vivit") if "vivit train " in line)]
OF_ONES_OWN = [line for line in TRAINING if "--config-dir" in line]


def test_a_configuration_of_ones_own(tmp_path: Path) -> None:
    """The page's, with a model of the name that it has."""
    page = (REPOSITORY / "docs/configuration.md").read_text()
    (code,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    files = {"experiment/night.yaml": code, "model/wide.yaml": "defaults: [vivit_s]"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    (line,) = (line for line in OF_ONES_OWN if "night" in line)
    call = command_line(shlex.split(line)[2:])
    assert call.config_dir in page.replace(f"--config-dir {call.config_dir}", "")
    use_config_dir(str(tmp_path))
    try:
        config = compose_config(call.words)
    finally:
        use_config_dir(None)
    assert (config.model.hidden_size, config.optim.name, config.optim.lr) == (384, "adamw", 3e-4)


@pytest.mark.parametrize("line", [line for line in TRAINING if line not in OF_ONES_OWN])
def test_training_commands_compose(line: str) -> None:
    words = shlex.split(line)
    begin = words.index("train.py" if "train.py" in words else "train") + 1
    call = command_line(words[begin:])
    to_plain(compose_config(call.words, call.is_sweep))


@pytest.mark.parametrize("line", [line for line in commands("vivit") if line not in TRAINING])
def test_vivit_commands_parse(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    line = line[line.index("vivit ") :]  # behind `uv run` and the like
    verb, *words = shlex.split(line)[1:]
    parsed = []
    module = verb.replace("-", "_")
    monkeypatch.setattr(f"vivit_train.commands.{module}.run", lambda a: parsed.append(a) or 0)
    with pytest.raises(SystemExit) as end:
        main([verb, *words])
    assert end.value.code == 0
    compose_config(getattr(parsed[0], "overrides", []))


def test_there_are_commands() -> None:
    assert len(commands("train.py")) > 15
    assert len(commands("vivit")) > 5


@pytest.mark.parametrize("page", ["README.md", "docs/evaluation.md"])
def test_python(
    page: str, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page's Python, with a run and videos that exist in place of those that it names."""
    (code,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / page).read_text(), re.DOTALL)
    code = re.sub(r'load\("[^"]+"\)', f'load("{finished_run}")', code)
    names = {"frames": torch.zeros(4, 56, 72, 3, dtype=torch.uint8)}
    (tmp_path / "new_clips").mkdir()
    for name in ("new_clip.mp4", "clip.mp4", "new_clips/1.mp4"):
        write_video(tmp_path / name, names["frames"].numpy())
    monkeypatch.chdir(tmp_path)
    exec(code, names)
    assert names["prediction"].probability > 1 / 8
    if page == "README.md":
        assert names["logits"].shape == (1, 8)
    else:
        assert len(names["several"]) == 3


def test_a_batch_in_python(small: tuple[str, ...]) -> None:
    """In five lines, besides the imports none of them Lightning's; here of the demo, on the CPU."""
    page = (REPOSITORY / "docs/augmentation.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len([line for line in code.splitlines() if line]) == 5
    code = re.sub(r"\[\"data=folder.*?\]", repr([*small, "data.num_workers=0"]), code)
    names: dict = {}
    exec(code.replace('"cuda"', '"cpu"'), names)
    assert len(names["decoded"].frames) == len(names["batch"].labels)
    assert names["batch"].clips.shape[1:] == (3, 4, 16, 16)
    assert names["batch"].clips.dtype == torch.float32


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_is_python(page: Path) -> None:
    for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        compile(code, str(page), "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing == []


def test_makefile_does_what_the_readme_says() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    readme = (REPOSITORY / "README.md").read_text()
    assert 'pip install -c constraints.txt -e ".[dev]"' in makefile
    assert 'pip install -c constraints.txt -e ".[dev]"' in readme
