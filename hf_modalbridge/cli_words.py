"""Words of a command line that no declared option takes."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["files_by_modality", "read_settings"]


def files_by_modality(words: list[str]) -> tuple[list[tuple[str | None, Path]], list[str]]:
    """Split words into `--<modality> FILE` pairs, whatever the modality's name, and the others.

    Args:
        words: Of the command line.

    Returns:
        The pairs, and the others in order.

    Raises:
        ValueError: If a name has no file.
    """
    files: list[tuple[str | None, Path]] = []
    plain, rest = [], iter(words)
    for word in rest:
        if not word.startswith("--"):
            plain.append(word)
            continue
        name, equals, value = word.removeprefix("--").partition("=")
        value = value if equals else next(rest, "")
        if not value:
            raise ValueError(f"{word} needs a file: --{name} FILE.")
        files.append((name, Path(value)))
    return files, plain


def read_settings(pairs: list[str]) -> dict[str, object]:
    """Read NAME=VALUE; a value is a number, true, false or null as in JSON, and otherwise a word.

    Args:
        pairs: Of the command line.

    Returns:
        Values by name.

    Raises:
        ValueError: If one is no pair.
    """
    settings: dict[str, object] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--hyper takes NAME=VALUE, such as --hyper rank=64; got {pair!r}.")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    return settings
