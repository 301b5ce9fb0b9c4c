"""Every correction by every measure of the gap, on held-out pairs of real embeddings.

Two sets of data, either or both:

    python benchmarks/geometry_table.py --stores runs/demo/stores       # fit on train, measure on test
    python benchmarks/geometry_table.py --clip features_clip.npy        # fit on one half, measure on the other

Stores are a folder as `hf_modalbridge.demo.stores.prepare_stores` writes it: `captions-train`, `images-train`,
`captions-test`, `images-test`. What is measured there varies by the seed of the fits and, each time, by a random
half of the test pairs. The file holds two arrays, images and captions in one order; there, each split draws the half
that is fitted on.

Corrections without pairs get the fitting rows of both sides in unrelated orders; few-pair ones get the pairs. All
types that the library knows are measured, and hyper-parameters are their defaults. A number is the mean over splits,
with the 95 % Student interval of the mean; splits share rows, so the intervals are somewhat too narrow. Between two
corrections the same splits are compared, which their intervals do not use; the last table does.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from pathlib import Path

import numpy as np

from hf_modalbridge import AutoCorrection, EmbeddingStore, GapReport
from hf_modalbridge.evaluation import student_interval
from hf_modalbridge.evaluation.gap_metrics import metric

RESULTS = Path(__file__).parent / "results" / "geometry.md"
TABLES = {
    "Means, covariances and angles": (
        "gap", "gap_floor", "trace_ratio", "covariance_gap", "spectrum_correlation", "subspace_overlap", "exponent",
        "effective_rank", "angular_js",
    ),
    "Mixing and what is kept": (
        "mixing_rate", "mixing_z", "mixing_x", "separability", "phi", "phi_ceiling", "psi", "omega",
    ),
    "Pairs": ("pair_cosine", "recall@1", "recall@10", "mrr", "mixed_recall@1", "mixed_recall@10", "mixed_mrr"),
    "Paired residual": ("residual_trace", "anisotropy", "residual_energy", "residual_dimensions", "frame_coverage"),
}  # fmt: skip
COMPARED = ("gap", "mixing_z", "mixing_x", "omega", "pair_cosine", "mixed_mrr")

Numbers = dict[str, list[dict[str, float]]]
Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def read_stores(folder: Path) -> dict[str, np.ndarray]:
    """Read the four stores; row i of captions and images belong together."""
    rows = {}
    for split in ("train", "test"):
        captions, images = (EmbeddingStore.open(folder / f"{side}-{split}") for side in ("captions", "images"))
        if captions.ids != images.ids:
            raise SystemExit(f"the ids of captions-{split} and images-{split} in {folder} are not in one order")
        rows[f"captions-{split}"], rows[f"images-{split}"] = captions[:], images[:]
    return {name: x.astype(np.float32) for name, x in rows.items()}


def split_stores(rows: dict[str, np.ndarray], seed: int) -> Split:
    """Give all training rows, and a random half of the test pairs."""
    count = len(rows["captions-test"])
    held_out = np.random.default_rng(seed).permutation(count)[: count // 2]
    return (
        rows["captions-train"], rows["images-train"], rows["captions-test"][held_out], rows["images-test"][held_out],
    )  # fmt: skip


def split_file(path: Path, seed: int) -> Split:
    """Give one random half of the pairs to fit on and the other to measure on."""
    images, captions = np.load(path, allow_pickle=False)
    order = np.random.default_rng(seed).permutation(len(images))
    fit, held_out = order[: len(order) // 2], order[len(order) // 2 :]
    return captions[fit], images[fit], captions[held_out], images[held_out]


def measure(split: Split, seed: int, types: list[str]) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Fit every type and report on it; a type that refuses the data is left out, with what it said."""
    source, target, held_source, held_target = split
    fitted, refused = {}, {}
    unpaired = np.random.default_rng(seed + 1000).permutation(len(target))
    for name in types:
        kind = AutoCorrection.from_type(name)
        try:
            fitted[name] = kind.fit(source, target if getattr(kind, "paired", False) else target[unpaired], seed=seed)
        except ValueError as error:
            refused[name] = str(error)
    report = GapReport.compute(held_source, held_target, fitted, pairs=True, bootstrap=0, seed=seed)
    numbers = {name: {key: e.value for key, e in found.items()} for name, found in report.sets.items()}
    numbers.pop("source" if "none" in numbers else "", None)
    numbers["(target)"] = {key: e.value for key, e in report.target.items()}
    return numbers, refused


