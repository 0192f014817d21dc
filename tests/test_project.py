"""What stands around the code: the workflow, the templates, the changelog, the citation."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from tests.conftest import REPOSITORY
from vivit_train.__main__ import VERBS

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
CHANGELOG = (REPOSITORY / "CHANGELOG.md").read_text()
WORKFLOW = REPOSITORY / ".github/workflows/ci.yml"
YAML_FILES = sorted(
    [
        REPOSITORY / "CITATION.cff",
        REPOSITORY / ".pre-commit-config.yaml",
        *REPOSITORY.glob(".github/**/*.yml"),
    ]
)


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.name)
def test_yaml_is_read(path: Path) -> None:
    assert isinstance(read(path), dict)


def test_the_workflow_runs_on_every_python() -> None:
    jobs = read(WORKFLOW)["jobs"]
    pythons = SpecifierSet(PROJECT["requires-python"])
    allowed = [f"3.{minor}" for minor in range(8, 20) if pythons.contains(f"3.{minor}.1")]
    assert jobs["test"]["strategy"]["matrix"]["python"] == allowed
    steps = [step for job in jobs.values() for step in job["steps"]]
    versions = {step.get("with", {}).get("python-version") for step in steps} - {None}
    assert versions == {allowed[0], "${{ matrix.python }}"}


def test_the_workflow_calls_targets_that_exist() -> None:
    called = set(re.findall(r"run: make (\w+)", WORKFLOW.read_text()))
    targets = set(re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    assert called == {"docs", "lint", "test"} <= targets


def test_the_workflow_names_tests_that_exist() -> None:
    named = re.findall(r"tests/[\w/]+\.py", WORKFLOW.read_text())
    assert named
    assert [name for name in named if not (REPOSITORY / name).exists()] == []


def test_the_workflow_has_no_secrets_and_torchs_index_alone() -> None:
    text = WORKFLOW.read_text()
    assert "secrets." not in text
    assert re.findall(r"https?://\S+", text) == ["https://download.pytorch.org/whl/cpu"]


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_an_issue_form_has_what_github_asks_for(name: str) -> None:
    form = read(REPOSITORY / f".github/ISSUE_TEMPLATE/{name}.yml")
    assert {"name", "description", "body"} <= set(form)
    asked = [part for part in form["body"] if part["type"] != "markdown"]
    assert all(part["attributes"]["label"] for part in asked)
    assert len({part["id"] for part in asked}) == len(asked)


def test_the_image_is_made_of_what_it_is_sent() -> None:
    words = [line.split() for line in (REPOSITORY / "Dockerfile").read_text().splitlines()]
    copied = [name for line in words if line[:1] == ["COPY"] for name in line[1:-1]]
    sent = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line]
    assert sent[1] == "*"
    assert copied == [line[1:] for line in sent if line.startswith("!")]
    assert all((REPOSITORY / name).exists() for name in copied)
    stages = {line[3]: line[1] for line in words if line[:1] == ["FROM"]}
    assert stages["cpu"] == stages["cuda"] == "sources"
    minor = int(stages["sources"].removeprefix("python:3.").partition("-")[0])
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"3.{minor}.1")


def test_the_citation_is_of_this_version() -> None:
    citation = read(REPOSITORY / "CITATION.cff")
    for key in ("version", "license"):
        assert citation[key] == PROJECT[key]
    assert citation["title"] == PROJECT["name"]
    assert " ".join(citation["abstract"].split()) == PROJECT["description"] + "."
    assert {"cff-version", "message", "authors"} <= set(citation)
    (paper,) = citation["references"]
    assert paper["url"].endswith("2103.15691")
    readme = (REPOSITORY / "README.md").read_text()
    assert all(author["family-names"] in readme for author in paper["authors"])


def test_the_changelog_names_this_version_below_what_is_unreleased() -> None:
    versions = re.findall(r"^## \[(.+?)\]", CHANGELOG, re.MULTILINE)
    assert versions[:2] == ["Unreleased", PROJECT["version"]]


def test_the_changelog_names_every_verb() -> None:
    assert [verb for verb in VERBS if f"`vivit {verb}" not in CHANGELOG] == []


@pytest.mark.parametrize("name", ["CHANGELOG.md", "CONTRIBUTING.md"])
def test_paths_in_a_page_exist(name: str) -> None:
    """In links, which tests/test_readme.py follows in the other pages, and in inline code."""
    text = (REPOSITORY / name).read_text()
    paths = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    paths += re.findall(r"`((?:docs|tests|configs|\.ci|\.github)/[\w./]*)`", text)
    assert [path for path in paths if not (REPOSITORY / path).exists()] == []


def test_the_table_that_contributing_points_to_exists() -> None:
    (anchor,) = re.findall(
        r"architecture\.md#([\w-]+)", (REPOSITORY / "CONTRIBUTING.md").read_text()
    )
    headings = re.findall(
        r"^#+ (.+)$", (REPOSITORY / "docs/architecture.md").read_text(), re.MULTILINE
    )
    assert anchor in [heading.lower().replace(" ", "-") for heading in headings]
