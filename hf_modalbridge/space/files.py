"""Upload fields that take files only, and the folder of a session."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ListFiles
from gradio.utils import get_upload_folder

from .uploads import Refused

__all__ = ["SessionFolder", "drop_zone", "empty_after", "one_file"]


def drop_zone(**settings: Any) -> gr.File:
    """Make a `gradio.File` that refuses addresses: a server that fetches what a stranger names is a stranger's tool.

    Args:
        **settings: Of `gradio.File`.

    Returns:
        The field.
    """
    field = gr.File(**settings)
    keep = field.async_move_resource_to_block_cache

    async def keep_files_only(path: str | Path | None) -> str | None:
        if path is not None and "://" in str(path):
            raise gr.Error("Send the file itself; addresses are not fetched here.", print_exception=False)
        return await keep(path)

    def give_paths(payload: Any) -> Any:
        # gradio's own check of endings would leave the file where it is, and say less than ours
        if payload is None:
            return None
        return [one.path for one in payload] if isinstance(payload, ListFiles) else payload.path

    # on the field and not in a subclass, for which gradio would write a stub file beside this one
    field.async_move_resource_to_block_cache = keep_files_only  # type: ignore[method-assign]
    field.preprocess = give_paths  # type: ignore[method-assign]
    return field


class SessionFolder:
    """A folder for what a session shows or downloads, deleted with the session; made when first needed."""

    def __init__(self) -> None:
        self._path: Path | None = None

    def write(self, name: str, data: bytes) -> str:
        """Write a file that the browser fetches.

        Args:
            name: Of the file; ours, never a user's.
            data: Its bytes.

        Returns:
            Its path, which nobody can guess.
        """
        if self._path is None or not self._path.is_dir():
            self._path = Path(get_upload_folder()) / f"session-{secrets.token_hex(16)}"
            self._path.mkdir(parents=True)
        path = self._path / secrets.token_hex(8)
        path.mkdir()
        (path / name).write_bytes(data)
        return str(path / name)

    def clear(self) -> None:
        """Delete what was written."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                shutil.rmtree(self._path)
            self._path = None

    def __deepcopy__(self, memo: Any) -> SessionFolder:
        # gradio copies a state's first value for every session
        return SessionFolder()


def empty_after(event: Any, *fields: gr.File) -> None:
    """Empty upload fields when an event is over, also after a refusal: the next file can then be dropped at once.

    Args:
        event: What a listener returned.
        *fields: The fields.
    """
    event.then(
        lambda: [None] * len(fields) if len(fields) > 1 else None,
        None,
        list(fields),
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )


def one_file(path: Any) -> str:
    """Give the path of one upload.

    Args:
        path: What the page sent.

    Returns:
        The path.

    Raises:
        Refused: If nothing was sent.
    """
    if isinstance(path, list):
        path = path[0] if path else None
    if not path:
        raise Refused("No file arrived. Choose one first.")
    return str(path)
