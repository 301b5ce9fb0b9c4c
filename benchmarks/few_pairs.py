"""Compare corrections fitted on few rows of paired embeddings, on pairs that they did not see.

    python benchmarks/few_pairs.py pairs.npy

The file holds an array (2, n, dim): embeddings of the target (images), then of the source (captions), row i of one
belonging to row i of the other. Half of the pairs are measured; fits take rows of the other half. Prints the mean
over splits as Markdown.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch

from hf_modalbridge import BlockCovariance, Correction, NoCorrection, Procrustes, ReAlign, SubspaceCCA
from hf_modalbridge.functional import recall_at_k

SETTINGS: list[tuple[type[Correction], dict[str, Any]]] = [
    (NoCorrection, {}),
    (ReAlign, {}),
    (BlockCovariance, {"variant": "published"}),
    (BlockCovariance, {"ridge": 0.01}),
    (BlockCovariance, {}),
    (Procrustes, {"prior_pairs": 0}),
    (Procrustes, {}),
    (SubspaceCCA, {"components": 50, "residual": False}),
    (SubspaceCCA, {"components": 50}),
]


def measure(correction: Correction, source: np.ndarray, target: np.ndarray) -> list[float]:
    """Measure cosine of a pair, gap of the means, ratio of traces and R@5, source to target."""
    z = correction(torch.from_numpy(source).double())
    x = correction.transform_target(torch.from_numpy(target).double())
    traces = [1 - float(side.mean(0).square().sum()) for side in (z, x)]
    gap = float((z.mean(0) - x.mean(0)).norm())
    return [float((z * x).sum(1).mean()), gap, traces[0] / traces[1], recall_at_k(z, x, (5,))[5]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", help=".npy file (2, n, dim): target, source")
    parser.add_argument("--rows", type=int, nargs="+", default=[60, 250], help="rows of each fit")
    parser.add_argument("--splits", type=int, default=3, help="random splits, seeds 0, 1, ...")
    arguments = parser.parse_args()
    target, source = np.load(arguments.pairs, allow_pickle=False)
    half = len(target) // 2
    print("| correction | rows | cos | gap | trace | R@5 |\n|---|---|---|---|---|---|")
    for rows in arguments.rows:
        for kind, hyper in SETTINGS:
            numbers = []
            for seed in range(arguments.splits):
                order = np.random.default_rng(seed).permutation(len(target))
                fit, held = order[: min(rows, half)], order[half:]
                correction = kind.fit(source[fit], target[fit], **hyper)
                numbers.append(measure(correction, source[held], target[held]))
            name = ", ".join([f"`{kind.correction_type}`", *(f"{k}={v}" for k, v in hyper.items())])
            print(f"| {name} | {rows} | " + " | ".join(f"{number:.3f}" for number in np.mean(numbers, 0)) + " |")


if __name__ == "__main__":
    main()
