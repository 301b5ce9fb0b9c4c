"""The training loop of both of AnisoAlign's stages: AdamW, averages, early stopping, checkpoints."""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from hf_modalbridge.corrections.aniso_networks import Mlp

__all__ = ["Stage", "draw_rows", "held_out", "step_generator", "train_stage"]

_WARM_UP = 50
_HELD_OUT_ROWS = 4096  # at most, so that a look at them costs little


@dataclass
class Stage:
    """Settings of one stage.

    Attributes:
        name: "score" or "refinement"; names the checkpoint and the progress bar.
        steps: Largest number of steps.
        lr: Largest learning rate.
        weight_decay: Of AdamW.
        ema: Decay of the average of the weights; 0 for none.
        eval_every: Steps between two looks at the held-out rows.
        patience: Looks without improvement after which it stops.
        seed: Of the fit.
        identity: What the stage depends on; a checkpoint with another is refused.
        folder: Of the checkpoints, or None.
        progress: Whether to show a progress bar.
    """

    name: str
    steps: int
    lr: float
    weight_decay: float
    ema: float
    eval_every: int
    patience: int
    seed: int
    identity: str
    folder: Path | None = None
    progress: bool = False

    @property
    def path(self) -> Path | None:
        """File of the checkpoint."""
        return self.folder / f"{self.name}.safetensors" if self.folder else None


def step_generator(seed: int, stage: str, step: int) -> torch.Generator:
    """Give the random numbers of one step, the same however often the run was interrupted before it.

    Args:
        seed: Of the fit.
        stage: Name of the stage.
        step: Of the stage; -1 for the held-out rows.

    Returns:
        A generator on the CPU, so that every device draws the same.
    """
    code = sum(ord(letter) for letter in stage)
    return torch.Generator().manual_seed((seed * 1_000_003 + code) * 1_000_003 + step + 1)


def held_out(rows: int, share: float) -> int:
    """Count the rows that are held out: the first of a sample in random order.

    Args:
        rows: Sampled rows.
        share: Of them.

    Returns:
        At least one, at most 4096.
    """
    return max(1, min(int(rows * share), _HELD_OUT_ROWS))


