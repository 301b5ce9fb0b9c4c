"""Results of runs as files: complete or not there at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def read_run(path: Path, settings: Any) -> dict[str, Any] | None:
    """Read what a run wrote, if it is done.

    Args:
        path: Of its file.
        settings: What the study runs with, as JSON gives it back; the file says what it was run with.

    Returns:
        The file's values, or None if there is no such file.

    Raises:
        ValueError: If the file is of other settings.
    """
    if not path.is_file():
        return None
    kept = json.loads(path.read_text(encoding="utf-8"))
    if kept.get("settings") != settings:
        raise ValueError(
            f"{path} is of settings {kept.get('settings')}, this study of {settings}: use another --output."
        )
    return kept


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    """Write a value as JSON; a run that is killed leaves no half of it.

    Args:
        path: Of the file; its folder is made.
        value: What JSON can hold.
        indent: Of the lines, for files that people read.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(value, indent=indent), encoding="utf-8")
    os.replace(part, path)
