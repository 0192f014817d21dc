"""Hugging Face's hub: a checkpoint by its name."""

import re
from pathlib import Path
from typing import NamedTuple

from vivit_train.errors import UserError, first_line

# A path has one slash where the address has two.
_ADDRESS = re.compile(r"(?:hf:/{1,2})?(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w./-]*))?", re.ASCII)


class HubId(NamedTuple):
    """A repository on the hub.

    Attributes:
        repo_id: ``owner/name``.
        revision: A commit, branch or tag; ``None``: what is newest.
    """

    repo_id: str
    revision: str | None


def hub_id(source: str | Path) -> HubId | None:
    """The repository that ``owner/name`` or ``hf://owner/name`` means, also with ``@revision``."""
    found = _ADDRESS.fullmatch(str(source))
    return HubId(found[1], found[2]) if found else None


def download(wanted: HubId) -> Path:
    """Fetches a checkpoint from the hub into Hugging Face's cache, or finds it there.

    Returns:
        The folder.

    Raises:
        UserError: If there is no such checkpoint or revision, no access or no network.
    """
    # Here, not above: half a second that only hub ids should cost.
    from huggingface_hub import snapshot_download

    folder = Path()
    # Many repositories hold the weights twice; one copy is enough.
    for patterns in (["*.json", "model*.safetensors"], ["*.json", "pytorch_model*.bin"]):
        try:
            folder = Path(
                snapshot_download(wanted.repo_id, revision=wanted.revision, allow_patterns=patterns)
            )
        # The hub's client raises its own exceptions, requests' or httpx's, as versions differ.
        except Exception as error:
            at = f" at the revision {wanted.revision}" if wanted.revision else ""
            raise UserError(
                f"{wanted.repo_id} is no file or folder here, and could not be fetched from the "
                f"Hugging Face hub{at} ({first_line(error)}). Correct the path or the name; "
                "without network, download the repository elsewhere and give the path of its folder"
            ) from error
        if any(folder.glob(patterns[1])):
            break
    return folder
