"""Downloads whose content is checked: the Hub's client compares sizes, this also compares hashes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from hf_modalbridge.cached_files import is_damaged, remove_cached
from hf_modalbridge.uploading import broke_off

__all__ = ["download", "wrong_files"]


def download(
    repo_id: str,
    *,
    revision: str | None = None,
    repo_type: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    allow_patterns: Sequence[str] | str | None = None,
) -> Path:
    """Download a repository, or some of its files, and compare every byte with what the Hub says it is.

    Args:
        repo_id: Such as "org/modalbridge-pc".
        revision: Branch, tag or commit.
        repo_type: "model" by default, or "dataset".
        token: Of the Hub; the stored one by default, False for none.
        cache_dir: Instead of the usual cache.
        allow_patterns: Which files, such as `["config.json", "correction.safetensors"]`; all by default.

    Returns:
        The folder of the snapshot.

    Raises:
        FileNotFoundError: If the repo, the revision or the network is not there.
        ConnectionError: If the connection broke and the client's own attempts did not mend it.
        ValueError: If a file is not what the Hub says it is; it is removed from the cache.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = Path(
            snapshot_download(
                repo_id,
                revision=revision,
                repo_type=repo_type,
                token=token,
                cache_dir=cache_dir,
                allow_patterns=allow_patterns,
            )
        )
    except RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"the repo {repo_id!r} has no revision {revision!r}. Give a branch, tag or commit that it has."
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise FileNotFoundError(
            f"there is no repo {repo_id!r} on the Hub, or it is private and this token may not read it. Check the "
            "spelling, and log in with `hf auth login` or pass token=."
        ) from error
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{repo_id!r} is not in the cache, and the Hub cannot be reached. Connect, or download it first."
        ) from error
    except Exception as error:
        if not broke_off(error):
            raise
        raise ConnectionError(
            f"the download of {repo_id!r} broke off ({error}). Repeat it: files that have come are kept."
        ) from error
    if wrong := wrong_files(folder):
        for name in wrong:
            remove_cached(folder / name)
        raise ValueError(
            f"{len(wrong)} file(s) of {repo_id!r} were damaged on the way: {', '.join(wrong[:3])}. They are removed "
            "from the cache; download again."
        )
    return folder


def wrong_files(snapshot: str | os.PathLike[str]) -> list[str]:
    """Compare the files of a snapshot in the cache with the hashes that they are stored under.

    Args:
        snapshot: Folder that `snapshot_download` gave.

    Returns:
        Names of the files whose content is another.
    """
    folder = Path(snapshot)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path.relative_to(folder).as_posix() for path in files if is_damaged(path)]
