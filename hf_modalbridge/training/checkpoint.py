"""Checkpoints: what trains, its optimizer state and the position, whole or not at all, without pickle."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

__all__ = ["CheckpointFolder", "describe_differences", "load_trained"]

FORMAT = 1
_NAME = re.compile(r"step-(\d{8})")


class CheckpointFolder:
    """The checkpoints of one run.

    Each is a directory like `step-00000100/` with `trained.safetensors`, `optimizer.safetensors` and `state.json`.

    There is no random state: every draw of the loop is seeded from the run's seed and the position,
    so the step number is the whole state of order, learning rate, dropout and noise.

    Args:
        folder: Where they lie; made when the first is written.
        total_limit: How many are kept.
    """

    def __init__(self, folder: str | Path, total_limit: int = 2) -> None:
        self.folder = Path(folder)
        self.total_limit = max(1, total_limit)

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(m[1]) for p in self.folder.iterdir() if (m := _NAME.fullmatch(p.name)))

    def path(self, step: int) -> Path:
        """Directory of one checkpoint."""
        return self.folder / f"step-{step:08d}"

    def read_state(self, step: int) -> dict[str, Any]:
        """Read a checkpoint's `state.json`.

        Raises:
            ValueError: If another format wrote it.
        """
        state = json.loads((self.path(step) / "state.json").read_text(encoding="utf-8"))
        if state.get("format") != FORMAT:
            raise ValueError(
                f"checkpoint {str(self.path(step))!r} has format {state.get('format')!r}, expected {FORMAT}: "
                "finish that run with the version of hf_modalbridge that began it."
            )
        return state

    def save(
        self,
        step: int,
        parameters: dict[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        state: dict[str, Any],
        write: bool = True,
    ) -> None:
        """Write a checkpoint and remove the oldest beyond the limit.

        Every process calls it, for sharded tensors are gathered from all of them.

        Args:
            step: Optimizer steps that are done.
            parameters: What trains, by name.
            optimizer: Their optimizer.
            state: What else goes into `state.json`.
            write: Whether this process writes.
        """
        trained = {name: _gather(p.detach()) for name, p in parameters.items()}
        moments = {
            f"{name}/{key}": _gather(value)
            for name, p in parameters.items()
            for key, value in optimizer.state.get(p, {}).items()
        }
        if not write:
            return
        part = self.folder / f".part-{step:08d}"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        save_file(trained, part / "trained.safetensors")
        save_file(moments, part / "optimizer.safetensors")
        (part / "state.json").write_text(
            json.dumps({"format": FORMAT, "step": step, **state}, indent=1), encoding="utf-8"
        )
        for file in part.iterdir():
            _sync(file)
        _sync(part)
        if self.path(step).exists():
            shutil.rmtree(part)  # the same step of the same run, written before a kill: it is the same
        else:
            os.rename(part, self.path(step))
        _sync(self.folder)
        for old in self.steps()[: -self.total_limit]:
            # renamed first: a directory that is half removed must not look like a checkpoint
            gone = self.folder / f".old-{old:08d}"
            os.rename(self.path(old), gone)
            shutil.rmtree(gone)

    def load(self, step: int, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        """Put a checkpoint's tensors into the parameters and the optimizer.

        Args:
            step: Which checkpoint.
            parameters: What trains, by name.
            optimizer: Their optimizer.

        Raises:
            ValueError: If names or shapes differ.
        """
        load_trained(self.path(step) / "trained.safetensors", parameters)
        moments: dict[str, dict[str, Tensor]] = {name: {} for name in parameters}
        for key, value in load_file(self.path(step) / "optimizer.safetensors").items():
            name, _, kind = key.rpartition("/")
            moments[name][kind] = value
        for name, parameter in parameters.items():
            if moments[name]:
                optimizer.state[parameter] = {
                    # the step counter stays where the optimizer makes it, in main memory
                    kind: value if kind == "step" else _scatter(value, parameter)
                    for kind, value in moments[name].items()
                }

    def clean(self) -> None:
        """Remove what an interrupted write or removal left."""
        if self.folder.is_dir():
            for left in (*self.folder.glob(".part-*"), *self.folder.glob(".old-*")):
                shutil.rmtree(left, ignore_errors=True)


def load_trained(file: str | Path, parameters: dict[str, nn.Parameter]) -> None:
    """Copy a checkpoint's trained tensors into parameters.

    Args:
        file: A checkpoint's `trained.safetensors`.
        parameters: What trains, by name.

    Raises:
        ValueError: If a name is missing or superfluous, or a shape differs.
    """
    tensors = load_file(file)
    found = {name: list(t.shape) for name, t in tensors.items()}
    wanted = {name: list(p.shape) for name, p in parameters.items()}
    if found != wanted:
        raise ValueError(
            f"{str(file)!r} is of another model: {describe_differences(found, wanted)}. Use the "
            "configuration it was written with, or another output directory."
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(_scatter(tensors[name], parameter))


def describe_differences(found: Any, wanted: Any, limit: int = 8) -> str:
    """Say in words where two nested dicts differ; empty if they do not.

    Args:
        found: What the checkpoint has.
        wanted: What this run has.
        limit: Differences named at most.

    Returns:
        `key: checkpoint VALUE, this run VALUE; ...`.
    """
    a, b = _flatten(found), _flatten(wanted)
    missing = object()
    keys = [k for k in {**a, **b} if a.get(k, missing) != b.get(k, missing)]
    parts = [f"{k}: checkpoint {_short(a, k)}, this run {_short(b, k)}" for k in keys[:limit]]
    return "; ".join(parts) + (f"; and {len(keys) - limit} more" if len(keys) > limit else "")


def _short(values: dict[str, Any], key: str) -> str:
    text = repr(values[key]) if key in values else "has none"
    return text if len(text) <= 80 else text[:77] + "..."


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and (value or not prefix):
        return {
            k: v
            for key, item in value.items()
            for k, v in _flatten(item, f"{prefix}.{key}" if prefix else str(key)).items()
        }
    return {prefix: value}


def _gather(tensor: Any) -> Tensor:
    """Whole tensor in main memory, of a plain one or of one that FSDP2 sharded."""
    if isinstance(tensor, torch.distributed.tensor.DTensor):
        tensor = tensor.full_tensor()
    return tensor.detach().cpu().contiguous().clone()


def _scatter(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor on the device, in the dtype and in the shards of another."""
    if isinstance(like, torch.distributed.tensor.DTensor):
        tensor = tensor.to(like.device, like.dtype)
        return torch.distributed.tensor.distribute_tensor(tensor, like.device_mesh, like.placements)
    return tensor.to(like.device, like.dtype)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
