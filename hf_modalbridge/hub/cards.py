"""Model cards, generated from a model's directory and the files of its run: no number in them is typed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import card_sections as sections
from .card_sections import METRICS, Part

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

__all__ = ["RunFacts", "card_code", "model_card", "validate_card"]

_REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class RunFacts:
    """What a card says beyond the model's own config.

    Args:
        results: By the name of what was measured (`"test pictures, stage 1"`), what `evaluate_captions` or
            `cross_modal_retrieval` gave.
        compared: Likewise, of other models that stand beside this one; not part of the metadata.
        datasets: Hub ids of the data of training and measurement.
        data: What the data is and its licences, in words.
        license: Of the weights, as the Hub spells it; by default that of the language model's card.
        command: Command that trained it, where the run recorded none.
        stages: What the run recorded of each stage, beside what the model's config has.
        gap_report: Markdown of a `GapReport`.
        plot: Name of the report's picture, beside the card.
        limits: What it cannot do, a sentence each.
    """

    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    compared: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    datasets: Sequence[str] = ()
    data: str = ""
    license: str | None = None
    command: str | None = None
    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    gap_report: str | None = None
    plot: str | None = None
    limits: Sequence[str] = ()


def model_card(
    directory: str | os.PathLike[str], repo_id: str | None = None, facts: RunFacts | None = None
) -> ModelCard:
    """Write the card of a bridge.

    Args:
        directory: Of the model.
        repo_id: Where it will be; by default the directory's name stands in the code.
        facts: Of the run.

    Returns:
        The card, valid; `str(card)` is the README.md.

    Raises:
        FileNotFoundError: If the directory holds no model.
        ValueError: If the card would not be valid.
    """
    from huggingface_hub import ModelCard, ModelCardData

    folder, facts = Path(directory), facts or RunFacts()
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise FileNotFoundError(f"{folder} holds no model: it has no config.json. Save one there with save_pretrained.")
    config = json.loads(config_file.read_text(encoding="utf-8"))
    name = repo_id or folder.resolve().name
    parts = sections.parts_of(config)
    licence, licence_name = _licence(parts, facts)
    entries = config["modalities"].values()
    methods = {e["correction_config"]["correction_type"] for e in entries if e.get("correction_config")}
    methods |= {"pairwise" for e in entries if e.get("connector_type") == "recompose"}
    data = ModelCardData(
        library_name="hf_modalbridge",
        license=licence,
        license_name=licence_name,
        base_model=sections.base_models(parts) or None,
        datasets=list(facts.datasets) or None,
        tags=["modalbridge", "modality-gap", *sorted(methods), *config["modalities"]],
        model_name=name.rpartition("/")[2],
        eval_results=_eval_results(facts) or None,
    )
    text = [
        f"# {name.rpartition('/')[2]}",
        sections.what_it_is(config, parts),
        "## Use\n\n" + sections.use(config, name),
        "## Parts and licences\n\n" + sections.parts_table(config, parts),
        "## Training\n\n" + sections.training(_stages(config, facts), facts.command, facts.data),
    ]
    if facts.results or facts.compared:
        text.append("## Results\n\n" + sections.results_table({**facts.results, **facts.compared}))
    if facts.gap_report or facts.plot:
        picture = f"![Modality gap before and after correction]({facts.plot})\n\n" if facts.plot else ""
        text.append("## Modality gap\n\n" + picture + (facts.gap_report or ""))
    text += ["## Limits\n\n" + sections.limits(config, tuple(facts.limits)), "## Cite\n\n" + sections.cite(config)]
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(part.strip() for part in text) + "\n")
    validate_card(card)
    return card


def validate_card(card: ModelCard) -> None:
    """Check a card's metadata as far as that goes without the Hub.

    Args:
        card: The card.

    Raises:
        ValueError: Listing what is wrong.
    """
    from huggingface_hub.repocard_data import model_index_to_eval_results

    data = card.data.to_dict()
    problems = [f"no {key}" for key in ("library_name", "license", "tags") if not data.get(key)]
    for key in ("base_model", "datasets"):
        values = data.get(key) or []
        values = [values] if isinstance(values, str) else values
        problems += [f"{key} {value!r} is no repo id" for value in values if not _REPO_ID.fullmatch(str(value))]
    if data.get("license") == "other" and not data.get("license_name"):
        problems.append("license 'other' without license_name")
    if "model-index" in data:
        _, results = model_index_to_eval_results(data["model-index"])
        wrong = [r.metric_type for r in results if not isinstance(r.metric_value, int | float)]
        problems += [f"the value of {metric} is no number" for metric in wrong]
    if problems:
        raise ValueError(f"the card's metadata is not valid: {'; '.join(problems)}. Give the missing facts of the run.")


def card_code(card: Any) -> str:
    """Give the code block of a card, which a test executes."""
    return str(card).split("```python\n", 1)[1].split("```", 1)[0]


def _stages(config: Mapping[str, Any], facts: RunFacts) -> dict[str, Any]:
    return {**facts.stages, **(config.get("metadata") or {})}


def _licence(parts: list[Part], facts: RunFacts) -> tuple[str, str | None]:
    found = [part.licence for part in parts if part.what == "language model"]
    stated = facts.license or (found[0] if found else "")
    return (stated, None) if re.fullmatch(r"[a-z0-9.+-]+", stated) else ("other", "see-the-parts")


def _eval_results(facts: RunFacts) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    dataset = facts.datasets[0] if facts.datasets else "local"
    return [
        EvalResult(
            task_type="other",
            task_name=name,
            dataset_type=dataset,
            dataset_name=name,
            dataset_config=name,  # what is alike in type, config and split becomes one entry under the first name
            metric_type=metric,
            metric_name=METRICS[metric],
            metric_value=round(values["mean"], 4),
            metric_args={"low": round(values["low"], 4), "high": round(values["high"], 4), "items": result["items"]},
        )
        for name, result in facts.results.items()
        for metric, values in sections.measures(result).items()
    ]
