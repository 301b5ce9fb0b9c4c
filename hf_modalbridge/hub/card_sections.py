"""The sections of a model card, each written from a model's config and the facts of its run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_modalbridge.corrections.card import PAPERS
from hf_modalbridge.licences import find_licence

__all__ = [
    "METRICS",
    "Part",
    "base_models",
    "cite",
    "limits",
    "measures",
    "parts_of",
    "parts_table",
    "results_table",
    "training",
    "use",
    "what_it_is",
]

METRICS = {
    "nll_per_token": "nats per caption token",
    "choice.raw": "choice of the caption, by likelihood",
    "choice.calibrated": "choice of the caption, calibrated",
    "labels.raw": "choice of the label, by likelihood",
    "labels.calibrated": "choice of the label, calibrated",
    "R@1": "retrieval, R@1",
    "R@5": "retrieval, R@5",
    "R@10": "retrieval, R@10",
}
_REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")
_REVISION = "[arXiv 2602.07026](https://arxiv.org/abs/2602.07026)"
_PAIRWISE = "[arXiv 2605.21059](https://arxiv.org/abs/2605.21059)"
_ENCODER_PAPERS = {
    "modalbridge_point_encoder": "the point encoder: Point-BERT, [arXiv 2111.14819](https://arxiv.org/abs/2111.14819), "
    "and Point-MAE, [arXiv 2203.06604](https://arxiv.org/abs/2203.06604)",
}


@dataclass(frozen=True)
class Part:
    """What a model was made of.

    Args:
        what: "language model" or "encoder of NAME".
        source: Repo id, or the name of a folder on the machine of the run.
        revision: Of the repo, if it was recorded.
        licence: As its own card states it.
    """

    what: str
    source: str
    revision: str | None
    licence: str


def parts_of(config: Mapping[str, Any]) -> list[Part]:
    """List language model and encoders with their sources.

    Args:
        config: Of the model.

    Returns:
        The parts whose source is known. A folder that says what it was converted from counts as that.
    """
    sources = {"language model": config.get("language_model_source") or {}}
    for name, entry in config["modalities"].items():
        target = (entry.get("correction_config") or {}).get("target_encoder") or {}
        own = entry.get("encoder_source") or {}
        sources[f"encoder of {name}"] = own if own.get("id") else {"id": target.get("id")}
    parts = []
    for what, source in sources.items():
        if name := source.get("id"):
            shown = Path(name).name if Path(name).is_absolute() else name
            parts.append(
                Part(
                    what,
                    _upstream(name) or shown,
                    source.get("revision"),
                    find_licence(name, source.get("revision")),
                )
            )
    return parts


def _upstream(folder: str) -> str | None:
    """Read which repo a folder was converted from, where it says so."""
    origin = Path(folder) / "origin.json"
    stated = json.loads(origin.read_text(encoding="utf-8")).get("upstream", "") if origin.is_file() else ""
    return stated if _REPO_ID.fullmatch(stated) else None


def base_models(parts: list[Part]) -> list[str]:
    """Pick the repo ids among the sources, once each."""
    return list(dict.fromkeys(part.source for part in parts if _REPO_ID.fullmatch(part.source)))


def what_it_is(config: Mapping[str, Any], parts: list[Part]) -> str:
    """Say in a sentence or two what the model is."""
    read = " and ".join(f"`{name}`" for name in config["modalities"])
    named = [part.source for part in parts if part.what == "language model"]
    base = named[0] if named else config["text_config"].get("model_type")
    said = [f"`{base}` that reads {read}, made with hf_modalbridge."]
    if any(e.get("correction_config") for e in config["modalities"].values()):
        said.append(
            "Its correction moves text embeddings onto the modality's distribution, so that text can stand in for it "
            f"in training (ReVision, {_REVISION})."
        )
    if any(e.get("connector_type") == "recompose" for e in config["modalities"].values()):
        said.append(
            "It was trained on pairs of two modalities at a time, never on complete tuples: a shared code, recomposed "
            f"in the language model's input space ({_PAIRWISE})."
        )
    return " ".join(said)


def use(config: Mapping[str, Any], name: str) -> str:
    """Write the code block, for a modality that reads files if there is one."""
    entries = config["modalities"].items()
    modality, entry = next((pair for pair in entries if pair[1].get("encoder_config")), next(iter(entries)))
    width = entry["embedding_dim"] * (entry.get("input_tokens") or 1)
    raw = ', or "path": a file, instead of "embedding"' if entry.get("encoder_config") else ""
    return f'''```python
import hf_modalbridge  # or, without it installed, trust_remote_code=True twice below
import torch
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{name}")
processor = AutoProcessor.from_pretrained("{name}")
embedding = torch.randn({width})  # put yours here{raw}
content = [{{"type": "{modality}", "embedding": embedding}}, {{"type": "text", "text": "What is this?"}}]
chat = [{{"role": "user", "content": content}}]
inputs = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True)
tokens = model.generate(**inputs, max_new_tokens=20)
print(processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```'''


def parts_table(config: Mapping[str, Any], parts: list[Part]) -> str:
    """Tabulate the parts with revisions and licences."""
    rows = ["| part | source | revision | licence |", "|---|---|---|---|"]
    rows += [f"| {p.what} | `{p.source}` | {p.revision or 'not recorded'} | {p.licence} |" for p in parts]
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


def training(records: Mapping[str, Any], command: str | None, data: str) -> str:
    """Write the command, and what the run recorded of each stage."""
    stages, lines = [], []
    for stage, record in sorted(records.items()):
        if isinstance(record, Mapping):
            command = record.get("command") or command
            values = {k: v for k, v in record.items() if v is not None and k != "command"}
            stages.append(f"- {stage}: " + ", ".join(f"{k.replace('_', ' ')} {_number(v)}" for k, v in values.items()))
        else:
            stages.append(f"- {stage}: {record}")
    if command:
        lines.append(f"```bash\n{command}\n```")
    lines += ["\n".join(stages)] if stages else []
    lines += [data] if data else []
    return "\n\n".join(lines) or "Not recorded."


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def measures(result: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Pick the measures with intervals out of what `hf_modalbridge.evaluation` gave.

    Args:
        result: Of `evaluate_captions`, perhaps with `labels` of `label_choice`, or of `cross_modal_retrieval`.

    Returns:
        `{"mean", "low", "high"}`, perhaps with `chance`, by names as in `METRICS`.
    """
    found = {"nll_per_token": result.get("nll_per_token")}
    for group in ("choice", "labels"):
        values = result.get(group) or {}
        for kind in ("raw", "calibrated"):
            if kind in values:
                found[f"{group}.{kind}"] = {**values[kind], "chance": values["chance"]}
    found |= {name: result.get(name) for name in ("R@1", "R@5", "R@10")}
    return {name: values for name, values in found.items() if values is not None}


