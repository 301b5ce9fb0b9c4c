"""Find the licence of a model, on this machine or on the Hub."""

from __future__ import annotations

from pathlib import Path

__all__ = ["find_licence"]


def find_licence(path_or_repo: str | None, revision: str | None = None, online: bool = False) -> str:
    """Find what licence a model directory or repository states.

    Args:
        path_or_repo: Directory or repo id; None for a part without a recorded source.
        revision: Branch, tag or commit on the Hub.
        online: Whether to ask the Hub for a card that is not in the local cache.

    Returns:
        The licence as the card states it, or a phrase that says why it is not known.
    """
    if not path_or_repo:
        return "unknown (no source recorded)"
    folder = Path(path_or_repo)
    if folder.is_dir():
        stated = _from_card(folder / "README.md")
        files = sorted(folder.glob("LICEN[SC]E*"))
        return stated or (f"see {files[0].name}" if files else "unknown (no card and no licence file)")
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError

    try:
        cached = try_to_load_from_cache(path_or_repo, "README.md", revision=revision)
        if isinstance(cached, str):
            return _from_card(Path(cached)) or "unknown (its card states none)"
        if not online:
            return "unknown here (ask the Hub with --online)"
        card = hf_hub_download(path_or_repo, "README.md", revision=revision)
        return _from_card(Path(card)) or "unknown (its card states none)"
    except HFValidationError:
        return "unknown (not a directory here, not a repo id)"
    except (RepositoryNotFoundError, EntryNotFoundError) as error:
        return f"unknown ({type(error).__name__} on the Hub)"


def _from_card(path: Path) -> str | None:
    """Read the licence in the metadata block of a card."""
    if not path.is_file():
        return None
    import yaml

    text = path.read_text(encoding="utf-8", errors="replace")
    if not text.startswith("---"):
        return None
    try:
        block = yaml.safe_load(text.split("---", 2)[1])
    except yaml.YAMLError:
        return None
    if not isinstance(block, dict) or not block.get("license"):
        return None
    stated = block["license"]
    stated = ", ".join(map(str, stated)) if isinstance(stated, list) else str(stated)
    return f"{stated} ({block['license_name']})" if block.get("license_name") else stated