def summary(values: list[float], digits: int) -> str:
    """Write a mean and the half-width of its interval."""
    mean, half = student_interval(values)
    return f"{mean:.{digits}f}" + (f" ± {half:.{digits}f}" if len(values) > 1 else "")


def tables(numbers: Numbers) -> list[str]:
    """Write all tables of one set of data."""
    lines = []
    for title, keys in TABLES.items():
        lines += ["", f"**{title}**", "", "| correction | " + " | ".join(metric(key).label for key in keys) + " |"]
        lines.append("|---" * (len(keys) + 1) + "|")
        for name, splits in numbers.items():
            if not any(key in splits[0] for key in keys):
                continue
            cells = [summary([s[key] for s in splits], metric(key).digits) if key in splits[0] else "" for key in keys]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if "realign" in numbers and len(numbers["realign"]) > 1:
        lines += ["", "**Difference from ReAlign on the same splits**", ""]
        lines.append("| correction | " + " | ".join(metric(key).label for key in COMPARED) + " |")
        lines.append("|---" * (len(COMPARED) + 1) + "|")
        for name, splits in numbers.items():
            if name in ("realign", "(target)") or len(splits) != len(numbers["realign"]):
                continue
            cells = []
            for key in COMPARED:
                both = zip(splits, numbers["realign"], strict=True)
                known = key in splits[0] and key in numbers["realign"][0]
                cells.append(summary([a[key] - b[key] for a, b in both], metric(key).digits) if known else "")
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def study(title: str, splits: list[Split], types: list[str]) -> list[str]:
    """Measure all splits of one set of data and write it up."""
    numbers: Numbers = {}
    refused: dict[str, str] = {}
    for seed, split in enumerate(splits):
        start = time.perf_counter()
        found, no = measure(split, seed, types)
        refused |= no
        for name, values in found.items():
            numbers.setdefault(name, []).append(values)
        print(f"{title}: split {seed + 1} of {len(splits)}, {time.perf_counter() - start:.0f} s", flush=True)
    target = numbers.pop("(target)")
    numbers["(target)"] = target
    source, held_out = splits[0][0], splits[0][2]
    lines = [f"## {title}", "", f"{len(source):,} rows a side to fit on, {len(held_out):,} held-out pairs, "
             f"{source.shape[1]} dimensions, {len(splits)} splits."]  # fmt: skip
    lines += [f"`{name}` is left out: {' '.join(why.split())}" for name, why in refused.items()]
    return lines + tables(numbers) + [""]


def main() -> None:
    """Read the data, measure, print and save the tables."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--stores", type=Path, help="folder of the demo's stores")
    parser.add_argument("--clip", type=Path, help=".npy file (2, pairs, dim) of images and captions")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--types", nargs="+", help="corrections; all by default")
    parser.add_argument("--out", type=Path, default=RESULTS, help="Markdown file for the tables")
    args = parser.parse_args()
    if not args.stores and not args.clip:
        parser.error("give --stores, --clip or both")
    types = args.types or list(AutoCorrection.types())
    given = f" --stores {args.stores.name}" if args.stores else ""
    given += f" --clip {args.clip.name}" if args.clip else ""
    lines = [
        "# Geometry of every correction on held-out pairs",
        "",
        f"`python benchmarks/geometry_table.py{given} --splits {args.splits}`; {os.cpu_count()} cores, Python "
        f"{platform.python_version()}. Mean and 95 % Student interval over splits. What the measures mean: "
        "[docs/gap-report.md](../../docs/gap-report.md).",
        "",
    ]
    if args.stores:
        rows = read_stores(args.stores)
        lines += study("Demo dual encoder", [split_stores(rows, seed) for seed in range(args.splits)], types)
    if args.clip:
        lines += study("CLIP ViT-B/16, COCO", [split_file(args.clip, seed) for seed in range(args.splits)], types)
    text = "\n".join(lines).rstrip() + "\n"
    print(text)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
