"""The loop of reconstruction pre-training, where every batch is a function of the step."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from .checkpoint import CheckpointFolder, describe_differences
from .logs import LossLog
from .schedule import learning_rate_factor

__all__ = ["PretrainingConfig", "pretrain"]


@dataclass
class PretrainingConfig:
    """Settings of the loop.

    Args:
        steps: Optimizer steps.
        batch_size: Items of a step.
        learning_rate: Peak learning rate of AdamW, after a linear warm-up and before a cosine fall to zero.
        warmup_ratio: Share of the steps that warm up.
        weight_decay: Decay of matrices; vectors and biases have none.
        max_grad_norm: Gradients are scaled down to this norm.
        seed: Seed of weights, data and masks.
        save_steps: Steps between checkpoints; 0 writes one at the end only.
        progress: Show a progress bar.
    """

    steps: int
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup_ratio: float = 0.05
    weight_decay: float = 0.05
    max_grad_norm: float = 5.0
    seed: int = 0
    save_steps: int = 200
    progress: bool = True


def pretrain(
    model: nn.Module,
    batch_of_step: Callable[[int], Mapping[str, Tensor]],
    args: PretrainingConfig,
    output_dir: str | Path,
    identity: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Train a model whose output has a `loss`, and go on from the newest checkpoint if there is one.

    A run that was stopped ends with the same numbers: data and masks come from the step's number, dropout is seeded by
    it, and checkpoints hold weights and both of AdamW's moments (safetensors, no pickle).

    Args:
        model: In the state that seed `args.seed` gives; trained in place.
        batch_of_step: Keyword arguments of the model's forward pass for a step from 0.
        args: Settings.
        output_dir: Gets `losses.jsonl` and `checkpoints/`.
        identity: What else the run is (data, model); a checkpoint of another run is refused.

    Returns:
        Rows `{"step", "loss", "lr", "grad_norm", "seconds"}`.

    Raises:
        ValueError: If the newest checkpoint is of other settings, or a loss is not finite.
    """
    output_dir = Path(output_dir)
    run = json.loads(json.dumps({"args": asdict(args), "identity": dict(identity or {})}))
    for key in ("save_steps", "progress"):  # may change between the parts of a run
        del run["args"][key]
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups = [
        {"params": [p for p in parameters.values() if p.ndim > 1], "weight_decay": args.weight_decay},
        {"params": [p for p in parameters.values() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.95))
    folder = CheckpointFolder(output_dir / "checkpoints", total_limit=2)
    folder.clean()
    done = max(folder.steps(), default=0)
    if done:
        found = folder.read_state(done)["run"]
        if found != run:
            raise ValueError(
                f"{str(folder.path(done))!r} is of another run: {describe_differences(found, run)}. Use another output "
                "directory, or remove this one."
            )
        folder.load(done, parameters, optimizer)
    log = LossLog(output_dir / "losses.jsonl")
    log.begin(done)
    warmup = math.ceil(args.steps * args.warmup_ratio)
    model.train()
    try:
        with tqdm(total=args.steps, initial=done, disable=not args.progress, unit="step", mininterval=2) as bar:
            for step in range(done, args.steps):
                start = time.perf_counter()
                factor = learning_rate_factor(step, args.steps, warmup)
                for group in optimizer.param_groups:
                    group["lr"] = args.learning_rate * factor
                torch.manual_seed(_seed(args.seed, step))
                loss = model(**batch_of_step(step)).loss
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                norm = nn.utils.clip_grad_norm_(list(parameters.values()), args.max_grad_norm)
                optimizer.step()
                value = loss.item()
                if not math.isfinite(value):
                    raise ValueError(
                        f"the loss of step {step} is {value}; lower learning_rate ({args.learning_rate}) and start "
                        f"again in another output directory."
                    )
                log.append(
                    {
                        "step": step + 1,
                        "loss": round(value, 6),
                        "lr": args.learning_rate * factor,
                        "grad_norm": round(float(norm), 4),
                        "seconds": round(time.perf_counter() - start, 4),
                    }
                )
                bar.update()
                bar.set_postfix(loss=f"{value:.4f}", refresh=False)
                last = step + 1 == args.steps
                if last or (args.save_steps and (step + 1) % args.save_steps == 0):
                    log.sync()
                    folder.save(step + 1, parameters, optimizer, {"run": run})
    finally:
        log.close()
    model.eval()
    return log.rows


def _seed(seed: int, step: int) -> int:
    """One number of run and step, far apart for neighbours."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{step}".encode()).digest()[:7], "big")
