"""Saving and loading: statistics in their own shard, bridges without their base model, checked loads."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from .quantization import leave_bridge_whole
from .sharing import HubMixin, push_folder

__all__ = ["BRIDGE_FILE", "CORRECTION_FILE", "SavingMixin", "bridge_keys"]

CORRECTION_FILE = "correction.safetensors"
BRIDGE_FILE = "bridge.safetensors"
_ONLY_SHARD = "model-00001-of-00001.safetensors"
_LANGUAGE_MODEL = "model.language_model"
_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


def bridge_keys(state_dict: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    """Split off the keys that belong to the bridge.

    Args:
        state_dict: Of either model.

    Returns:
        Keys of connectors, keys of corrections.
    """
    parts = {key: set(key.split(".")[:2]) for key in state_dict}
    return [k for k, p in parts.items() if "connectors" in p], [k for k, p in parts.items() if "corrections" in p]


class SavingMixin(HubMixin):
    """`save_pretrained` and `from_pretrained` of both bridge models; goes before `PreTrainedModel`."""

    _replaced_files = ("*.safetensors", "*.safetensors.index.json")

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        push_to_hub: bool = False,
        *,
        bridge_only: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save the model; the statistics of corrections lie alone in `correction.safetensors`.

        Args:
            save_directory: Where to; created if missing.
            is_main_process: Whether this process writes.
            state_dict: Instead of the model's own, gathered by a distributed trainer for instance.
            push_to_hub: Whether to upload the directory afterwards, to `repo_id` or a repo named like it.
            bridge_only: Write connectors and corrections only. The config names the language model and the
                encoders by id and revision; loading fetches them from there. Refused if the language model was trained.
            **kwargs: For transformers' `save_pretrained`, `repo_id`, `token`, `private`, `commit_message` among them.

        Raises:
            ValueError: If `bridge_only` is asked for and would lose something.
        """
        hub = {k: kwargs.pop(k) for k in ("private", "commit_message") if k in kwargs}
        repo_id = kwargs.pop("repo_id", Path(save_directory).name)
        # transformers 5.23 takes model.language_model.model for the name of an older LLaVA, and would undo a renaming
        # that it did not need when it loaded: names in our files are those of the state dict
        kwargs.setdefault("save_original_format", False)
        directory = Path(save_directory)
        if getattr(self, "_hf_peft_config_loaded", False):
            super().save_pretrained(directory, is_main_process, state_dict, **kwargs)  # adapters only
        else:
            tensors = dict(self.state_dict() if state_dict is None else state_dict)
            connectors, corrections = bridge_keys(tensors)
            statistics = {key: tensors.pop(key).contiguous().cpu() for key in corrections}
            if bridge_only:
                if is_main_process:
                    trained = {key: tensors[key].detach().contiguous().cpu() for key in connectors}
                    _save_bridge(self, directory, trained, statistics)
            else:
                super().save_pretrained(directory, is_main_process, tensors, **kwargs)
                if is_main_process:
                    _add_statistics(directory, statistics)
                    (directory / BRIDGE_FILE).unlink(missing_ok=True)
        if push_to_hub and is_main_process:
            push_folder(directory, repo_id, replaced=self._replaced_files, token=kwargs.get("token"), **hub)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a model, whole or bridge-only, and check that its files gave everything that it has.

        Args:
            pretrained_model_name_or_path: Directory or repo id.
            *args: For transformers' `from_pretrained`.
            **kwargs: For transformers' `from_pretrained`. Of a bridge-only directory, `dtype`, `device_map`,
                `attn_implementation` and `trust_remote_code` go to the language model.

        Returns:
            The model in evaluation mode; with `output_loading_info=True` also the loading report.

        Raises:
            ValueError: If tensors of the bridge are missing, superfluous or of another shape.
        """
        from .base_loading import load_bridge_only

        config = kwargs.get("config")
        if config is None or isinstance(config, str | os.PathLike):
            hub = {key: kwargs[key] for key in _HUB_ARGUMENTS if key in kwargs}
            values, _ = cls.config_class.get_config_dict(config or pretrained_model_name_or_path, **hub)
            bridge_only = values.get("bridge_only", False)
        else:
            bridge_only = config.bridge_only
        want_report = kwargs.pop("output_loading_info", False)
        if bridge_only:
            adapter = (kwargs.get("adapter_kwargs") or {}).get("_adapter_model_path")
            model, report = load_bridge_only(cls, pretrained_model_name_or_path, **kwargs)
            if adapter is not None:
                model.load_adapter(adapter)
        else:
            lenient = kwargs.pop("ignore_mismatched_sizes", False)
            if kwargs.get("quantization_config") is not None:
                if config is None or isinstance(config, str | os.PathLike):
                    config = cls.config_class.from_pretrained(config or pretrained_model_name_or_path, **hub)
                kwargs["quantization_config"] = leave_bridge_whole(kwargs["quantization_config"], config)
            model, report = super().from_pretrained(
                pretrained_model_name_or_path,
                *args,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **kwargs,
            )
            check_report(report, pretrained_model_name_or_path, lenient)
        return (model, report) if want_report else model

    def load_adapter(self, *args: Any, load_config: Any = None, **kwargs: Any) -> Any:
        """Load a PEFT adapter; see transformers' `load_adapter`.

        Args:
            *args: For transformers' `load_adapter`.
            load_config: For the same.
            **kwargs: For the same.

        Returns:
            Its loading report.
        """
        # as in save_pretrained: the renaming of an older LLaVA must not strike our names
        found = load_config.weight_mapping if load_config is not None else None
        mapping = [c for c in found or get_model_conversion_mapping(self) if c.target_patterns != [_LANGUAGE_MODEL]]
        if load_config is None:
            kwargs["weight_mapping"] = mapping
        else:
            load_config = dataclasses.replace(load_config, weight_mapping=mapping)
        return super().load_adapter(*args, load_config=load_config, **kwargs)


def check_report(report: dict[str, Any], source: Any, lenient: bool) -> None:
    """Refuse a checkpoint that is not this model's.

    Raises:
        ValueError: Naming the first keys and both shapes.
    """
    missing, mismatched = sorted(report["missing_keys"]), sorted(report["mismatched_keys"])
    unexpected = [
        k for k in sorted(report["unexpected_keys"]) if {"connectors", "corrections", "encoders"} & set(k.split("."))
    ]
    problems = []
    if mismatched and not lenient:
        shapes = [
            f"{key}: {tuple(found)} in the file, {tuple(expected)} in the model" for key, found, expected in mismatched
        ]
        problems.append(f"{len(mismatched)} tensor(s) have another shape ({'; '.join(shapes[:3])})")
    if missing:
        problems.append(f"{len(missing)} are missing ({', '.join(missing[:3])})")
    if unexpected:
        problems.append(f"{len(unexpected)} have no place ({', '.join(unexpected[:3])})")
    if problems:
        raise ValueError(
            f"the checkpoint {str(source)!r} does not belong to this model: {'; '.join(problems)}. Load it without a "
            "config of your own, so that the one beside it is used; if that is what you did, its files come from "
            "different models or the save was interrupted, and it has to be saved again."
        )


def write_index(directory: Path, files: dict[str, dict[str, Tensor] | list[str]], total_size: int) -> None:
    """Write `model.safetensors.index.json` last and at once: it never names files that are not there."""
    weight_map = {key: name for name, keys in files.items() for key in keys}
    index = {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))}
    part = directory / f"{SAFE_WEIGHTS_INDEX_NAME}.part"
    part.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    part.replace(directory / SAFE_WEIGHTS_INDEX_NAME)


def _add_statistics(directory: Path, statistics: dict[str, Tensor]) -> None:
    """Put the statistics beside the weights that transformers wrote, and name both in the index."""
    index_file, single = directory / SAFE_WEIGHTS_INDEX_NAME, directory / SAFE_WEIGHTS_NAME
    sharded = not single.exists()
    if not statistics:
        (directory / CORRECTION_FILE).unlink(missing_ok=True)
        if not sharded:
            index_file.unlink(missing_ok=True)
        return
    if sharded:
        weight_map = json.loads(index_file.read_text(encoding="utf-8"))["weight_map"]
    else:
        # a file called model.safetensors would be read alone, without the index
        single.replace(directory / _ONLY_SHARD)
        with safe_open(directory / _ONLY_SHARD, framework="pt") as shard:
            weight_map = dict.fromkeys(shard.keys(), _ONLY_SHARD)
    save_file(statistics, directory / CORRECTION_FILE, metadata={"format": "pt"})
    files: dict[str, list[str]] = {CORRECTION_FILE: list(statistics)}
    for key, name in weight_map.items():
        files.setdefault(name, []).append(key)
    write_index(directory, files, sum((directory / name).stat().st_size for name in files))


def _save_bridge(
    model: PreTrainedModel, directory: Path, connectors: dict[str, Tensor], statistics: dict[str, Tensor]
) -> None:
    """Write what was trained, and a config that says where the rest is."""
    from .base_loading import check_untouched

    check_untouched(model)
    directory.mkdir(parents=True, exist_ok=True)
    for old in (
        *directory.glob("model*.safetensors"),
        directory / SAFE_WEIGHTS_INDEX_NAME,
        directory / CORRECTION_FILE,
    ):
        old.unlink(missing_ok=True)
    config = copy.deepcopy(model.config)
    config.bridge_only = True
    config.dtype = str(model.dtype).removeprefix("torch.")
    config.architectures = [type(model).__name__]
    config.save_pretrained(directory)
    if model.can_generate():
        model.generation_config.save_pretrained(directory)
    prefix = "" if hasattr(model, "model") else "model."  # names of the whole model, also when only its body is saved
    files = {BRIDGE_FILE: connectors, CORRECTION_FILE: statistics}
    files = {name: {prefix + key: t for key, t in tensors.items()} for name, tensors in files.items() if tensors}
    for name, tensors in files.items():
        save_file(tensors, directory / name, metadata={"format": "pt"})
    write_index(directory, files, sum(t.nbytes for tensors in files.values() for t in tensors.values()))
