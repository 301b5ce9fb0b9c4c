r"""Write the card of a trained model from the files of its run.

python scripts/model_card.py runs/demo/realign/stage2/model --repo-id org/modalbridge-demo \
        --results "test pictures, after stage 1=runs/demo/realign/held_out.json" \
        --gap runs/demo/stores/captions-test runs/demo/stores/images-test \
        --command "python recipes/demo.py" --license apache-2.0 --output model_cards/modalbridge-demo.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from hf_modalbridge import AutoCorrection, EmbeddingStore, GapReport
from hf_modalbridge.hub import RunFacts, model_card


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--repo-id")
    parser.add_argument("--results", action="append", default=[], metavar="NAME=FILE", help="from evaluate_captions")
    parser.add_argument("--gap", type=Path, nargs=2, metavar=("SOURCE", "TARGET"), help="held-out stores")
    parser.add_argument("--modality", help="of a model with several corrections")
    parser.add_argument("--datasets", nargs="*", default=[])
    parser.add_argument("--data", default="", help="what the data is and its licences")
    parser.add_argument("--license")
    parser.add_argument("--command")
    parser.add_argument("--limit", action="append", default=[])
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args(arguments)

    results = {}
    for pair in given.results:
        name, _, path = pair.rpartition("=")
        results[name] = json.loads(Path(path).read_text(encoding="utf-8"))
    given.output.parent.mkdir(parents=True, exist_ok=True)
    report = plot = None
    if given.gap:
        correction = AutoCorrection.from_pretrained(given.model, modality=given.modality)
        source, target = map(EmbeddingStore.open, given.gap)
        measured = GapReport.compute(source, target, {correction.correction_type: correction}, bootstrap=50)
        figure = next(iter(measured.plot().values()))
        figure.savefig(given.output.with_suffix(".png"), dpi=110, bbox_inches="tight")
        report, plot = measured.to_markdown(), given.output.with_suffix(".png").name
    facts = RunFacts(
        results=results,
        datasets=given.datasets,
        data=given.data,
        license=given.license,
        command=given.command,
        gap_report=report,
        plot=plot,
        limits=given.limit,
    )
    given.output.write_text(str(model_card(given.model, given.repo_id, facts)), encoding="utf-8")
    print(f"wrote {given.output}")


if __name__ == "__main__":
    main()
