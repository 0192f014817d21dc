"""Publish a tested run on Hugging Face's hub: weights, configuration, scores, report and a card.

  vivit publish RUN owner/name --license apache-2.0                 writes the folder, to look at
  vivit publish RUN owner/name --license apache-2.0 --push          uploads it, for yourself alone
  vivit publish RUN owner/name --license apache-2.0 --push --public

RUN is a run that was tested, or an evaluation of it, RUN/evaluations/DATE_TIME. The folder holds no
paths of this machine and no pictures from the videos. Its README.md is the card, which is filled in
and which you may edit before --push. Weights are in Hugging Face's format where that can hold the
model, else in our own, and `load("owner/name")` takes both.
"""

import argparse
import re

from vivit_train.errors import UserError
from vivit_train.io.files import user_path
from vivit_train.io.terminal import say

_REPO_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
# Names of the hub, such as apache-2.0, cc-by-nc-4.0 and other.
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument(
        "folder", type=user_path, metavar="RUN", help="a run, or an evaluation of it"
    )
    parser.add_argument("repo_id", metavar="owner/name", help="the repository on the hub")
    parser.add_argument(
        "--license", help="of the weights, by the hub's name for it, e.g. apache-2.0; needed"
    )
    parser.add_argument(
        "--output", type=user_path, metavar="FOLDER", help="default: RUN-published, beside RUN"
    )
    parser.add_argument("--push", action="store_true", help="upload the folder")
    parser.add_argument(
        "--public", action="store_true", help="everybody may see it (default: you alone)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Writes the folder, shows it, and uploads it if asked to."""
    check_names(arguments.repo_id, arguments.license)

    from vivit_train.export.publication import (
        check_unchanged,
        default_output,
        read_scored,
        write_publication,
    )
    from vivit_train.export.upload import push

    scored, repo_id = read_scored(arguments.folder), arguments.repo_id
    output = arguments.output or default_output(arguments.folder)
    if arguments.push and output.is_dir() and any(output.iterdir()):
        check_unchanged(scored, repo_id, arguments.license, output)
    else:
        say(write_publication(scored, repo_id, arguments.license, output))
    for path in sorted(output.iterdir()):
        say(f"{path.stat().st_size / 1e6:10.3f} MB  {path}")
    visible = "public" if arguments.public else "private"
    if not arguments.push:
        say(
            f"nothing was uploaded: look at it, README.md first; --push uploads these files to the "
            f"{visible} repository {repo_id}"
        )
        return 0
    address, revision = push(output, repo_id, arguments.public)
    say(f"pushed to {address}, which is {visible}")
    say(f"revision {revision}: model.pretrained=hf://{repo_id}@{revision}")
    return 0


def check_names(repo_id: str, license: str | None) -> None:
    """Answers a mistake before anything is read.

    Raises:
        UserError: If the repository or the licence is not named as the hub names them.
    """
    if not _REPO_ID.fullmatch(repo_id):
        raise UserError(f"{repo_id!r} is not the name of a repository: expected owner/name")
    if license is None:
        raise UserError(
            "--license is missing, and only you can say how others may use the weights: add e.g. "
            "--license apache-2.0. The licences of the videos and of the weights that the run "
            "began with may limit the choice"
        )
    if not _LICENSE.fullmatch(license):
        raise UserError(
            f"--license {license!r} is not a name that the hub has for a licence: expected e.g. "
            "apache-2.0, mit, cc-by-4.0, cc-by-nc-4.0 or other"
        )
