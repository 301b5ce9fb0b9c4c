"""Compare settings of AnisoAlign where its paper leaves them open, on held-out pairs.

    python benchmarks/aniso_choices.py stores CAPTIONS_TRAIN IMAGES_TRAIN CAPTIONS_VALIDATION IMAGES_VALIDATION
    python benchmarks/aniso_choices.py array features.npy      # (2, pairs, dim): images, captions; halves

Each setting is fitted without pairs, on the training stores or on one half of the array (the captions in another
order than the images), with several seeds (and halves), and measured on the pairs that it has not seen. All
figures are on unit rows; `k` is the number of neighbours.

    gap      centroid gap; its sampling floor is that of two samples of one distribution
    M^Z M^X  kNN mixing of the pool of corrected captions Z and images X (arXiv 2605.07825, appendix B.2)
    Omega    share of the k neighbours among captions that the correction keeps
    Psi      correlation of pairwise cosines before and after;  Phi: mean cosine of a row before and after
    cos R@1  mean cosine of true pairs; how often the own image is the nearest to the corrected caption
    sliced   squared sliced Wasserstein distance to the images along 256 random directions in units of their variance
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_modalbridge import AnisoAlign, EmbeddingStore, MeanShift, NoCorrection, ReAlign
from hf_modalbridge.corrections import ABLATIONS
from hf_modalbridge.corrections.aniso_losses import sliced_distance
from hf_modalbridge.evaluation import student_interval
from hf_modalbridge.functional import normalize_rows, recall_at_k

ALL = ABLATIONS["all"]
SETTINGS: dict[str, dict[str, Any] | type] = {
    "no correction": NoCorrection,
    "mean shift": MeanShift,
    "ReAlign": ReAlign,
    "start quantile, alone": {"start": "quantile", **ABLATIONS["initialisation"]},
    "start quantile, alone, scalar D_V": {
        "start": "quantile",
        "v_scale": "scalar",
        **ABLATIONS["initialisation"],
    },
    "start quantile, alone, v0 in V": {"start": "quantile", "reproject": True, **ABLATIONS["initialisation"]},
    "start quantile, all": {"start": "quantile", **ALL},
    "start quantile, paper's losses": {"start": "quantile", **ALL, "lambda_0": 0.0},
    "start realign, L_0": {**ABLATIONS["refinement"]},
    "start realign, L_0 + L_II": {**ABLATIONS["refinement+score"]},
    "start realign, L_0 + L_Phi": {**ABLATIONS["refinement+phi"]},
    "start realign, all": ALL,
    "paper's losses": {**ALL, "lambda_0": 0.0},
    "r / 2": {**ALL, "rank": 0.5},
    "r * 2": {**ALL, "rank": 2.0},
    "R random": {**ALL, "mixing": "random"},
    "R learned": {**ALL, "mixing": "learned"},
    "clip": {**ALL, "v_norm": "clip"},
    "lambda_0 0.1": {**ALL, "lambda_0": 0.1},
    "lambda_0 10": {**ALL, "lambda_0": 10.0},
    "lambda_phi 0.1": {**ALL, "lambda_phi": 0.1},
    "lambda_phi 10": {**ALL, "lambda_phi": 10.0},
    "bounds / 2": {**ALL, "a_theta": 0.1, "a_rho": 0.075, "v_bound": 0.05},
    "bounds * 2": {**ALL, "a_theta": 0.4, "a_rho": 0.3, "v_bound": 0.2},
    "v_bound 0.3": {**ALL, "v_bound": 0.3},
    "v_bound 0.5, L_0": {**ABLATIONS["refinement"], "v_bound": 0.5},
}
COLUMNS = ("gap", "M^Z", "M^X", "Omega", "Psi", "Phi", "cos", "R@1", "sliced", "seconds")


def neighbours(rows: Tensor, k: int) -> Tensor:
    """Indices `(n, k)` of the k rows nearest to each row by cosine, itself left out."""
    return (rows @ rows.T).fill_diagonal_(-2).topk(k, dim=1).indices


def mixing(corrected: Tensor, target: Tensor, k: int, generator: torch.Generator) -> tuple[float, float]:
    """M^Z and M^X: entropy of the neighbours' sides over its expectation under shuffled sides."""
    near = neighbours(torch.cat([corrected, target]), k)
    is_target = torch.arange(len(corrected) + len(target)) >= len(corrected)

    def entropy(labels: Tensor) -> Tensor:
        p = labels[near].double().mean(1).clamp(1e-12, 1 - 1e-12)
        return -(p * p.log2() + (1 - p) * (1 - p).log2())

    chance = [entropy(is_target[torch.randperm(len(is_target), generator=generator)]).mean() for _ in range(20)]
    found, expected = entropy(is_target), float(torch.stack(chance).mean())
    return float(found[~is_target].mean()) / expected, float(found[is_target].mean()) / expected


