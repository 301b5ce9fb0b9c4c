"""Teach a frozen language model new modalities from pairs alone: stage I aligns latents, stage II recomposes them.

    accelerate launch --config_file recipes/accelerate/cpu1.yaml recipes/train_pairwise.py \
        --config recipes/configs/modalbridge_pc.yaml

Any key of the YAML file can be given as `--key value`, `--key=value` or `key=value`, dots for nested keys. A run that
was stopped goes on from its newest checkpoint when the same command is given again. Products: `OUTPUT/stage1/model`, a
`PairwiseAligner`; `OUTPUT/stage2/model`, which `AutoModel.from_pretrained` loads; losses by step in
`OUTPUT/stage*/losses.jsonl`; `OUTPUT/evaluation.json`, measured on held-out items. Then:

    modalbridge chat --model OUTPUT/stage2/model --points chair.glb "What is this?"

`demo_stores` in the YAML embeds the demo's furniture as separate pairwise sets first (`demo.pairwise_stores`).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from run_files import write_json

from hf_modalbridge.training import load_config
from hf_modalbridge.training.pairwise_config import PairwiseRecipe


def fill_in_demo(recipe: PairwiseRecipe) -> None:
    """Put the demo's models and stores where the recipe says `demo` or names a store of `demo_stores`."""
    from accelerate import PartialState

    from hf_modalbridge import demo
    from hf_modalbridge.demo.pairwise_stores import prepare_pairwise_stores

    if recipe.language_model.id == "demo":
        recipe.language_model.id = str(demo.language_model())
    own = {"point": demo.point_encoder, "image": demo.dual_encoder}
    for name, modality in recipe.modalities.items():
        if modality.encoder == "demo":
            if name not in own:
                raise ValueError(f"the demo has encoders of {', '.join(own)}, none of {name!r}; name one of your own.")
            modality.encoder = str(own[name]())
    if recipe.demo_stores is None:
        return
    with PartialState().main_process_first():
        point = recipe.modalities["point"]
        prepare_pairwise_stores(recipe.demo_stores, point.encoder, point.num_tokens)
    folder = Path(recipe.demo_stores)
    for pair in recipe.pairs:
        pair.stores = {name: str(folder / store) for name, store in pair.stores.items()}
        if pair.held_out is not None:
            pair.held_out = {name: str(folder / store) for name, store in pair.held_out.items()}
    for items in recipe.evaluate:
        items.store = str(folder / items.store)
    for triples in recipe.triples:
        triples.stores = {name: str(folder / store) for name, store in triples.stores.items()}


def measure(recipe: PairwiseRecipe, aligner_dir: Path, model_dir: Path) -> dict[str, Any]:
    """Measure the finished models on held-out items.

    Args:
        recipe: The recipe.
        aligner_dir: Stage I's product.
        model_dir: Stage II's.

    Returns:
        Plain values for JSON.
    """
    from transformers import AutoModel, AutoProcessor

    from hf_modalbridge.models.pairwise_aligner import PairwiseAligner
    from hf_modalbridge.training.pairwise_evaluation import evaluate_aligner, evaluate_bridge

    result: dict[str, Any] = {"items": {}, "triples": []}
    question = recipe.stage2.questions[0] if recipe.stage2.questions else None
    if recipe.evaluate:
        model, processor = AutoModel.from_pretrained(model_dir), AutoProcessor.from_pretrained(model_dir)
        for items in recipe.evaluate:
            result["items"][items.modality] = evaluate_bridge(model, processor, items, question)
    aligner = PairwiseAligner.from_pretrained(aligner_dir)
    unit = [name for name, m in recipe.modalities.items() if m.normalize]
    result["triples"] = [evaluate_aligner(aligner, triples, unit) for triples in recipe.triples]
    return result


def lines(result: dict[str, Any]) -> list[str]:
    """Say in lines what was measured."""
    said = []
    for name, r in result["items"].items():
        nll, choice = r["nll_per_token"], r["choice"]
        said.append(f"{name}: caption nll {nll['mean']:.3f} ({nll['low']:.3f} to {nll['high']:.3f}) nats a token")
        for key in ("raw", "calibrated"):
            c = choice[key]
            said.append(
                f"{name}: {choice['n']}-way caption choice, {key} {c['mean']:.3f} ({c['low']:.3f} to {c['high']:.3f})"
            )
            if "labels" in r:
                c = r["labels"][key]
                said.append(
                    f"{name}: {r['labels']['ways']}-way label choice, {key} {c['mean']:.3f} ({c['low']:.3f} to "
                    f"{c['high']:.3f}), commonest label {r['labels']['most_frequent']:.3f}"
                )
    for triples in result["triples"]:
        for name, r in triples.items():
            found = r["retrieval"]
            at = ", ".join(f"{k} {v['mean']:.3f}" for k, v in found.items() if k.startswith("R@"))
            said.append(
                f"{name} ({'paired' if found['paired'] else 'never paired'}), {found['items']} items: {at}; recomposed "
                f"cosine {r['recomposition']['cosine']:.3f}"
            )
    return said


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML file, see recipes/configs/")
    arguments, overrides = parser.parse_known_args()
    recipe = load_config(PairwiseRecipe, arguments.config, overrides)
    recipe.graph()
    # only now what takes seconds to import: a mistake in the configuration shows at once
    from accelerate import PartialState

    from hf_modalbridge.training.pairwise import describe, run_pairwise

    fill_in_demo(recipe)
    results = run_pairwise(recipe)
    if PartialState().is_main_process:
        for name, result in results.items():
            print(describe(name, result))
        measured = measure(recipe, results["stage1"].model_dir, results["stage2"].model_dir)
        write_json(Path(recipe.output_dir) / "evaluation.json", measured, indent=1)
        for line in lines(measured):
            print(line)


if __name__ == "__main__":
    main()
