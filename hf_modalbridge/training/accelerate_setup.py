"""An Accelerator for one run that leaves nothing behind, and random numbers that follow from the position."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedDataParallelKwargs

from .config import LoopConfig

__all__ = ["accelerator_for", "seed_position"]


@contextlib.contextmanager
def accelerator_for(
    args: LoopConfig, output_dir: Path | None = None, find_unused_parameters: bool = False
) -> Iterator[Accelerator]:
    """Make an Accelerator for one run; its global state and the caller's random state come back afterwards.

    Args:
        args: Settings of the loop.
        output_dir: Where trackers write.
        find_unused_parameters: For DDP, if some batches leave a trained parameter without gradient.

    Yields:
        The Accelerator.

    Raises:
        ValueError: If a tracker is unknown or not installed.
    """
    # mixed precision is global in accelerate: a run in bf16 would be refused after one without. What a caller
    # has made is his: it is put back. The process group and the device are kept between runs.
    before = dict(AcceleratorState._shared_state), dict(GradientState._shared_state)
    AcceleratorState._reset_state()
    GradientState._reset_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    trackers = args.trackers if output_dir is not None else []
    try:
        accelerator = Accelerator(
            mixed_precision=args.mixed_precision,
            log_with=trackers or None,
            project_dir=None if output_dir is None else str(output_dir),
            kwargs_handlers=[
                # statistics of corrections are buffers and never change: no need to broadcast them each step
                DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=find_unused_parameters)
            ],
        )
        _check_trackers(trackers, accelerator)
        with torch.random.fork_rng(devices=devices):
            yield accelerator
    finally:
        AcceleratorState._reset_state()
        GradientState._reset_state()
        AcceleratorState._shared_state.update(before[0])
        GradientState._shared_state.update(before[1])


def _check_trackers(trackers: list[str], accelerator: Accelerator) -> None:
    available = {str(getattr(t, "value", t)) for t in accelerator.log_with}
    missing = [t for t in trackers if t not in available]
    if missing:
        raise ValueError(
            f"trackers {missing} are not installed: install them (`pip install tensorboard`), or set "
            "`trackers: []`; losses.jsonl is written in any case."
        )


def seed_position(device: torch.device, seed: int, *position: int) -> None:
    """Seed torch from a run's seed and a position in it.

    Noise and dropout of a micro-batch are then the same whatever came before it, also after a resume.

    Args:
        device: Of the run. `torch.manual_seed` seeds all kinds of devices there are, and remembers each call with its
            stack for those that are not in use: slow, and a leak over a million steps.
        seed: The run's seed.
        *position: Step and micro-batch, for instance.
    """
    value = int(np.random.SeedSequence([seed, *position]).generate_state(1, np.uint64)[0] >> 1)
    torch.default_generator.manual_seed(value)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(value)