def measure(source: Tensor, corrected: Tensor, target: Tensor, k: int) -> dict[str, float]:
    """All figures of one correction on pairs."""
    generator = torch.Generator().manual_seed(0)
    kept = [
        len(set(a) & set(b))
        for a, b in zip(neighbours(source, k).tolist(), neighbours(corrected, k).tolist(), strict=True)
    ]
    i, j = torch.triu_indices(len(source), len(source), 1)
    cosines = torch.stack([(source @ source.T)[i, j], (corrected @ corrected.T)[i, j]])
    directions = torch.randn(source.shape[1], 256, generator=generator)
    directions /= directions.norm(dim=0)
    m_z, m_x = mixing(corrected, target, k, generator)
    return {
        "gap": float((corrected.mean(0) - target.mean(0)).norm()),
        "M^Z": m_z,
        "M^X": m_x,
        "Omega": float(np.mean(kept)) / k,
        "Psi": float(torch.corrcoef(cosines)[0, 1]),
        "Phi": float((source * corrected).sum(1).mean()),
        "cos": float((target * corrected).sum(1).mean()),
        "R@1": recall_at_k(corrected, target)[1],
        "sliced": float(sliced_distance(corrected, target, directions)),
    }


def splits(args: argparse.Namespace) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Give source and target of the fit, then source and target of the pairs."""
    if args.kind == "stores":
        stores = [EmbeddingStore.open(path) for path in args.paths]
        rows = [normalize_rows(torch.from_numpy(store[:].astype(np.float32))) for store in stores]
        order = stores[3].positions(stores[2].ids)
        yield rows[0], rows[1], rows[2], rows[3][torch.from_numpy(order)]
        return
    images, captions = normalize_rows(torch.from_numpy(np.load(args.paths[0], allow_pickle=False).astype(np.float32)))
    for split in range(args.splits):
        generator = torch.Generator().manual_seed(split)
        order = torch.randperm(len(images), generator=generator)
        fit, held = order[: len(order) // 2], order[len(order) // 2 :]
        yield captions[fit[torch.randperm(len(fit), generator=generator)]], images[fit], captions[held], images[held]


def run(
    setting: dict[str, Any] | type, data: tuple[Tensor, Tensor, Tensor, Tensor], args: argparse.Namespace, seed: int
) -> dict[str, float]:
    """Fit one setting with one seed and measure it."""
    source, target, pairs_source, pairs_target = data
    start = time.perf_counter()
    if isinstance(setting, type):
        correction = setting.fit(source, target)
    else:
        hyper = {**args.overrides, **setting}
        if isinstance(hyper.get("rank"), float):
            base = args.overrides.get("rank") or source.shape[1] // 8 * 2
            hyper["rank"] = int(base * hyper["rank"]) // 2 * 2
        correction = AnisoAlign.fit(source, target, seed=seed, **hyper)
    seconds = time.perf_counter() - start
    return measure(pairs_source, correction(pairs_source), pairs_target, args.k) | {"seconds": seconds}


def main() -> None:
    """Print one row a setting: mean over seeds and splits, with a 95% interval of the mean where there are several."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["stores", "array"])
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--splits", type=int, default=3, help="halves of the array")
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--only", nargs="*", help="parts of the names of the settings to run")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="a hyper-parameter of every setting")
    args = parser.parse_args()
    kinds = {name: type(value) for name, value in vars(AnisoAlign(64).config).items()}
    args.overrides = {k: (v if kinds[k] is str else kinds[k](v)) for k, v in (item.split("=") for item in args.set)}
    print("| setting | " + " | ".join(COLUMNS) + " |\n|" + "---|" * (len(COLUMNS) + 1))
    for name, setting in SETTINGS.items():
        if args.only and not any(part in name for part in args.only):
            continue
        seeds = range(1 if isinstance(setting, type) else args.seeds)
        runs = [run(setting, data, args, seed) for data in splits(args) for seed in seeds]
        cells = []
        for column in COLUMNS:
            values = [one[column] for one in runs]
            mean, spread = student_interval(values)
            cells.append(f"{mean:.4f}" + (f" ±{spread:.4f}" if spread > 0 else ""))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
