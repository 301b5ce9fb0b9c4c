"""One upload of a folder to the Hub, for everything that is pushed: in one commit, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["broke_off", "upload_directory"]


def upload_directory(
    folder: Path,
    repo_id: str,
    *,
    repo_type: str = "model",
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    only: Sequence[str] = (),
    ignored: Sequence[str] = (),
    replaced: Sequence[str] = (),
    card: Callable[..., str] | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
) -> Any:
    """Create what is missing on the Hub and upload a folder, subfolders included.

    Args:
        folder: What to upload.
        repo_id: Such as "org/modalbridge-pc"; created if missing.
        repo_type: "model" or "dataset".
        private: Whether a new repo is private.
        token: Of the Hub; the stored one by default.
        revision: Branch to commit to, made if missing.
        create_pr: Whether to open a pull request instead.
        only: Patterns of files that go up; all by default.
        ignored: Patterns of files that do not.
        replaced: Patterns of files in the repo that go if the folder does not have them.
        card: Makes the text of README.md from `repo_id` and `name`, for a folder and a repo that have none; it is
            written into the folder.
        commit_message: Of the commit.
        commit_description: Of the commit.

    Returns:
        The client's `CommitInfo`.

    Raises:
        ValueError: If the name cannot be one of a repo.
        PermissionError: If the token may not write there.
        ConnectionError: If the connection broke and the client's own attempts did not mend it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True).repo_id
        if revision is not None and not create_pr:
            api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
        readme = folder / "README.md"
        if card is not None and not readme.exists() and not api.file_exists(repo_id, readme.name, revision=revision):
            readme.write_text(card(repo_id=repo_id, name=repo_id.rpartition("/")[2]), encoding="utf-8")
        return api.upload_folder(
            repo_id=repo_id,
            repo_type=repo_type,
            folder_path=folder,
            revision=revision,
            create_pr=create_pr,
            allow_patterns=list(only) or None,
            ignore_patterns=list(ignored) or None,
            delete_patterns=list(replaced) or None,
            commit_message=commit_message,
            commit_description=commit_description,
        )
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} cannot name a repo on the Hub: {error}. It looks like 'owner/name'.") from error
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            raise PermissionError(
                f"the Hub does not let this token write to {repo_id!r} ({error.response.status_code}). Log in with "
                "`hf auth login`, or pass a token with write access."
            ) from error
        raise
    except Exception as error:
        if not broke_off(error):
            raise
        raise ConnectionError(
            f"the upload to {repo_id!r} broke off ({error}). The repo is as it was: push again, and files that have "
            "arrived are not sent again."
        ) from error


def broke_off(error: BaseException | None) -> bool:
    """Tell whether an error comes from a connection that failed, by the names of the client's own HTTP library.

    Args:
        error: What was raised; its causes count too.

    Returns:
        Whether repeating may help.
    """
    while error is not None:
        if any(kind.__name__ == "TransportError" for kind in type(error).__mro__):
            return True
        error = error.__cause__ or error.__context__
    return False
