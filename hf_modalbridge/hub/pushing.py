"""Upload a directory, then download it again into an empty cache and compare before saying that it is there."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hf_modalbridge.cached_files import file_sha256
from hf_modalbridge.uploading import upload_directory

from .bundle import replace_json, write_bundle
from .downloads import download
from .outputs import bundle_outputs, kind_of, outputs

__all__ = ["PushReport", "forget_local_paths", "push"]

# of earlier uploads of the same kind, where this one does not write them again
_REPLACED = ("*.safetensors", "*.safetensors.index.json", "*.py", "shard-*", "index*", "encoder_processors/*")
_IGNORED = ("checkpoints/*", "*.part", ".cache/*", "__pycache__/*", "*.pyc")


@dataclass(frozen=True)
class PushReport:
    """What was pushed and verified.

    Args:
        kind: "store", "correction", "model", "aligner", "encoder" or "processor".
        url: Address of the commit.
        commit: Its id.
        files: Number of files compared.
        size: Their bytes.
        compared: Names of the outputs that were equal.
    """

    kind: str
    url: str
    commit: str
    files: int
    size: int
    compared: tuple[str, ...]


def push(
    directory: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    bundle: bool = True,
    token: str | None = None,
    commit_message: str | None = None,
) -> PushReport:
    """Push a directory and prove that what comes back is the same.

    A model gets a card (README.md) if it has none. The upload is one commit: one that is cut off leaves the repo as
    it was, and its repetition sends only the files that are not there yet.

    Args:
        directory: Of a store, correction, model, aligner, encoder or processor. It is not changed.
        repo_id: Such as "org/modalbridge-pc"; created if missing, a dataset repo for a store.
        private: Whether a new repo is private.
        revision: Branch to push to, made if missing; the main one by default.
        bundle: Whether a model takes its code along, for users without this package.
        token: Of the Hub; the stored one by default.
        commit_message: Of the commit.

    Returns:
        What was compared.

    Raises:
        FileNotFoundError: If the directory holds nothing of this library.
        ValueError: If the model cannot be loaded elsewhere, or what came back is not what was sent.
        PermissionError: If the token may not write there.
        ConnectionError: If the connection broke and the client's own attempts did not mend it.
    """
    kind = kind_of(directory)
    with tempfile.TemporaryDirectory() as scratch:
        staged = _stage(Path(directory), Path(scratch) / "staged", kind, bundle, repo_id)
        expected = outputs(staged)
        commit = upload_directory(
            staged,
            repo_id,
            repo_type=_repo_type(kind),
            private=private,
            token=token,
            revision=revision,
            ignored=_IGNORED,
            replaced=_REPLACED,
            commit_message=commit_message or f"Upload {kind} with hf_modalbridge",
        )
        back = download(
            repo_id,
            revision=commit.oid,
            repo_type=_repo_type(kind),
            token=token,
            cache_dir=Path(scratch) / "cache",
        )
        files = _compare_files(staged, back, repo_id)
        _compare_outputs(expected, outputs(back), repo_id, exact=True)
        if kind == "model" and bundle:
            alone = bundle_outputs(back)
            _compare_outputs(
                {k: v for k, v in expected.items() if k in alone}, alone, f"{repo_id} (its bundle)", exact=False
            )
        size = sum((staged / name).stat().st_size for name in files)
    return PushReport(kind, str(commit.commit_url), commit.oid, len(files), size, tuple(sorted(expected)))


def _repo_type(kind: str) -> str:
    return "dataset" if kind == "store" else "model"


def _stage(directory: Path, staged: Path, kind: str, bundle: bool, repo_id: str) -> Path:
    """Put together what goes up: the directory's files by hard link, a card, the bundle."""
    shutil.copytree(
        directory, staged, copy_function=_link, ignore=shutil.ignore_patterns("checkpoints", "*.part", ".cache")
    )
    if kind in ("model", "aligner", "encoder"):
        forget_local_paths(staged / "config.json")
    if kind == "model":
        _check_sources(staged)
        if bundle:
            write_bundle(staged)
        if not (staged / "README.md").exists():
            from .cards import model_card

            (staged / "README.md").write_text(str(model_card(staged, repo_id)), encoding="utf-8")
    return staged


def _link(source: str, target: str) -> None:
    try:
        os.link(Path(source).resolve(), target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def forget_local_paths(config_file: Path) -> None:
    """Name parts that came from folders on this machine by the folder alone: the rest of the path is private.

    Args:
        config_file: A config.json; replaced if it names any.
    """

    def shorten(value: Any) -> Any:
        if isinstance(value, list):
            return [shorten(part) for part in value]
        if not isinstance(value, dict):
            return value
        return {
            key: Path(part).name
            if key in ("id", "_name_or_path") and isinstance(part, str) and Path(part).is_absolute()
            else shorten(part)
            for key, part in value.items()
        }

    before = json.loads(config_file.read_text(encoding="utf-8"))
    if (after := shorten(before)) != before:
        replace_json(config_file, after)


def _check_sources(folder: Path) -> None:
    """Refuse a bridge whose base model nobody else can fetch."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if not config.get("bridge_only"):
        return
    parts = {"language model": config.get("language_model_source") or {}}
    parts |= {
        f"encoder of {n!r}": m.get("encoder_source") or {}
        for n, m in config["modalities"].items()
        if m.get("encoder_config")
    }
    for what, source in parts.items():
        name = source.get("id") or ""
        if Path(name).is_absolute() or Path(name).is_dir() or name.count("/") != 1:
            raise ValueError(
                f"this bridge-only model takes its {what} from {name!r}, which is no repo on the Hub: nobody else "
                "could load it. Push that one first and build the bridge on its repo id, or save the model whole."
            )


def _compare_files(staged: Path, back: Path, repo_id: str) -> list[str]:
    """Compare all files that were sent with what came back."""
    sent = sorted(
        p.relative_to(staged).as_posix() for p in staged.rglob("*") if p.is_file() and "__pycache__" not in p.parts
    )
    wrong = [n for n in sent if not (back / n).is_file() or file_sha256(back / n) != file_sha256(staged / n)]
    if wrong:
        raise ValueError(
            f"{len(wrong)} file(s) came back from {repo_id!r} other than they were sent, or not at all: "
            f"{', '.join(wrong[:3])}. Push again."
        )
    return sent


def _compare_outputs(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor], what: str, exact: bool) -> None:
    """Compare outputs; another process may sum in another order."""
    for name, tensor in expected.items():
        other = found.get(name)
        same = other is not None and other.shape == tensor.shape
        if same and other is not None:
            close = exact or not tensor.is_floating_point()
            same = torch.equal(other, tensor) if close else torch.allclose(other, tensor, rtol=1e-4, atol=1e-4)
        if not same:
            raise ValueError(
                f"{name} of {what} is not what the local directory gives. The upload is there, but do not use it: push "
                "again, and report this if it stays."
            )
