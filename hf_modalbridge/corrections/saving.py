"""Saving, loading and sharing corrections: `config.json`, `correction.safetensors` and a card."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hf_modalbridge.cached_files import is_damaged, remove_cached
from hf_modalbridge.corrections.card import correction_card

__all__ = [
    "CONFIG_FILE",
    "FORMAT_VERSION",
    "SavedCorrection",
    "TENSOR_FILE",
    "fetch",
    "load_config",
    "load_tensors",
]

CONFIG_FILE = "config.json"
TENSOR_FILE = "correction.safetensors"
FORMAT_VERSION = 1

_DESCRIPTION = ("source_encoder", "target_encoder", "source_rows", "target_rows")


class SavedCorrection(nn.Module):
    """The part of `Correction` that deals with configs, files and the Hub."""

    correction_type: ClassVar[str]
    hyper_parameters: ClassVar[tuple[str, ...]]
    dim: int
    output_trace: Tensor

    @property
    def is_fitted(self) -> bool:
        """Whether statistics were computed or loaded."""
        return not self.output_trace.is_meta and bool(self.output_trace > 0)

    def to_config(self) -> dict[str, Any]:
        """Describe the correction, without its statistics.

        Returns:
            Type, dim, hyper-parameters, fingerprints of both encoders, row counts and the library's version;
            plain values that go into JSON.
        """
        from hf_modalbridge import __version__

        names = (*self.hyper_parameters, *_DESCRIPTION)
        return {
            "correction_type": self.correction_type,
            "format_version": FORMAT_VERSION,
            "library_version": __version__,
            "dim": self.dim,
        } | {name: getattr(self, name) for name in names}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build an unfitted correction, with buffers of the right shapes and dtypes for a checkpoint to fill.

        Args:
            config: From `to_config`.

        Returns:
            The correction.

        Raises:
            KeyError: If a key is missing.
            ValueError: If a key is unknown, or the config is of another type of correction or a newer format.
        """
        for key in ("correction_type", "dim"):
            if key not in config:
                raise KeyError(
                    f"the config of a correction has no {key!r}; it has {', '.join(sorted(config)) or 'nothing'}."
                )
        if config["correction_type"] != cls.correction_type:
            raise ValueError(
                f"the config is of a correction of type {config['correction_type']!r}, not {cls.correction_type!r}. "
                "Load it with AutoCorrection."
            )
        if config.get("format_version", FORMAT_VERSION) > FORMAT_VERSION:
            raise ValueError(
                f"the correction has format version {config['format_version']}, and this library reads up to "
                f"{FORMAT_VERSION}. Update hf_modalbridge."
            )
        known = {"dim", *cls.hyper_parameters, *_DESCRIPTION}
        unknown = sorted(set(config) - known - {"correction_type", "format_version", "library_version"})
        if unknown:
            raise ValueError(
                f"the config of a {cls.correction_type!r} correction has unknown keys: {', '.join(unknown)}. Known are "
                f"{', '.join(sorted(known))}."
            )
        return cls(**{key: value for key, value in config.items() if key in known})

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Save config, statistics and a card.

        Args:
            directory: Where to; created if missing.

        Raises:
            ValueError: If the correction was never fitted.
        """
        if not self.is_fitted:
            raise ValueError(f"this {type(self).__name__} has no statistics yet. Fit it before saving it.")
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        config = self.to_config()
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, folder / TENSOR_FILE, metadata={"format": "pt", "config": json.dumps(config)})
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(correction_card(config, tensors), encoding="utf-8")

    @classmethod
    def from_pretrained(cls, path_or_repo: str | os.PathLike[str], revision: str | None = None) -> Self:
        """Load a correction of this type; `AutoCorrection` loads any type, and out of whole models.

        Args:
            path_or_repo: Directory, or repo id on the Hub.
            revision: Branch, tag or commit on the Hub.

        Returns:
            The correction, in eval mode.

        Raises:
            FileNotFoundError: If the directory or a file of it does not exist.
            ValueError: If config and tensors do not fit each other or this type.
        """
        correction = cls.from_config(load_config(path_or_repo, revision))
        load_tensors(correction, path_or_repo, revision)
        return correction

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str | None = None,
        revision: str | None = None,
    ) -> str:
        """Upload the correction.

        Args:
            repo_id: Such as "org/realign-clip"; created if missing.
            private: Whether a new repo is private.
            token: Of the Hub; the stored one by default.
            commit_message: Of the commit.
            revision: Branch to commit to.

        Returns:
            Address of the commit.
        """
        import tempfile

        from hf_modalbridge.uploading import upload_directory

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            commit = upload_directory(
                Path(folder),
                repo_id,
                private=private,
                token=token,
                revision=revision,
                commit_message=commit_message or f"Upload {type(self).__name__} correction",
            )
        return str(commit.commit_url)


def fetch(path_or_repo: str | os.PathLike[str], name: str, revision: str | None = None) -> Path:
    """Find one file of a directory or Hub repo.

    Args:
        path_or_repo: Directory, or repo id.
        name: Of the file.
        revision: Branch, tag or commit on the Hub.

    Returns:
        Its path on this machine.

    Raises:
        FileNotFoundError: If there is no such directory, repo or file.
        ValueError: If the file was damaged on the way; it is removed from the cache.
    """
    folder = Path(path_or_repo)
    if folder.is_dir():
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} holds no correction: it has no {name}. Save one there with save_pretrained."
            )
        return folder / name
    if str(path_or_repo).count("/") != 1:  # no repo id, so there is no point in asking the Hub
        raise FileNotFoundError(
            f"there is no directory {str(path_or_repo)!r} here, and a repo on the Hub is named 'owner/name'. "
            "Check the spelling."
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        path = Path(hf_hub_download(str(path_or_repo), name, revision=revision))
    except RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"the repo {str(path_or_repo)!r} has no revision {revision!r}. Give a branch, tag or commit that it has."
        ) from error
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{name} of {str(path_or_repo)!r} is not in the cache, and the Hub cannot be reached. Connect, or leave "
            "offline mode, or download it first."
        ) from error
    except (HFValidationError, RepositoryNotFoundError, EntryNotFoundError) as error:
        raise FileNotFoundError(
            f"{str(path_or_repo)!r} is neither a directory here nor a repo on the Hub with a file {name} "
            f"({type(error).__name__}). Check the spelling, and your access if the repo is private."
        ) from error
    if is_damaged(path):
        remove_cached(path)
        raise ValueError(
            f"{name} of {str(path_or_repo)!r} was damaged on the way: its hash is not the Hub's. It is removed from "
            "the cache; load it again."
        )
    return path


def load_config(path_or_repo: str | os.PathLike[str], revision: str | None = None) -> dict[str, Any]:
    """Read the config of a directory or Hub repo.

    Args:
        path_or_repo: Directory, or repo id.
        revision: Branch, tag or commit on the Hub.

    Returns:
        The config.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no JSON object.
    """
    path = fetch(path_or_repo, CONFIG_FILE, revision)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}). Save the correction again.") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a {type(config).__name__}, not a config. Save the correction again.")
    return config


def load_tensors(
    correction: Any,
    path_or_repo: str | os.PathLike[str],
    revision: str | None = None,
    prefixes: tuple[str, ...] = ("",),
) -> None:
    """Fill a correction from `correction.safetensors`, strict on names, shapes and dtypes.

    Args:
        correction: From `from_config`; filled in place and put into eval mode.
        path_or_repo: Directory, or repo id.
        revision: Branch, tag or commit on the Hub.
        prefixes: What may stand before the names in the file; the first that occurs is taken.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the tensors are not those of this correction.
    """
    path = fetch(path_or_repo, TENSOR_FILE, revision)
    try:
        with safe_open(path, "pt") as file:
            keys = list(file.keys())
            prefix = next((p for p in prefixes if any(key.startswith(p) for key in keys)), prefixes[0])
            found = {key[len(prefix) :]: file.get_tensor(key) for key in keys if key.startswith(prefix)}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}). Download or save the correction again.") from error
    expected = correction.state_dict()
    if set(found) != set(expected):
        raise ValueError(
            f"{path} does not hold a {correction.correction_type!r} correction: missing "
            f"{sorted(set(expected) - set(found)) or 'nothing'}, superfluous "
            f"{sorted(set(found) - set(expected)) or 'nothing'}. Config and tensors come from different corrections."
        )
    for name, buffer in expected.items():
        tensor = found[name]
        if tensor.shape != buffer.shape or tensor.dtype != buffer.dtype:
            raise ValueError(
                f"{path}: {name} is {tuple(tensor.shape)} {tensor.dtype}, expected {tuple(buffer.shape)} "
                f"{buffer.dtype}. Config and tensors come from different corrections."
            )
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{path}: {name} holds NaN or infinity. Fit the correction again.")
        buffer.copy_(tensor)
    correction.eval()
