"""The pairwise route: stage I aligns latents, stage II recomposes them for the language model (arXiv 2605.21059)."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import PartialState

from hf_modalbridge.data import BridgeCollator
from hf_modalbridge.data.edge_plan import EdgePlan
from hf_modalbridge.data.pairs import PairBatches
from hf_modalbridge.models.pairwise_aligner import PairwiseAligner

from .assembly import load_language_model, model_identity, store_identity
from .checkpoint import load_trained
from .export import export_model, say
from .freezing import trainable_parameters
from .loop import TrainResult, train
from .pairwise_assembly import assemble_bridge, build_aligner, caption_rows, load_pairs
from .pairwise_config import PairwiseRecipe
from .unpaired import StageResult

__all__ = ["describe", "run_pairwise", "run_stage_one", "run_stage_two"]


def run_pairwise(recipe: PairwiseRecipe) -> dict[str, StageResult]:
    """Run both stages; what is finished is not run again.

    Args:
        recipe: The recipe.

    Returns:
        `{"stage1": ..., "stage2": ...}`; stage 1's model is a `PairwiseAligner`, stage 2's a whole bridge.

    Raises:
        ValueError: If the graph is not sound, stores do not fit, or a checkpoint is of another run.
    """
    recipe.graph()  # a graph that cannot work is refused before anything is read
    first = run_stage_one(recipe)
    return {"stage1": first, "stage2": run_stage_two(recipe, first)}


def run_stage_one(recipe: PairwiseRecipe) -> StageResult:
    """Train the aligner on the graph's pairs; each step takes one edge.

    Args:
        recipe: The recipe.

    Returns:
        Losses, and the directory of the aligner.
    """
    graph, stage = recipe.graph(), recipe.stage1
    output = Path(recipe.output_dir) / "stage1"
    language_model, tokenizer = load_language_model(recipe.language_model)
    table = language_model.get_input_embeddings().weight.detach()
    pairs, edges = load_pairs(graph, tokenizer, table)
    held_out, _ = load_pairs(graph, tokenizer, table, held_out=True)
    digest = hashlib.sha256(table[::97].float().contiguous().numpy().tobytes()).hexdigest()[:16]
    del language_model, table
    aligner = build_aligner(graph, pairs, stage.loop.seed)
    if stage.skip:
        result = TrainResult(0, [], None, None, 0.0)
    else:
        size = stage.loop.per_device_batch_size
        held_batches = PairBatches(held_out, size) if len(held_out) else None
        loop = stage.loop
        loop.eval_batch_size = 1  # whole batches
        result = train(
            aligner,
            pairs,
            pairs.collate,
            loop,
            output,
            eval_dataset=held_batches,
            identity={
                "stage": "align",
                "graph": _without_paths(graph.to_dict()),
                "aligner": asdict(graph.options),
                "data": {e.source + "-" + e.target: _stores(e.stores) for e in edges},
                "text_table": digest,
            },
            find_unused_parameters=True,
            plan=partial(EdgePlan, sizes=pairs.sizes, weights=[e.weight for e in edges]),
        )
    _export_aligner(output / "model", result, aligner, stage.loop.seed)
    return StageResult(result, output / "model")


def run_stage_two(recipe: PairwiseRecipe, stage_one: StageResult | None = None) -> StageResult:
    """Train latent encoders and text decoders through the frozen language model; each step takes one modality.

    Args:
        recipe: The recipe.
        stage_one: Stage I's product; None looks for it in the output directory.

    Returns:
        Losses, and the directory of the whole model.
    """
    graph, stage = recipe.graph(), recipe.stage2
    output = Path(recipe.output_dir) / "stage2"
    folder = Path(recipe.output_dir) / "stage1" / "model" if stage_one is None else stage_one.model_dir

    def assemble(with_encoder: bool = False) -> Any:
        aligner = PairwiseAligner.from_pretrained(folder)
        return assemble_bridge(recipe, aligner, *load_language_model(recipe.language_model), with_encoder)

    bridge = assemble()
    rows, weights = caption_rows(graph, stage, bridge.processor)
    assert rows is not None
    held_out, _ = caption_rows(graph, stage, bridge.processor, held_out=True)
    if stage.skip:
        return _export_untrained(output, bridge, assemble, stage.loop)
    result = train(
        bridge.model,
        rows,
        BridgeCollator(bridge.processor),
        stage.loop,
        output,
        eval_dataset=held_out,
        train_modules=bridge.trained,
        identity={
            "stage": "recompose",
            **model_identity(bridge),
            "graph": _without_paths(graph.to_dict()),
            "data": {p.source + "-" + p.target: _stores(p.stores) for p in graph.pairs},
            "questions": stage.questions,
            "max_length": stage.max_length,
        },
        find_unused_parameters=len(rows.sizes) > 1,
        plan=partial(EdgePlan, sizes=rows.sizes, weights=weights),
    )
    del bridge
    export_model(output / "model", result, lambda: assemble(with_encoder=True), stage.loop)
    return StageResult(result, output / "model")


def _export_untrained(output: Path, bridge: Any, assemble: Any, loop: Any) -> StageResult:
    """Save the bridge as stage I left it."""
    from safetensors.torch import save_file

    result = TrainResult(0, [], None, output / "untrained", 0.0)
    (output / "untrained").mkdir(parents=True, exist_ok=True)
    tensors = {name: p.detach().clone() for name, p in trainable_parameters(bridge.model).items()}
    save_file(tensors, output / "untrained" / "trained.safetensors")
    export_model(output / "model", result, lambda: assemble(with_encoder=True), loop)
    shutil.rmtree(output / "untrained")
    result.checkpoint = None
    return StageResult(result, output / "model")


def _export_aligner(directory: Path, result: TrainResult, aligner: PairwiseAligner, seed: int) -> None:
    """Write the aligner, once, by the main process."""
    state = PartialState()
    if state.is_main_process and not directory.exists():
        if result.checkpoint is not None:
            load_trained(result.checkpoint / "trained.safetensors", trainable_parameters(aligner))
        last = result.rows[-1]["loss"] if result.rows else None
        aligner.config.metadata = {
            "steps": result.steps,
            "seed": seed,
            "loss": last,
            "held_out_loss": result.held_out_loss,
        }
        part = directory.with_name(".model-part")
        shutil.rmtree(part, ignore_errors=True)
        part.parent.mkdir(parents=True, exist_ok=True)
        aligner.save_pretrained(part)
        os.rename(part, directory)
        say(f"wrote {directory}")
    state.wait_for_everyone()


def _stores(paths: dict[str, str]) -> dict[str, Any]:
    from hf_modalbridge.store import EmbeddingStore

    return {name: store_identity(EmbeddingStore.open(path)) for name, path in paths.items()}


def _without_paths(graph: dict[str, Any]) -> dict[str, Any]:
    """Leave out where things lie: a run may go on from another folder."""
    for pair in graph["pairs"]:
        del pair["stores"], pair["held_out"]
    for modality in graph["modalities"].values():
        del modality["encoder"]
    return graph


def describe(name: str, result: StageResult) -> str:
    """Say in a line what a stage gave."""
    training = result.training
    if not training.rows:
        return f"{name}: skipped, model in {result.model_dir}"
    held_out = "not measured" if training.held_out_loss is None else f"{training.held_out_loss:.4f}"
    processes = PartialState().num_processes
    return (
        f"{name}: {training.steps} steps on {processes} process(es), loss {training.rows[-1]['loss']:.4f}, held-out "
        f"loss {held_out}, model in {result.model_dir}"
    )