def draw_rows(first: int, last: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw positions of rows that are not held out.

    Args:
        first: Number of held-out rows.
        last: Number of rows.
        count: How many, with replacement.
        generator: Source of the random numbers.

    Returns:
        `(count,)`.
    """
    # a single row is both held out and trained on
    return torch.randint(min(first, last - 1), last, (count,), generator=generator)


def train_stage(
    net: Mlp,
    stage: Stage,
    loss: Callable[[Mlp, torch.Generator], Tensor],
    validate: Callable[[Mlp], float],
) -> list[dict[str, float]]:
    """Train a network and leave in it the weights that were best on the held-out rows.

    Args:
        net: Its buffers are trained, in place.
        stage: The settings.
        loss: Gives the loss of one batch, which it draws from the generator.
        validate: Gives the loss of the held-out rows, with noise that never changes.

    Returns:
        One entry a look: step, loss of the last batch, held-out loss.

    Raises:
        ValueError: If a checkpoint is of another fit, or the loss is not finite.
    """
    weights = dict(net.named_buffers())
    for tensor in weights.values():
        tensor.requires_grad_(True)
    optimizer = torch.optim.AdamW(list(weights.values()), lr=stage.lr, weight_decay=stage.weight_decay)
    average = copy.deepcopy(net)  # the plain weights where there is no average
    best = {name: tensor.detach().clone() for name, tensor in weights.items()}
    state: dict[str, Any] = {"step": 0, "looks_without": 0, "done": False, "history": []}
    restored = _load(stage, weights, dict(average.named_buffers()), best, optimizer)
    if restored is None:
        state["best"] = validate(net)
        state["history"].append({"step": 0, "loss": state["best"], "held_out": state["best"]})
    else:
        state = restored
    with tqdm(
        total=stage.steps, initial=state["step"], desc=f"stage {stage.name}", unit="step", disable=not stage.progress
    ) as bar:
        while not state["done"] and state["step"] < stage.steps:
            step = state["step"]
            for group in optimizer.param_groups:
                group["lr"] = stage.lr * _schedule(step, stage.steps)
            value = loss(net, step_generator(stage.seed, stage.name, step))
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
            optimizer.step()
            _average(average, weights, stage.ema, step)
            state["step"] = step + 1
            bar.update()
            if state["step"] % stage.eval_every == 0 or state["step"] == stage.steps:
                _look(state, stage, average, best, float(value.detach()), validate)
                bar.set_postfix(held_out=f"{state['history'][-1]['held_out']:.4f}", best=f"{state['best']:.4f}")
                _save(stage, weights, dict(average.named_buffers()), best, optimizer, state)
    for name, tensor in weights.items():
        tensor.requires_grad_(False)
        tensor.grad = None
        tensor.copy_(best[name])
    return list(state["history"])


def _schedule(step: int, steps: int) -> float:
    """Warm up, then fall along a cosine."""
    warm = min(1.0, (step + 1) / min(_WARM_UP, max(1, steps // 4)))
    return warm * 0.5 * (1 + math.cos(math.pi * step / steps))


@torch.no_grad()
def _average(average: Mlp, weights: dict[str, Tensor], decay: float, step: int) -> None:
    """Move the average; it forgets the start faster in the first steps."""
    share = 1 - min(decay, (1 + step) / (10 + step)) if decay else 1.0
    for name, tensor in average.named_buffers():
        tensor.lerp_(weights[name].detach(), share)


@torch.no_grad()
def _look(
    state: dict[str, Any],
    stage: Stage,
    average: Mlp,
    best: dict[str, Tensor],
    loss: float,
    validate: Callable[[Mlp], float],
) -> None:
    """Measure the held-out loss, keep the weights if they are the best, and see whether to stop."""
    value = validate(average)
    state["history"].append({"step": state["step"], "loss": loss, "held_out": value})
    if not math.isfinite(value) or not math.isfinite(loss):
        raise ValueError(
            f"the loss of stage {stage.name} is {value} at step {state['step']}. Lower the learning rate "
            "(score_lr, refine_lr)."
        )
    if value < state["best"]:
        state["best"], state["looks_without"] = value, 0
        for name, tensor in average.named_buffers():
            best[name].copy_(tensor)
    else:
        state["looks_without"] += 1
    state["done"] = state["looks_without"] >= stage.patience or state["step"] >= stage.steps


def _save(
    stage: Stage,
    weights: dict[str, Tensor],
    average: dict[str, Tensor],
    best: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
) -> None:
    """Write one file, state and tensors together, and put it in place whole."""
    path = stage.path
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        tensors |= {f"weights/{name}": tensor, f"average/{name}": average[name], f"best/{name}": best[name]}
        tensors |= {f"optimizer/{name}/{key}": value for key, value in optimizer.state[tensor].items()}
    part = path.with_suffix(".part")
    metadata = {"state": json.dumps(state), "identity": stage.identity}
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, part, metadata=metadata)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    summary = {"stage": stage.name, "identity": json.loads(stage.identity)} | state
    path.with_suffix(".json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _load(
    stage: Stage,
    weights: dict[str, Tensor],
    average: dict[str, Tensor],
    best: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> dict[str, Any] | None:
    """Go on from a checkpoint, if there is one."""
    path = stage.path
    if path is None or not path.is_file():
        return None
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        if metadata.get("identity") != stage.identity:
            theirs, ours = json.loads(metadata.get("identity", "{}")), json.loads(stage.identity)
            differing = sorted(key for key in {*theirs, *ours} if theirs.get(key) != ours.get(key))
            raise ValueError(
                f"{path} is a checkpoint of another fit: {', '.join(differing)} differ. Use another checkpoint_dir, "
                "or remove that one."
            )
        with torch.no_grad():
            for name, tensor in weights.items():
                tensor.copy_(file.get_tensor(f"weights/{name}"))
                average[name].copy_(file.get_tensor(f"average/{name}"))
                best[name].copy_(file.get_tensor(f"best/{name}"))
                prefix = f"optimizer/{name}/"
                moments = {k[len(prefix) :]: file.get_tensor(k) for k in file.keys() if k.startswith(prefix)}  # noqa: SIM118
                optimizer.state[tensor] = {
                    key: value if key == "step" else value.to(tensor.device) for key, value in moments.items()
                }
    return dict(json.loads(metadata["state"]))
