"""The site of the documentation: its generated pages, its links, and that it has every page."""

import importlib.util
import re
from types import ModuleType

import pytest
import yaml

import vivit_train
from tests.conftest import REPOSITORY
from vivit_train.__main__ import VERBS
from vivit_train.config.keys import KEYS


def module(name: str) -> ModuleType:
    """A script of docs/, which is not a package."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / f"docs/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_every_key_has_a_row() -> None:
    page = module("config_keys").page()
    rows = re.findall(r"^\| `([^`]+)` \| (.+?) \| (.+?) \|", page, re.MULTILINE)
    assert [key for key, _, _ in rows if key in KEYS] == [key for key, _, _ in rows]
    assert {key for key, _, _ in rows} == set(KEYS)
    assert "| `optim.lr` | highest learning rate, of the head | " in page
    assert re.search(r"`trainer.max_epochs` .*\| `30` \|", page)


def test_a_key_without_a_meaning_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.new has no meaning: write a comment"):
        module("config_keys").row("data.new", {}, {})


def test_every_command_has_its_help() -> None:
    page = module("hooks").commands()
    assert [*re.findall(r"^## vivit (\S+)", page, re.MULTILINE), "train"] == list(VERBS)
    assert page.count("usage: vivit ") == len(VERBS) - 1


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("index.md", "[a](docs/runs.md#resuming)", "[a](runs.md#resuming)"),
        ("index.md", "![a](docs/images/report.png)", "![a](images/report.png)"),
        ("data.md", "[a](../data/README.md#limits)", "[a](data-sets.md#limits)"),
        ("data-sets.md", "[a](../docs/data.md)", "[a](data.md)"),
        ("tutorials/notebook.md", "[a](../data.md)", "[a](../data.md)"),
        ("tutorials/notebook.md", "[a](../../README.md)", "[a](../index.md)"),
        ("data.md", "[train.py](../train.py)", "`train.py`"),
        ("data.md", "[the class](../vivit_train/io.py)", "the class (`vivit_train/io.py`)"),
        ("data.md", "[`io.py`](../vivit_train/io.py)", "`vivit_train/io.py`"),
        ("data.md", "[a](https://example.org)", "[a](https://example.org)"),
        ("data.md", "[a](#here)", "[a](#here)"),
    ],
)
def test_links(page: str, link: str, expected: str) -> None:
    names = {"index.md", "runs.md", "data.md", "data-sets.md", "images/report.png"}
    assert module("hooks").site_links(link, page, names, None) == expected


def test_links_to_the_repository() -> None:
    link = module("hooks").site_links("[a](../b.py)", "data.md", {"data.md"}, "https://host/c/")
    assert link == "[a](https://host/c/blob/main/b.py)"


def test_the_navigation_has_every_page() -> None:
    text = (REPOSITORY / "mkdocs.yml").read_text()
    named = set(re.findall(r"[\w/-]+\.md", str(yaml.safe_load(text)["nav"])))
    written = {
        p.relative_to(REPOSITORY / "docs").as_posix() for p in REPOSITORY.glob("docs/**/*.md")
    }
    generated = {*module("hooks").ORIGINS, "reference/keys.md", "reference/commands.md"}
    assert named == written | generated


def test_every_public_name_is_on_the_python_page() -> None:
    page = (REPOSITORY / "docs/reference/python.md").read_text()
    shown = {name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)$", page, re.MULTILINE)}
    assert set(vivit_train.__all__) - {"__version__"} <= shown
