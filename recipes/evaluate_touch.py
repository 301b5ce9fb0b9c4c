"""Choose a material's description by touch: the pairwise route beside an adapter and linear maps, over seeds.

    python recipes/evaluate_touch.py --seeds 3                                  # generated recordings
    python recipes/evaluate_touch.py --seeds 3 --biotac biotac20.npz            # and real ones, whose file you give

Tasks, on recordings that nothing was trained on: the right one among the descriptions of 20 materials, and among those
of 4 materials that nothing was trained on, neither recording nor text. The generated data have fixed unseen materials;
of the 20 real ones each is left out once, in five groups of four drawn by seed. Encoder (masked reconstruction) and
all methods see the same training recordings. The route is also taken apart, except where materials are left out of the
real ones (`pairwise_ablations.py`). Every method that speaks uses the frozen language model of
recipes/train_small_lm.py (`--small-lm`; made if it is not there) and takes the description of highest calibrated
likelihood. Learning rates are those of recipes/evaluate_pairwise.py, and the adapter takes as many steps as both
stages; nothing was chosen on these tasks.

Each run is one JSON file in `OUTPUT/results` and not run again; stopped, the study goes on where it was. Intervals are
95 % bootstrap intervals over runs and recordings, both drawn anew. The table is printed and written to
`docs/results/touch.md`.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pairwise_ablations import ABLATIONS, leave_out
from run_files import read_run, write_json
from torch.nn import functional as F
from touch_cases import Case, load_cases
from transformers import AutoModel, AutoModelForCausalLM, AutoProcessor, AutoTokenizer

from hf_modalbridge.data import BridgeCollator, CaptionDataset
from hf_modalbridge.data.embed_tokens import embed_tokens
from hf_modalbridge.data.recordings import TouchRecordings
from hf_modalbridge.encoders import (
    TactileEncoder,
    TactileEncoderConfig,
    TactileEncoderForPreTraining,
    TactileFeatureExtractor,
)
from hf_modalbridge.evaluation import runs_interval
from hf_modalbridge.evaluation.label_choice import label_choice
from hf_modalbridge.evaluation.linear_probe import linear_probe
from hf_modalbridge.models import ModalBridgeForConditionalGeneration
from hf_modalbridge.store import EmbeddingStore
from hf_modalbridge.training import LoopConfig, build_config, train, train_only
from hf_modalbridge.training.pairwise import run_pairwise
from hf_modalbridge.training.pairwise_config import PairwiseRecipe
from hf_modalbridge.training.pretraining import PretrainingConfig, pretrain

METHODS = {
    "probe_channels": "linear probe, mean and deviation of each channel",
    "probe_random": "linear probe, encoder with random weights",
    "probe_encoder": "linear probe, pre-trained encoder",
    "ridge": "ridge regression from the encoder onto mean token embeddings, nearest description",
    "adapter": "2-layer MLP adapter on the encoder, end to end",
    **ABLATIONS,
}
TOWER = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
ENCODER = {**TOWER, "patch_samples": 20}
ALIGNER = {"width": 64, "num_latents": 4, "encoder_layers": 1, "decoder_layers": 2, "heads": 4}
ACTIVE = 50  # of the code's 64 channels are shared with text, about the paper's 400 of 512
TEXT_TOKENS = 12


def methods_of(case: Case) -> list[str]:
    """Give what is measured on a case, of `METHODS`."""
    return [name for name in METHODS if case.ablate or name == "full" or name not in ABLATIONS]


def prepare(case: Case, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Pre-train the encoder on a case's training recordings and write stores of token features, once."""
    folder = arguments.output / "work" / f"{case.name}-seed{seed}"
    config, extractor = TactileEncoderConfig(**ENCODER), TactileFeatureExtractor().fit(case.train.values)
    values = extractor(case.train.values)["touch_values"]
    args = PretrainingConfig(steps=arguments.encoder_steps, seed=seed, save_steps=0, progress=False)

    def batch(step: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([seed, step])
        rows = torch.from_numpy(rng.integers(len(values), size=args.batch_size))
        noise = rng.random((args.batch_size, config.num_tokens - 1), dtype=np.float32)
        return {"touch_values": values[rows], "mask_noise": torch.from_numpy(noise)}

    encoders = {}
    for kind in ("random", "trained"):
        torch.manual_seed(seed)
        model = TactileEncoderForPreTraining(config)
        if kind == "trained":
            pretrain(model, batch, args, folder / "encoder", {"case": case.name})
        encoders[kind] = model.encoder.eval()
    stores = {
        (kind, part): write_store(encoder, extractor, recordings, folder / f"{kind}-{part}", config.num_tokens)
        for kind, encoder in encoders.items()
        for part, recordings in {"train": case.train, **case.tests}.items()
    }
    return {"folder": folder, "extractor": extractor, "stores": stores, "tokens": config.num_tokens}


def write_store(
    encoder: TactileEncoder, extractor: TactileFeatureExtractor, recordings: TouchRecordings, path: Path, tokens: int
) -> EmbeddingStore:
    """Write token features of recordings."""
    columns = zip(recordings.ids, recordings.values, recordings.descriptions, strict=True)
    items = [{"id": i, "touch": values, "text": text} for i, values, text in columns]
    return embed_tokens(encoder, extractor, "touch", items, path, tokens, dtype="float32", progress=False)


def pooled(store: EmbeddingStore, tokens: int) -> np.ndarray:
    """Mean and maximum over an item's tokens, the class token left out: `(items, 2 * width)`."""
    rows = np.asarray(store[:], np.float32).reshape(len(store), tokens, -1)[:, 1:]
    return np.concatenate([rows.mean(1), rows.max(1)], 1)


def probe(case: Case, made: dict[str, Any], method: str) -> dict[str, list[float]]:
    """Measure a linear classifier of the trained materials; there is none for others."""
    if "20" not in case.tests:
        return {}
    if method == "probe_channels":
        values = [made["extractor"](part.values)["touch_values"] for part in (case.train, case.tests["20"])]
        features = [torch.cat([v.mean(1), v.std(1).log1p()], 1).numpy() for v in values]
    else:
        kind = "random" if method == "probe_random" else "trained"
        features = [pooled(made["stores"][kind, part], made["tokens"]) for part in ("train", "20")]
    result = linear_probe(features[0], case.train.materials, features[1], case.tests["20"].materials)
    return {"20": result.correct.astype(float).tolist()}


def ridge(case: Case, made: dict[str, Any], small_lm: Path, penalty: float = 1.0) -> dict[str, list[float]]:
    """Map pooled features linearly onto mean token embeddings; the nearest description by cosine is the answer."""
    table = AutoModelForCausalLM.from_pretrained(small_lm).get_input_embeddings().weight.detach()
    tokenizer = AutoTokenizer.from_pretrained(small_lm)

    def read(texts: list[str]) -> torch.Tensor:
        return torch.stack([table[tokenizer(text, add_special_tokens=False)["input_ids"]].mean(0) for text in texts])

    x, y = torch.from_numpy(pooled(made["stores"]["trained", "train"], made["tokens"])), read(case.train.descriptions)
    mean, std, center = x.mean(0), x.std(0) + 1e-6, y.mean(0)
    x, y = ((x - mean) / std).double(), (y - center).double()
    weight = torch.linalg.solve(x.T @ x / len(x) + penalty * torch.eye(x.shape[1]).double(), x.T @ y / len(x))
    found = {}
    for task, recordings in case.tests.items():
        z = (torch.from_numpy(pooled(made["stores"]["trained", task], made["tokens"])) - mean) / std
        answers = sorted(set(recordings.descriptions))
        scores = F.normalize(z.double() @ weight, dim=1) @ F.normalize((read(answers) - center).double(), dim=1).T
        right = [answers[i] == text for i, text in zip(scores.argmax(1).tolist(), recordings.descriptions, strict=True)]
        found[task] = [float(value) for value in right]
    return found


def adapter(case: Case, made: dict[str, Any], seed: int, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Train a 2-layer MLP on pooled features into the frozen language model, end to end."""
    raw = {part: pooled(made["stores"]["trained", part], made["tokens"]) for part in ("train", *case.tests)}
    mean, std = raw["train"].mean(0), raw["train"].std(0) + 1e-6
    features = {part: (rows - mean) / std for part, rows in raw.items()}
    parts = {"embedding_dim": len(mean), "normalize": False, "num_tokens": TEXT_TOKENS, "token_mode": "distinct"}
    model, processor = ModalBridgeForConditionalGeneration.from_components(
        language_model=str(arguments.small_lm),
        tokenizer=str(arguments.small_lm),
        modalities={"touch": parts},
        seed=seed,
    )
    connector = model.model.connectors["touch"]
    train_only(model, [connector])
    rows = CaptionDataset(features["train"], processor, "touch", case.train.descriptions, kind="embeds", max_length=96)
    loop = LoopConfig(**loop_values(arguments.adapter_steps, seed))
    train(model, rows, BridgeCollator(processor), loop, train_modules=[connector])
    return choose(model.eval(), processor, case, features)


def pairwise(
    row: str, case: Case, made: dict[str, Any], seed: int, arguments: argparse.Namespace
) -> dict[str, list[float]]:
    """Train the pairwise route, or what an ablation leaves of it, on the same pairs."""
    folder = made["folder"] / row
    values: dict[str, Any] = {
        "output_dir": str(folder),
        "language_model": {"id": str(arguments.small_lm), "dtype": "float32", "attn_implementation": "eager"},
        "text": {"num_tokens": TEXT_TOKENS},
        "modalities": {"touch": {"num_tokens": made["tokens"]}},
        "pairs": [
            {
                **{"source": "touch", "target": "text", "active": ACTIVE},
                "stores": {"touch": str(made["stores"]["trained", "train"].path)},
            }
        ],
        "aligner": ALIGNER,
        "stage1": {"loop": loop_values(arguments.stage1_steps, seed)},
        "stage2": {"loop": loop_values(arguments.stage2_steps, seed), "questions": []},
    }
    leave_out(values, row)
    model_dir = run_pairwise(build_config(PairwiseRecipe, values))["stage2"].model_dir
    model, processor = AutoModel.from_pretrained(model_dir), AutoProcessor.from_pretrained(model_dir)
    features = {task: np.asarray(made["stores"]["trained", task][:], np.float32) for task in case.tests}
    found = choose(model.eval(), processor, case, features)
    shutil.rmtree(folder)
    return found


def loop_values(steps: int, seed: int) -> dict[str, Any]:
    """Settings of every loop here."""
    sizes = {"max_steps": steps, "per_device_batch_size": 32, "save_steps": 0, "eval_steps": 0}
    return {"learning_rate": 1e-3, "weight_decay": 0.05, "seed": seed, "progress": False, **sizes}


def choose(model: Any, processor: Any, case: Case, features: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """Let a model choose among the descriptions of each task's materials."""
    found = {}
    for task, recordings in case.tests.items():
        answers = sorted(set(recordings.descriptions))
        texts = recordings.descriptions
        result = label_choice(model, processor, "touch", features[task], texts, answers, per_item=True)
        found[task] = result["per_item"]["calibrated"]
    return found


def run_case(case: Case, seed: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Give the numbers of all methods on a case, from files where they were measured before."""
    results, made = [], None
    steps = [arguments.encoder_steps, arguments.stage1_steps, arguments.stage2_steps, arguments.adapter_steps]
    for method in methods_of(case):
        path = arguments.output / "results" / f"{case.name}-seed{seed}-{method}.json"
        result = read_run(path, steps)
        if result is None:
            made = made or prepare(case, seed, arguments)
            began = time.perf_counter()
            if method.startswith("probe"):
                found = probe(case, made, method)
            elif method == "ridge":
                found = ridge(case, made, arguments.small_lm)
            elif method == "adapter":
                found = adapter(case, made, seed, arguments)
            else:
                found = pairwise(method, case, made, seed, arguments)
            result = {"case": case.name, "seed": seed, "method": method, "correct": found, "settings": steps}
            write_json(path, result)
            said = ", ".join(f"{task}-way {np.mean(values):.3f}" for task, values in found.items())
            print(f"{case.name} seed {seed} {method} ({time.perf_counter() - began:.0f} s): {said}", flush=True)
        results.append(result)
    return results


def said(runs: dict[tuple[str, int], list[float]]) -> str:
    """Write mean and 95 % bootstrap interval of runs by case and seed; those of one case share their recordings."""
    mean, low, high = runs_interval(list(runs.values()), same_items=len({case for case, _ in runs}) == 1)
    return f"{mean:.3f} ({low:.3f} to {high:.3f})"


def table(results: list[dict[str, Any]]) -> str:
    """Write the table of all results."""
    columns = [("generated", "20"), ("generated", "4"), ("biotac", "20"), ("biotac", "4")]

    def runs_of(source: str, task: str, method: str) -> dict[tuple[str, int], list[float]]:
        wanted = (r for r in results if r["case"].startswith(source) and r["method"] == method)
        return {(r["case"], r["seed"]): r["correct"][task] for r in wanted if task in r["correct"]}

    columns = [c for c in columns if runs_of(*c, "ridge")]
    names = {"generated": "generated recordings", "biotac": "real BioTac slides"}
    tasks = {"20": "20 materials", "4": "4 materials never trained on"}
    lines = [f"| method | {' | '.join(f'{names[source]}, {tasks[task]}' for source, task in columns)} |"]
    lines.append("|---|" + "---|" * len(columns))
    for method, title in METHODS.items():
        cells = [said(found) if (found := runs_of(*c, method)) else "" for c in columns]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    lines.append(f"| *chance* | {' | '.join(f'{1 / int(task):.3f}' for _, task in columns)} |")
    counts = [
        f"{names[s]}, {tasks[t]}: {len(r)} run(s) of {len(r[0])} recordings"
        for s, t in columns
        for r in [list(runs_of(s, t, "ridge").values())]
    ]
    return "\n".join(lines) + "\n\n" + "; ".join(counts) + "."


def main() -> None:
    """Read the command line, run what is missing, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--biotac", type=Path, help=".npz of the BioTac slides, see hf_modalbridge.data.recordings")
    parser.add_argument("--sources", nargs="*", choices=("generated", "biotac"), help="by default all that are there")
    parser.add_argument("--small-lm", type=Path, default=Path("runs/reproduce/small-lm"))
    parser.add_argument("--output", type=Path, default=Path("runs/touch-study"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--encoder-steps", type=int, default=300)
    parser.add_argument("--stage1-steps", type=int, default=200)
    parser.add_argument("--stage2-steps", type=int, default=200)
    parser.add_argument("--adapter-steps", type=int, default=400)
    parser.add_argument("--docs", type=Path, default=Path("docs/results"), help="folder that receives the table")
    arguments = parser.parse_args()
    arguments.sources = arguments.sources or ["generated", *(["biotac"] if arguments.biotac else [])]
    if "biotac" in arguments.sources and arguments.biotac is None:
        parser.error("the BioTac slides do not come with the package: give their file with --biotac")
    if not (arguments.small_lm / "config.json").is_file():
        from train_small_lm import build

        build(arguments.small_lm)
    results: list[dict[str, Any]] = []
    for case, seed in load_cases(arguments):
        results += run_case(case, seed, arguments)
        write_table(results, arguments)
    print(table(results))


def write_table(results: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """Write what is measured so far."""
    steps = (
        f"Encoder {ENCODER}, {arguments.encoder_steps} steps of masked reconstruction; aligner {ALIGNER}; adapter "
        f"{arguments.adapter_steps} steps; pairwise route {arguments.stage1_steps} and {arguments.stage2_steps} steps; "
        "batches of 32."
    )
    command = f"python recipes/evaluate_touch.py --seeds {arguments.seeds}"
    if any(result["case"].startswith("biotac") for result in results):
        command += " --biotac FILE"
    text = (
        f"# Material by touch\n\nMade by `{command}`, which says what "
        "rows and tasks are. Means over runs and held-out recordings with 95 % bootstrap intervals over both.\n\n"
        f"{table(results)}\n\n{steps}\n"
    )
    arguments.docs.mkdir(parents=True, exist_ok=True)
    (arguments.docs / "touch.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
