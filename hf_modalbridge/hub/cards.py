"""Model cards, generated from a model's directory and the files of its run: no number in them is typed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_modalbridge.corrections.card import PAPERS
from hf_modalbridge.licences import find_licence

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

__all__ = ["RunFacts", "card_code", "model_card", "validate_card"]

_METRICS = {
    "nll_per_token": "nats per caption token",
    "choice.raw": "choice of the caption, by likelihood",
    "choice.calibrated": "choice of the caption, calibrated",
}
_REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")
_REVISION = "[arXiv 2602.07026](https://arxiv.org/abs/2602.07026)"


@dataclass(frozen=True)
class RunFacts:
    """What a card says beyond the model's own config.

    Args:
        results: By the name of what was measured (`"test pictures, stage 1"`), what `evaluate_captions` gave.
        datasets: Hub ids of the data of training and measurement.
        data: What the data is and its licences, in words.
        license: Of the weights, as the Hub spells it; by default that of the language model's card.
        command: Command that trained it.
        gap_report: Markdown of a `GapReport`.
        plot: Name of the report's picture, beside the card.
        limits: What it cannot do, a sentence each.
    """

    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    datasets: Sequence[str] = ()
    data: str = ""
    license: str | None = None
    command: str | None = None
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
    licence, licence_name = _licence(config, facts)
    corrections = {
        m: e["correction_config"]["correction_type"]
        for m, e in config["modalities"].items()
        if e.get("correction_config")
    }
    data = ModelCardData(
        library_name="hf_modalbridge",
        license=licence,
        license_name=licence_name,
        base_model=[i for i in _sources(config).values() if _REPO_ID.fullmatch(i)] or None,
        datasets=list(facts.datasets) or None,
        tags=["modalbridge", "modality-gap", *sorted(set(corrections.values())), *config["modalities"]],
        model_name=name.rpartition("/")[2],
        eval_results=_eval_results(facts) or None,
    )
    sections = [
        f"# {name.rpartition('/')[2]}",
        _what_it_is(config),
        "## Use\n\n" + _use(config, name),
        "## Parts and licences\n\n" + _parts(config),
        "## Training\n\n" + _training(config, facts),
    ]
    if facts.results:
        sections.append("## Results\n\n" + _results(facts))
    if facts.gap_report or facts.plot:
        picture = f"![Modality gap before and after correction]({facts.plot})\n\n" if facts.plot else ""
        sections.append("## Modality gap\n\n" + picture + (facts.gap_report or ""))
    sections += ["## Limits\n\n" + _limits(config, facts), "## Cite\n\n" + _cite(corrections)]
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(part.strip() for part in sections) + "\n")
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
    """Give the code block of a card, which a test executes.

    Args:
        card: The card, or its text.

    Returns:
        Python source.
    """
    return str(card).split("```python\n", 1)[1].split("```", 1)[0]


def _sources(config: Mapping[str, Any]) -> dict[str, str]:
    """Where the parts come from; of a folder on the machine of the run its name only."""
    found = {"language model": (config.get("language_model_source") or {}).get("id")}
    for name, entry in config["modalities"].items():
        found[f"encoder of {name}"] = (entry.get("encoder_source") or {}).get("id")
        target = (entry.get("correction_config") or {}).get("target_encoder") or {}
        found[f"encoder of {name}"] = found[f"encoder of {name}"] or target.get("id")
    return {what: Path(i).name if Path(i).is_absolute() else i for what, i in found.items() if i}


def _licence(config: Mapping[str, Any], facts: RunFacts) -> tuple[str, str | None]:
    source = config.get("language_model_source") or {}
    stated = facts.license or find_licence(source.get("id"), source.get("revision"))
    if re.fullmatch(r"[a-z0-9.+-]+", stated):
        return stated, None
    return "other", "see-the-parts"


def _what_it_is(config: Mapping[str, Any]) -> str:
    read = " and ".join(f"`{name}`" for name in config["modalities"])
    base = _sources(config).get("language model", config["text_config"].get("model_type"))
    return (
        f"`{base}` that reads {read} embeddings, made with hf_modalbridge. Its correction moves text embeddings onto "
        f"the modality's distribution, so that text can stand in for it (ReVision, {_REVISION})."
        if any(e.get("correction_config") for e in config["modalities"].values())
        else f"`{base}` that reads {read} embeddings, made with hf_modalbridge."
    )


def _use(config: Mapping[str, Any], name: str) -> str:
    modality, entry = next(iter(config["modalities"].items()))
    width = entry["embedding_dim"] * (entry.get("input_tokens") or 1)
    raw = ', or "path": a file, instead of "embedding"' if entry.get("encoder_config") else ""
    return f'''```python
import hf_modalbridge  # or, without it installed, trust_remote_code=True twice below
import torch
from transformers import AutoModel, AutoProcessor

model, processor = AutoModel.from_pretrained("{name}"), AutoProcessor.from_pretrained("{name}")
embedding = torch.randn({width})  # put yours here{raw}
content = [{{"type": "{modality}", "embedding": embedding}}, {{"type": "text", "text": "What is this?"}}]
chat = [{{"role": "user", "content": content}}]
inputs = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True)
tokens = model.generate(**inputs, max_new_tokens=20)
print(processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```'''


def _parts(config: Mapping[str, Any]) -> str:
    origins = {"language model": config.get("language_model_source") or {}}
    origins |= {f"encoder of {n}": e.get("encoder_source") or {} for n, e in config["modalities"].items()}
    rows = ["| part | source | revision | licence |", "|---|---|---|---|"]
    for what, shown in _sources(config).items():
        source = origins.get(what) or {}
        licence = find_licence(source.get("id"), source.get("revision"))
        rows.append(f"| {what} | `{shown}` | {source.get('revision') or 'not recorded'} | {licence} |")
    for name, entry in config["modalities"].items():
        if fit := entry.get("correction_config"):
            kind, paper = fit["correction_type"], PAPERS.get(fit["correction_type"], "")
            rows.append(
                f"| correction of {name} | `{kind}`, fitted on {fit['source_rows']:,} source and "
                f"{fit['target_rows']:,} target rows | hf_modalbridge {fit.get('library_version', 'unknown')} | "
                f"{paper} |"
            )
    whole = "The bridge alone: the base models come from their sources." if config.get("bridge_only") else "Complete."
    return "\n".join(rows) + f"\n\n{whole} The licences of all parts apply."


def _training(config: Mapping[str, Any], facts: RunFacts) -> str:
    lines = [f"```bash\n{facts.command}\n```\n"] if facts.command else []
    for stage, record in (config.get("metadata") or {}).items():
        if isinstance(record, Mapping):
            values = ", ".join(f"{k.replace('_', ' ')} {_number(v)}" for k, v in record.items() if v is not None)
            lines.append(f"- {stage}: {values}")
        else:
            lines.append(f"- {stage}: {record}")
    if facts.data:
        lines.append(f"\n{facts.data}")
    return "\n".join(lines) or "Not recorded."


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _measures(result: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Pick the measures with intervals out of what `evaluate_captions` gave."""
    choice = result.get("choice") or {}
    found = {"nll_per_token": result.get("nll_per_token")}
    found |= {f"choice.{kind}": choice.get(kind) for kind in ("raw", "calibrated")}
    return {name: values for name, values in found.items() if values is not None}


