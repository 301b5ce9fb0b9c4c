"""`losses.jsonl`: one row a step, cut back to the checkpoint when a run goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["LossLog"]


class LossLog:
    """Rows `{"step": ..., "loss": ...}` in a file, in memory, or both.

    Args:
        path: The file; None keeps rows in memory only.
        write: Whether this process writes the file.
    """

    def __init__(self, path: str | Path | None, write: bool = True) -> None:
        self.path = Path(path) if path is not None and write else None
        self.rows: list[dict[str, Any]] = []
        self._file: Any = None

    def begin(self, step: int) -> None:
        """Keep the rows up to a step, drop those beyond it, and open the file for more.

        Args:
            step: Steps that the checkpoint holds; 0 for a new run.
        """
        if self.path is None:
            return
        kept: list[str] = []
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    break  # cut by a kill; a checkpoint syncs the file first, so this row is beyond it
                if row["step"] > step:
                    break
                kept.append(line + "\n")
                self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(self.path.name + ".part")
        part.write_text("".join(kept), encoding="utf-8")
        os.replace(part, self.path)
        self._file = self.path.open("a", encoding="utf-8")

    def append(self, row: dict[str, Any]) -> None:
        """Add a row."""
        self.rows.append(row)
        if self._file is not None:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def sync(self) -> None:
        """Bring the file to the disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
