"""The product of a stage: a complete model directory."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from accelerate import PartialState

from .assembly import Bridge
from .config import LoopConfig
from .loop import TrainResult

__all__ = ["export_model", "say"]


def export_model(directory: Path, result: TrainResult, assemble: Callable[[], Bridge], loop: LoopConfig) -> None:
    """Write the complete model, once, by the main process.

    It is put together anew from its parts and the last checkpoint, so a sharded or adapted model in training,
    and one that had no encoder in memory, go the same way.

    Args:
        directory: Where to; an existing one is left as it is.
        result: Of the training.
        assemble: Gives the `Bridge` with its encoder.
        loop: For the record in the model's configuration.
    """
    state = PartialState()
    if state.is_main_process and not directory.exists():
        assert result.checkpoint is not None
        bridge = assemble()
        bridge.finish(result.checkpoint / "trained.safetensors")
        record = {"steps": result.steps, "seed": loop.seed, "held_out_loss": result.held_out_loss}
        record["loss"] = result.rows[-1]["loss"] if result.rows else None
        record["command"] = _command(state.num_processes)
        bridge.model.config.metadata = {**(bridge.model.config.metadata or {}), directory.parent.name: record}
        part = directory.with_name(".model-part")
        shutil.rmtree(part, ignore_errors=True)
        bridge.model.save_pretrained(part)
        bridge.processor.save_pretrained(part)
        os.rename(part, directory)
        say(f"wrote {directory}")
    state.wait_for_everyone()


def _command(processes: int) -> str | None:
    """Give the recipe's command line as a user types it, for the record; None outside a recipe."""
    script = Path(sys.argv[0])
    if script.suffix != ".py" or script.resolve().parent.name != "recipes":
        return None
    runner = "python" if processes == 1 else f"accelerate launch --num_processes {processes}"
    words = [str(Path(w).name) if os.path.isabs(w) else w for w in sys.argv[1:]]  # other machines have other paths
    return shlex.join([*runner.split(), f"recipes/{script.name}", *words])


def say(text: str) -> None:
    """Print on the main process, not across a progress bar."""
    from tqdm.auto import tqdm

    if PartialState().is_main_process:
        tqdm.write(text)
