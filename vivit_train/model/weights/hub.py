"""Hugging Face's hub: a checkpoint by its name."""

from pathlib import Path

from vivit_train.errors import UserError


def download(repo_id: str) -> Path:
    """Fetches a checkpoint from the hub into Hugging Face's cache, or finds it there.

    Args:
        repo_id: ``owner/name``.

    Returns:
        The folder.

    Raises:
        UserError: If there is no such checkpoint, no access or no network.
    """
    # Here, not above: half a second that only hub ids should cost.
    from huggingface_hub import snapshot_download

    folder = Path()
    # Many repositories hold the weights twice; one copy is enough.
    for patterns in (["*.json", "model*.safetensors"], ["*.json", "pytorch_model*.bin"]):
        try:
            folder = Path(snapshot_download(repo_id, allow_patterns=patterns))
        # The hub's client raises its own exceptions, requests' or httpx's, as versions differ.
        except Exception as error:
            reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
            raise UserError(
                f"{repo_id} is no file or folder here, and could not be fetched from the Hugging "
                f"Face hub ({reason[0]}). Correct the path or the name; without network, download "
                "the repository elsewhere and give the path of its folder"
            ) from error
        if any(folder.glob(patterns[1])):
            break
    return folder
