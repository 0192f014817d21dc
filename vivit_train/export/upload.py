"""A folder to Hugging Face's hub."""

from pathlib import Path

from vivit_train.errors import UserError, first_line


def push(folder: Path, repo_id: str, public: bool) -> tuple[str, str]:
    """Uploads a folder as one commit; the repository is made if need be.

    Args:
        folder: All files in it are uploaded.
        repo_id: ``owner/name``.
        public: Whether everybody may see the repository.

    Returns:
        The repository's address, and the commit.

    Raises:
        UserError: If there is no access or no network, or the repository is there and is not as
            visible as asked for.
    """
    # Here, not above: it takes half a second.
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        address = api.create_repo(repo_id, private=not public, exist_ok=True)
        _check_visible(repo_id, public, bool(api.model_info(repo_id).private))
        done = api.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message="Model, scores and card"
        )
    except UserError:
        raise
    # The hub's client raises its own exceptions, requests' or httpx's, as versions differ.
    except Exception as error:
        raise UserError(
            f"{repo_id} could not be pushed to {api.endpoint} ({first_line(error)}). Log in with "
            f"`hf auth login`, or set HF_TOKEN to a token that may write there. {folder} is whole: "
            "the same command pushes it"
        ) from error
    return str(address), done.oid


def _check_visible(repo_id: str, public: bool, is_private: bool) -> None:
    """Refuses to publish where others see it unasked, or where nobody sees it."""
    if public == is_private:
        is_now, change = ("private", "leave out --public") if public else ("public", "add --public")
        raise UserError(
            f"{repo_id} is there and is {is_now}: {change}, or change it in its settings on the hub"
        )
