"""What `mkdocs build` does besides converting the pages of this folder.

It adds pages: the README as the home page, other pages of the repository, every configuration key
and every command. It also turns links that lead out of this folder, and so work in the repository,
into links of the site.
"""

import contextlib
import io
import os
import posixpath
import re
import sys
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)

# Page of the site -> file of the repository that it is made from. Others are files of this folder.
ORIGINS = {
    "index.md": "README.md",
    "data-sets.md": "data/README.md",
    "benchmarks.md": "benchmarks/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that are not files of this folder."""
    sys.path[:0] = [ROOT, HERE]  # mkdocs takes away what was added when it read this file
    from config_keys import page
    from mkdocs.structure.files import File

    pages = {"reference/keys.md": page(), "reference/commands.md": commands()}
    for name, origin in ORIGINS.items():
        with open(os.path.join(ROOT, origin), encoding="utf-8") as file:
            pages[name] = file.read()
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links as the site has them."""
    return site_links(
        markdown, page.file.src_uri, {file.src_uri for file in files}, config.repo_url
    )


def site_links(markdown: str, page: str, names: set[str], repository: str | None) -> str:
    """The Markdown of a page with its relative links as the site needs them.

    Args:
        markdown: With links as they are in the repository.
        page: The page's path within the site, e.g. ``index.md``.
        names: Paths of everything in the site.
        repository: Where to see files that are not in the site; ``None``: links to them become
            text.
    """
    pages = {origin: name for name, origin in ORIGINS.items()}
    origin = ORIGINS.get(page, f"docs/{page}")

    def rewrite(match: re.Match[str]) -> str:
        image, text, target, anchor = match[1], match[2], match[3], match[4] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
        name = pages.get(path, path.removeprefix("docs/"))
        if name in names and (path in pages or path.startswith("docs/")):
            place = posixpath.relpath(name, posixpath.dirname(page) or ".")
            return f"{image}[{text}]({place}{anchor})"
        if page.startswith("reference/") and posixpath.normpath(f"reference/{target}") in names:
            return match[0]
        if repository:
            return f"{image}[{text}]({repository.rstrip('/')}/blob/main/{path}{anchor})"
        if path.endswith(text.strip("`/")):
            return f"`{path}`"
        return text if image else f"{text} (`{path}`)"

    return LINK.sub(rewrite, markdown)


def commands() -> str:
    """The page with the help of each verb of `vivit`."""
    from vivit_train.__main__ import VERBS, main

    os.environ["COLUMNS"] = "100"
    parts = [
        "# Every command",
        "This page has the help of each verb of `vivit`, as `vivit VERB --help` prints it. "
        "`vivit train` takes the keys of a run, which [have a page of their own](keys.md).",
        "```\nvivit describe model=vivit_b\n```",
    ]
    for verb in (verb for verb in VERBS if verb != "train"):  # whose help is Hydra's
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            main([verb, "--help"])
        parts.append(f"## vivit {verb}\n\n```text\n{printed.getvalue().rstrip()}\n```")
    return "\n\n".join(parts)
