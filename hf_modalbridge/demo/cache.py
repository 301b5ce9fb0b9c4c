"""The folder where the demo keeps what it made once: converted models and fetched packages."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["build_once", "cache_dir"]


def cache_dir() -> Path:
    """Give the cache folder, made if need be.

    Returns:
        `$MODALBRIDGE_CACHE`, or `~/.cache/hf_modalbridge` if that is not set.
    """
    path = Path(os.environ.get("MODALBRIDGE_CACHE") or Path.home() / ".cache" / "hf_modalbridge").expanduser()
    path.mkdir(parents=True, exist_ok=True)
    return path


def build_once(name: str, build: Callable[[Path], None]) -> Path:
    """Give a folder of the cache, building it the first time.

    The folder is built under a temporary name and renamed, so that it is either absent or complete, also
    after a kill; of two processes that build it at once, one result is kept.

    Args:
        name: The folder's name, which must change when its contents would.
        build: Called with an empty folder to fill.

    Returns:
        The complete folder.
    """
    final = cache_dir() / name
    if final.is_dir():
        return final
    partial = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache_dir()))
    try:
        build(partial)
        partial.chmod(0o755)
        try:
            partial.rename(final)
        except OSError:
            if not final.is_dir():  # not the other process that was faster: a real failure
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final
