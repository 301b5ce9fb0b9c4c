r"""Write the card of a trained model from its run: `python scripts/model_card.py RUN_DIR model_cards/NAME.md`.

`model_cards/NAME.yaml` says in words what the files of the run do not (licences, limits), and which files hold the
numbers; paths in it start at RUN_DIR:

    repo_id: org/name         # in the card's code
    model: stage2/model       # the model's directory; the rest comes from its config.json
    license: apache-2.0       # of the weights
    data: ...                 # what the data is and its licences
    datasets: []              # ids of the data on the Hub
    command: ...              # only where the run recorded none
    results:                  # name of what was measured: a file that `hf_modalbridge.evaluation` gave, ...
      held-out clouds: evaluation.json#items.point    # ... or a part of one
      held-out pictures: {file: stage2/held_out.json, modality: image, store: ../stores/images-test, items: 200}
    compared: {}              # results of other models beside it
    gap: [../stores/captions-test, ../stores/images-test]    # held-out stores, for a model with a correction
    limits: []

A result with a `store` is measured where its file is missing, with the store's column `text` as captions.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml
from transformers import AutoModel, AutoProcessor

from hf_modalbridge import AutoCorrection, EmbeddingStore, GapReport
from hf_modalbridge.evaluation import evaluate_captions
from hf_modalbridge.hub import RunFacts, model_card


def read_result(run: Path, model: Path, entry: str | dict[str, Any]) -> dict[str, Any]:
    """Read what was measured, or measure it now."""
    entry = {"file": entry} if isinstance(entry, str) else dict(entry)
    name, _, place = entry.pop("file").partition("#")
    file = run / name
    if not file.exists() and "store" in entry:
        file.write_text(json.dumps(measure(run, model, **entry), indent=1) + "\n", encoding="utf-8")
    result = json.loads(file.read_text(encoding="utf-8"))
    for key in filter(None, place.split(".")):
        result = result[int(key)] if isinstance(result, list) else result[key]
    return result


def measure(run: Path, model: Path, modality: str, store: str, items: int, question: str | None = None) -> dict:
    """Measure a model on the first rows of a store."""
    rows = EmbeddingStore.open(run / store)
    bridge, processor = AutoModel.from_pretrained(model).eval(), AutoProcessor.from_pretrained(model)
    captions = rows.column("text")[:items]
    return evaluate_captions(bridge, processor, modality, rows[:items], captions, question=question, progress=True)


def write_gap(model: Path, stores: list[Path], modality: str | None, plot: Path) -> str:
    """Measure the gap on held-out stores, draw it, and give the report."""
    correction = AutoCorrection.from_pretrained(model, modality=modality)
    source, target = map(EmbeddingStore.open, stores)
    report = GapReport.compute(source, target, {correction.correction_type: correction}, bootstrap=50)
    report.plot()["view"].savefig(plot, dpi=110, bbox_inches="tight")
    return report.to_markdown()


def earlier_stages(run: Path) -> dict[str, dict[str, Any]]:
    """Read what the stages' own models recorded: a later one does not repeat it."""
    found = {}
    for file in sorted(run.glob("stage*/model/config.json")):
        record = json.loads(file.read_text(encoding="utf-8")).get("metadata") or {}
        stage = file.parts[-3]
        found[stage] = record.get(stage, record)
    return found


def main() -> None:
    """Read the run and write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("output", type=Path, help="the card; NAME.yaml beside it has its words")
    given = parser.parse_args()
    words = yaml.safe_load(given.output.with_suffix(".yaml").read_text(encoding="utf-8"))
    run, model = given.run, given.run / words.pop("model")
    repo_id, gap, modality = words.pop("repo_id", None), words.pop("gap", None), words.pop("modality", None)
    for group in ("results", "compared"):
        words[group] = {name: read_result(run, model, entry) for name, entry in (words.get(group) or {}).items()}
    words["stages"] = earlier_stages(run)
    if gap:
        plot = given.output.with_suffix(".png")
        words["gap_report"] = write_gap(model, [run / store for store in gap], modality, plot)
        words["plot"] = plot.name
    given.output.write_text(str(model_card(model, repo_id, RunFacts(**words))), encoding="utf-8")
    print(f"wrote {given.output}")


if __name__ == "__main__":
    main()
