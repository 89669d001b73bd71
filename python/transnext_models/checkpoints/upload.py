"""Upload a folder to a repository on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .hub import failure_reason

__all__ = ["upload"]


def upload(
    folder: Path,
    repo: str,
    *,
    keep: str,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    **options: Any,
) -> str:
    """Upload a folder's files as one commit, and return the commit's address.

    Parameters
    ----------
    folder, repo : Path, str
        From where, and to which repository; it is made if it is not there.
    keep : str
        A file that stays as it is in the repository, if it is there.
    private, token, revision, **options
        As `huggingface_hub.HfApi` has them.

    Raises
    ------
    ValueError
        If `repo` is no name of a repository.
    RuntimeError
        If the Hub does not take it; the message says why.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name="transnext")
    try:
        repo = api.create_repo(repo, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        there = api.file_exists(repo, keep, revision=revision)
        done = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            revision=revision,
            ignore_patterns=[keep] if there else None,
            **options,
        )
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise RuntimeError(f"push_to_hub: {repo} was not uploaded: {reason}") from error
    return str(done.pr_url or done.commit_url)


def _reason(error: Exception) -> str | None:
    """Say why the Hub did not take it; None for what is not the network's or the Hub's."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, LocalTokenNotFoundError) or status in (401, 403):
        return "it needs a token that may write there (hf auth login, or HF_TOKEN)"
    if isinstance(error, HfHubHTTPError):
        return f"the Hub answered {status}"
    return None if isinstance(error, ValueError) else failure_reason(error)
