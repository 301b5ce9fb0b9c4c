"""Embedding stores on the Hub, as dataset repositories."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Self

from hf_modalbridge.store.manifest import MANIFEST, Manifest

if TYPE_CHECKING:
    from typing import Any

__all__ = ["HubStore"]


class HubStore:
    """The part of `EmbeddingStore` that deals with the Hub."""

    path: Path
    manifest: Manifest

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str | None = None,
        revision: str | None = None,
    ) -> str:
        """Upload the store to a dataset repository, in one commit.

        Args:
            repo_id: Such as "org/captions-clip"; created if missing.
            private: Whether a new repo is private.
            token: Of the Hub; the stored one by default.
            commit_message: Of the commit.
            revision: Branch to commit to, made if missing.

        Returns:
            Address of the commit.

        Raises:
            ValueError: If the store is incomplete, or a file of it is not what its manifest says.
        """
        from hf_modalbridge.uploading import upload_directory

        if not self.manifest.complete:
            raise ValueError(
                f"the store {self.path} is incomplete: its writer was stopped. Run that command again to go on, then "
                "push."
            )
        self.verify()
        files = [part.file for part in (*self.manifest.shards, *self.manifest.index)]
        commit = upload_directory(
            self.path,
            repo_id,
            repo_type="dataset",
            private=private,
            token=token,
            revision=revision,
            only=[MANIFEST, "README.md", *files],
            replaced=["shard-*", "index*"],
            commit_message=commit_message or "Upload embedding store",
        )
        return str(commit.commit_url)

    @classmethod
    def from_hub(
        cls,
        repo_id: str,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Download a store, compare every byte with its manifest, and open it.

        Args:
            repo_id: Dataset repository, such as "org/captions-clip".
            revision: Branch, tag or commit.
            token: Of the Hub; the stored one by default.
            cache_dir: Instead of the usual cache.

        Returns:
            The store.

        Raises:
            FileNotFoundError: If there is no such repo or revision, or no store in it.
            ValueError: If a file is damaged.
        """
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

        where: dict[str, Any] = {"repo_type": "dataset", "revision": revision, "token": token, "cache_dir": cache_dir}
        try:
            folder = snapshot_download(repo_id, **where)
        except (RepositoryNotFoundError, RevisionNotFoundError, LocalEntryNotFoundError) as error:
            raise FileNotFoundError(
                f"no dataset repo {repo_id!r} with revision {revision or 'main'!r} can be read on the Hub "
                f"({type(error).__name__}). Check the spelling, the network, and your access if it is private."
            ) from error
        store = cls.open(folder)
        store.verify()
        return store

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, allow_incomplete: bool = False) -> Self:
        """Open a store; see `EmbeddingStore.open`."""
        raise NotImplementedError

    def verify(self) -> None:
        """Compare all files with the manifest; see `EmbeddingStore.verify`."""
        raise NotImplementedError