def _results(facts: RunFacts) -> str:
    rows = ["| measured on | items | measure | value | 95 % interval | chance |", "|---|---|---|---|---|---|"]
    for name, result in facts.results.items():
        for metric, values in _measures(result).items():
            chance = _number(result["choice"]["chance"]) if metric.startswith("choice") else ""
            rows.append(
                f"| {name} | {result['items']} | {_METRICS[metric]} | {values['mean']:.3f} | "
                f"{values['low']:.3f} to {values['high']:.3f} | {chance} |"
            )
    return "\n".join(rows) + "\n\nIntervals are from resampling the items; one run."


def _eval_results(facts: RunFacts) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    dataset = facts.datasets[0] if facts.datasets else "local"
    return [
        EvalResult(
            task_type="other",
            task_name=name,
            dataset_type=dataset,
            dataset_name=name,
            metric_type=metric,
            metric_name=_METRICS[metric],
            metric_value=round(values["mean"], 4),
            metric_args={"low": round(values["low"], 4), "high": round(values["high"], 4), "items": result["items"]},
        )
        for name, result in facts.results.items()
        for metric, values in _measures(result).items()
    ]


def _limits(config: Mapping[str, Any], facts: RunFacts) -> str:
    lines = [f"- {limit}" for limit in facts.limits]
    for name, entry in config["modalities"].items():
        lines.append(
            f"- `{name}` embeddings are {entry['embedding_dim']} wide and of one encoder; those of another mean "
            "nothing here."
        )
    lines.append("- It says what is likely, not what is true: do not rely on its answers.")
    return "\n".join(lines)


def _cite(corrections: Mapping[str, str]) -> str:
    papers = [f"- ReAlign and ReVision: {_REVISION}"]
    papers += [f"- `{kind}`: {PAPERS[kind]}" for kind in sorted(set(corrections.values())) if kind in PAPERS]
    return "\n".join(papers)
