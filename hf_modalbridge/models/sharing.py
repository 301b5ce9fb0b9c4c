"""`push_to_hub` of bridges and their processors: whole directories, in one commit."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

__all__ = ["HubMixin", "push_folder"]

_CARD = """---
library_name: hf_modalbridge
tags: {tags}
---

# {name}

Made with hf_modalbridge. `modalbridge push DIRECTORY {repo_id}` writes a card that says more, and verifies the upload.
"""


class HubMixin:
    """`push_to_hub` by way of `save_pretrained`; goes before transformers' classes.

    transformers' own uploads neither subfolders (`encoder_processors/`) nor what is written after its part is saved.
    """

    _replaced_files: tuple[str, ...] = ()

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        tags: Sequence[str] = (),
        **saving: Any,
    ) -> Any:
        """Save to a temporary directory and upload that. `hf_modalbridge.hub.push` also verifies what arrived.

        Args:
            repo_id: Such as "org/modalbridge-pc"; created if missing.
            commit_message: Of the commit.
            commit_description: Of the commit.
            private: Whether a new repo is private.
            token: Of the Hub; the stored one by default.
            revision: Branch to commit to, made if missing.
            create_pr: Whether to open a pull request instead.
            tags: For the card that a repo without one gets.
            **saving: For `save_pretrained`, such as `bridge_only=True`.

        Returns:
            The client's `CommitInfo`.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, **saving)  # type: ignore[attr-defined]
            return push_folder(
                Path(folder),
                repo_id,
                replaced=self._replaced_files,
                commit_message=commit_message or f"Upload {type(self).__name__}",
                commit_description=commit_description,
                private=private,
                token=token,
                revision=revision,
                create_pr=create_pr,
                tags=tags,
            )


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    replaced: Sequence[str] = (),
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    tags: Sequence[str] = (),
) -> Any:
    """Upload a folder, subfolders included, in one commit, with a short card where the repo has none.

    Args:
        folder: What to upload.
        repo_id: Created if missing.
        replaced: Patterns of files in the repo that go if the folder does not have them.
        commit_message: Of the commit.
        commit_description: Of the commit.
        private: Whether a new repo is private.
        token: Of the Hub; the stored one by default.
        revision: Branch to commit to, made if missing.
        create_pr: Whether to open a pull request instead.
        tags: For the card.

    Returns:
        The client's `CommitInfo`.
    """
    from hf_modalbridge.uploading import upload_directory

    return upload_directory(
        folder,
        repo_id,
        card=partial(_CARD.format, tags=["modalbridge", *tags]),
        private=private,
        token=token,
        revision=revision,
        create_pr=create_pr,
        ignored=[".cache/*", "checkpoints/*"],
        replaced=replaced,
        commit_message=commit_message,
        commit_description=commit_description,
    )
