"""Results of runs as files: complete or not there at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


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
