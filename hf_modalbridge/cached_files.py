"""Files in the Hub client's cache, which lie under their hashes: the client itself compares sizes only."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["blob_id", "file_sha256", "is_damaged", "remove_cached"]


def is_damaged(path: Path) -> bool:
    """Compare a cached file with the hash that it is stored under.

    Args:
        path: In a snapshot: a link to a blob whose name is the sha256 of a file in LFS, and git's id of any other.

    Returns:
        Whether its content is another; False for a file that is not stored under a hash.
    """
    etag = path.resolve().name
    if not path.is_symlink() or len(etag) not in (40, 64):
        return False
    return (file_sha256(path) if len(etag) == 64 else blob_id(path.read_bytes())) != etag


def remove_cached(path: Path) -> None:
    """Remove a file of a snapshot and the blob behind it, so that it is downloaded again."""
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Hash a file.

    Args:
        path: The file.

    Returns:
        Its sha256 in hexadecimal.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def blob_id(data: bytes) -> str:
    """Compute the id that git gives to content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