def results_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Tabulate results by the name of what was measured."""
    rows = ["| measured on | items | measure | value | 95 % interval | chance |", "|---|---|---|---|---|---|"]
    for name, result in results.items():
        for metric, values in measures(result).items():
            chance = _number(values["chance"]) if "chance" in values else ""
            rows.append(
                f"| {name} | {result['items']} | {METRICS[metric]} | {values['mean']:.3f} | "
                f"{values['low']:.3f} to {values['high']:.3f} | {chance} |"
            )
    return "\n".join(rows) + "\n\nIntervals are from resampling the items; one run."


def limits(config: Mapping[str, Any], stated: tuple[str, ...]) -> str:
    """List what the model cannot do."""
    lines = [f"- {limit}" for limit in stated]
    for name, entry in config["modalities"].items():
        lines.append(
            f"- `{name}` embeddings are {entry['embedding_dim']} wide and of one encoder; those of another mean "
            "nothing here."
        )
    lines.append("- It says what is likely, not what is true: do not rely on its answers.")
    return "\n".join(lines)


def cite(config: Mapping[str, Any]) -> str:
    """Name the papers of what is in the model."""
    entries = list(config["modalities"].values())
    kinds = {e["correction_config"]["correction_type"] for e in entries if e.get("correction_config")}
    encoders = {(e.get("encoder_config") or {}).get("model_type") for e in entries}
    papers = [f"- ReAlign and ReVision: {_REVISION}"] if kinds else []
    papers += [f"- `{kind}`: {PAPERS[kind]}" for kind in sorted(kinds) if kind in PAPERS]
    if any(e.get("connector_type") == "recompose" for e in entries):
        papers.append(f"- Multimodal LLMs under Pairwise Modalities: {_PAIRWISE}")
    papers += [f"- {text}" for kind, text in _ENCODER_PAPERS.items() if kind in encoders]
    return "\n".join(papers) or "- hf_modalbridge"
