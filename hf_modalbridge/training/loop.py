"""The one training loop that the recipes share."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hf_modalbridge.data.batches import BatchPlan

from .accelerate_setup import accelerator_for, seed_position
from .checkpoint import CheckpointFolder, describe_differences
from .config import LoopConfig
from .freezing import trainable_parameters
from .held_out import Collate, fetch_rows, held_out_loss, loss_terms
from .logs import LossLog
from .optimizer import parameter_groups
from .schedule import learning_rate_factor, warmup_length

__all__ = ["TrainResult", "train"]


@dataclass
class TrainResult:
    """What a run gave.

    Args:
        steps: Optimizer steps of the run.
        rows: One dict a step: `step`, `epoch`, `loss` (nats per supervised token), `lr`, `grad_norm`,
            `tokens`, and `held_out_loss` where it was evaluated.
        held_out_loss: The last one; None without held-out data.
        checkpoint: Directory of the last checkpoint; None without an output directory.
        seconds: Time that this call took.
    """

    steps: int
    rows: list[dict[str, Any]] = field(repr=False)
    held_out_loss: float | None
    checkpoint: Path | None
    seconds: float


def train(
    model: nn.Module,
    dataset: Any,
    collate: Collate,
    args: LoopConfig,
    output_dir: str | Path | None = None,
    *,
    eval_dataset: Any = None,
    eval_collate: Collate | None = None,
    train_modules: Iterable[nn.Module] | None = None,
    learning_rates: Mapping[nn.Module, float] | None = None,
    identity: Mapping[str, Any] | None = None,
    find_unused_parameters: bool = False,
    plan: Callable[..., Any] = BatchPlan,
    on_step: Callable[[dict[str, Any]], object] | None = None,
) -> TrainResult:
    """Train what requires gradients in a model, in place.

    The loss of a step is the sum over all supervised tokens of all its micro-batches and processes, divided
    by their number, so accumulation and processes change nothing but rounding. With an output directory the
    run writes `losses.jsonl`, checkpoints and trackers' logs, and goes on from the newest checkpoint to the
    same numbers, on one CPU process to the last bit.

    Args:
        model: Takes a collated batch and `num_items_in_batch` or `reduction="sum"`, and returns an output with a loss.
        dataset: Rows by index, by `__getitems__` if it has it; `lengths`, if it has them, sorts rows to save padding.
        collate: From a list of rows to a batch with `labels`; its `ids`, if any, are for messages.
        args: Settings.
        output_dir: None writes nothing: for studies of many runs in one process.
        eval_dataset: Rows of the held-out loss.
        eval_collate: Its collate function; None takes `collate`.
        train_modules: Modules in training mode; the rest is in evaluation mode, for a frozen module should
            not drop out. None, or gradient checkpointing, puts all in training mode.
        learning_rates: Peak learning rate of some modules, instead of the settings'.
        identity: What the run is about (model, data, correction); a checkpoint with another is refused.
        find_unused_parameters: Whether some batches leave a trained parameter without gradient, for DDP.
        plan: Makes what says which rows a step takes, from `BatchPlan`'s arguments.
        on_step: Called with each step's row of losses; what is true ends the run after that step.

    Returns:
        Losses by step, the held-out loss and the last checkpoint.

    Raises:
        ValueError: If nothing trains, there is no data, or a checkpoint is of another run; the differences are named.
        FloatingPointError: If a loss or gradient is not finite.
    """
    output = None if output_dir is None else Path(output_dir)
    with accelerator_for(args, output, find_unused_parameters) as accelerator:
        run = _Run(model, dataset, collate, args, output, accelerator, learning_rates or {}, identity or {}, plan)
        run.eval_dataset, run.eval_collate = eval_dataset, eval_collate or collate
        run.train_modules = None if train_modules is None or args.gradient_checkpointing else list(train_modules)
        run.on_step = on_step
        try:
            return run.execute()
        finally:
            run.close()


class _Run:
    def __init__(
        self,
        model: nn.Module,
        dataset: Any,
        collate: Collate,
        args: LoopConfig,
        output: Path | None,
        accelerator: Accelerator,
        learning_rates: Mapping[nn.Module, float],
        identity: Mapping[str, Any],
        plan: Callable[..., Any],
    ) -> None:
        self.args, self.accelerator, self.dataset, self.collate = args, accelerator, dataset, collate
        processes = accelerator.num_processes
        size = args.per_device_batch_size * args.gradient_accumulation_steps * processes
        self.total = args.max_steps or max(1, math.ceil(args.epochs * len(dataset) / size))
        self.warmup = warmup_length(self.total, args.warmup_ratio, args.warmup_steps)
        self.plan = plan(
            len(dataset),
            batch_size=args.per_device_batch_size,
            accumulation_steps=args.gradient_accumulation_steps,
            num_processes=processes,
            total_steps=self.total,
            seed=args.seed,
            lengths=getattr(dataset, "lengths", None),
            bucket_steps=args.bucket_steps,
        )
        groups = parameter_groups(model, args, learning_rates)
        optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=args.betas, eps=args.eps)
        if args.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
        self.plain_model = model
        self.model, self.prepared_optimizer = accelerator.prepare(model, optimizer)
        self.optimizer = self.prepared_optimizer.optimizer
        self.parameters = trainable_parameters(accelerator.unwrap_model(self.model))
        self.checkpoints = None if output is None else CheckpointFolder(output / "checkpoints", args.total_limit)
        self.log = LossLog(None if output is None else output / "losses.jsonl", accelerator.is_main_process)
        self.identity = self._identity(identity, groups)
        self.output = output
        self.eval_dataset: Any = None
        self.eval_collate = collate
        self.train_modules: list[nn.Module] | None = None
        self.on_step: Callable[[dict[str, Any]], object] | None = None

    def _identity(self, identity: Mapping[str, Any], groups: list[dict[str, Any]]) -> dict[str, Any]:
        args = self.args
        values = {
            **identity,
            "training": {
                "rows": len(self.dataset),
                "global_batch_size": self.plan.global_batch_size,
                "total_steps": self.total,
                "warmup_steps": self.warmup,
                "mixed_precision": self.accelerator.mixed_precision,
                "learning_rates": sorted({g["lr"] for g in groups}),
                **{
                    key: getattr(args, key)
                    for key in (
                        "schedule",
                        "weight_decay",
                        "betas",
                        "eps",
                        "max_grad_norm",
                        "seed",
                        "bucket_steps",
                    )
                },
            },
            "parameters": {name: list(p.shape) for name, p in self.parameters.items()},
        }
        return json.loads(json.dumps(values))

    def execute(self) -> TrainResult:
        began = time.perf_counter()
        start = self._resume()
        self.log.begin(start)
        if self.accelerator.log_with and start < self.total:
            self.accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": start + 1}})
        main = self.accelerator.is_main_process
        done = start
        name = self.output.name if self.output else None
        bar = tqdm(total=self.total, initial=start, desc=name, disable=not (self.args.progress and main), unit="step")
        with bar, contextlib.closing(self._stream(start)) as stream:
            for step in range(start, self.total):
                row = self._step(step, list(itertools.islice(stream, self.args.gradient_accumulation_steps)))
                done = step + 1
                if self.eval_dataset is not None and self._due(done, self.args.eval_steps):
                    row["held_out_loss"] = self._held_out()
                self.log.append(row)
                if self.accelerator.trackers:
                    self.accelerator.log({k: v for k, v in row.items() if k != "step"}, step=done)
                if self.checkpoints is not None and self._due(done, self.args.save_steps):
                    self._save(done)
                bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
                bar.update()
                if self.on_step is not None and self.on_step(row):
                    if self.checkpoints is not None and not self._due(done, self.args.save_steps):
                        self._save(done)
                    break
        held_out = next((r["held_out_loss"] for r in reversed(self.log.rows) if "held_out_loss" in r), None)
        return TrainResult(
            steps=done,
            rows=self.log.rows,
            held_out_loss=held_out,
            checkpoint=None if self.checkpoints is None else self.checkpoints.path(done),
            seconds=time.perf_counter() - began,
        )

    def close(self) -> None:
        self.log.close()
        for tracker in self.accelerator.trackers:
            tracker.finish()  # and not end_training(), which takes the process group of the next stage away
        # accelerate has put its autocast around forward
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.plain_model.eval()
        self.plain_model.zero_grad(set_to_none=True)

    def _due(self, done: int, every: int) -> bool:
        return done == self.total or (every > 0 and done % every == 0)

    def _resume(self) -> int:
        if self.checkpoints is None:
            return 0
        if self.accelerator.is_main_process:
            self.checkpoints.clean()
        self.accelerator.wait_for_everyone()
        steps = self.checkpoints.steps()
        if not steps:
            return 0
        newest = self.checkpoints.path(steps[-1])
        if self.args.resume == "never":
            raise ValueError(
                f"{str(newest)!r} is a checkpoint of an earlier run and `resume` is 'never': choose another "
                "output directory, or set `resume: auto` to go on from it."
            )
        differences = describe_differences(self.checkpoints.read_state(steps[-1])["identity"], self.identity)
        if differences:
            raise ValueError(
                f"{str(newest)!r} is of another run: {differences}. Go on with the settings it was begun "
                "with, or choose another output directory; nothing was changed."
            )
        self.checkpoints.load(steps[-1], self.parameters, self.optimizer)
        return steps[-1]

    def _save(self, step: int) -> None:
        assert self.checkpoints is not None
        self.log.sync()
        state = {"identity": self.identity, "total_steps": self.total, "torch": torch.__version__}
        self.checkpoints.save(step, self.parameters, self.optimizer, state, self.accelerator.is_main_process)
        self.accelerator.wait_for_everyone()

    def _stream(self, start: int) -> Iterator[dict[str, Any]]:
        rank = self.accelerator.process_index
        indices = (rows.tolist() for step in range(start, self.total) for rows in self.plan.micro_batches(step, rank))
        if self.args.num_workers == 0:
            for rows in indices:
                yield self.collate(fetch_rows(self.dataset, rows))
            return
        yield from DataLoader(
            self.dataset,
            batch_sampler=indices,  # type: ignore[arg-type]
            collate_fn=self.collate,
            num_workers=self.args.num_workers,
            generator=torch.Generator().manual_seed(self.args.seed),  # or it draws from the global one
        )

    def _set_mode(self) -> None:
        if self.train_modules is None:
            self.model.train()
            return
        self.model.eval()
        for module in self.train_modules:
            module.train()

    def _step(self, step: int, micro: Sequence[dict[str, Any]]) -> dict[str, Any]:
        accelerator, args = self.accelerator, self.args
        self._set_mode()
        if hasattr(self.plain_model, "set_progress"):
            self.plain_model.set_progress(step / self.total)
        rate = learning_rate_factor(step, self.total, self.warmup, args.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        counts = sum(loss_terms(batch) for batch in micro)
        tokens = accelerator.reduce(torch.tensor(counts, device=accelerator.device), "sum")
        loss = torch.zeros((), device=accelerator.device)
        for index, batch in enumerate(micro):
            # the last micro-batch brings the gradients of all together
            last = index == len(micro) - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(self.model):
                place = index * accelerator.num_processes + accelerator.process_index
                seed_position(accelerator.device, args.seed, step, place)
                inputs = {k: v for k, v in batch.items() if k != "ids"}
                part = self.model(**send_to_device(inputs, accelerator.device), num_items_in_batch=tokens).loss
                accelerator.backward(part * accelerator.num_processes)  # DDP and FSDP take the mean over processes
                loss += part.detach().float()
        value = float(accelerator.reduce(loss, "sum"))
        limit = math.inf if args.max_grad_norm is None else args.max_grad_norm
        norm = _number(accelerator.clip_grad_norm_(self.parameters.values(), limit))
        if not (math.isfinite(value) and math.isfinite(norm)):
            rows = [i for batch in micro for i in batch.get("ids", [])][:8]
            raise FloatingPointError(
                f"step {step + 1}: loss {value}, gradient norm {norm} at learning rate {args.learning_rate * rate:g}; "
                f"the rows of this process begin with {rows}. Look at these rows, lower the learning rate or lengthen "
                "the warm-up; the last checkpoint is from before this step."
            )
        self.prepared_optimizer.step()
        self.prepared_optimizer.zero_grad()
        return {
            "step": step + 1,
            "epoch": self.plan.epoch(step + 1),
            "loss": value,
            "lr": args.learning_rate * rate,
            "grad_norm": norm,
            "tokens": int(tokens),
        }

    def _held_out(self) -> float:
        self.model.eval()
        size = self.args.eval_batch_size or self.args.per_device_batch_size
        return held_out_loss(self.model, self.eval_dataset, self.eval_collate, size, self.accelerator)


def _number(value: Any) -> float:
    return float(value.full_tensor() if hasattr(value, "full_tensor") else value)
