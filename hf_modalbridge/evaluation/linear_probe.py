"""Linear probe: how well a linear classifier reads labels from frozen features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .intervals import bootstrap_interval

__all__ = ["ProbeResult", "linear_probe"]

PENALTIES = (1.0, 1e-1, 1e-2, 1e-3)


@dataclass(frozen=True)
class ProbeResult:
    """What a probe gave.

    Args:
        accuracy: Share of test rows whose label was found.
        macro_accuracy: Mean over the labels of the test rows of the share found of each.
        penalty: The L2 penalty that cross-validation on the training rows chose.
        correct: For each test row whether its label was found, for paired comparisons and intervals.
    """

    accuracy: float
    macro_accuracy: float
    penalty: float
    correct: np.ndarray

    def interval(self, level: float = 0.95, draws: int = 4000, seed: int = 0) -> tuple[float, float]:
        """Bootstrap the accuracy over the test rows.

        Args:
            level: Probability that the interval holds.
            draws: Resamples.
            seed: Of the resamples.

        Returns:
            Its two ends.
        """
        return bootstrap_interval(self.correct, level=level, samples=draws, seed=seed)


def linear_probe(
    train: np.ndarray | Tensor,
    train_labels: Sequence[object],
    test: np.ndarray | Tensor,
    test_labels: Sequence[object],
    penalties: Sequence[float] = PENALTIES,
    folds: int = 3,
    seed: int = 0,
) -> ProbeResult:
    """Fit multinomial logistic regression on standardised features and test it.

    The L2 penalty is chosen by cross-validation on the training rows alone. Labels that only the test rows have count
    as missed.

    Args:
        train: `(rows, dim)`.
        train_labels: One a row.
        test: `(rows, dim)`.
        test_labels: One a row.
        penalties: L2 penalties to choose from, on the mean loss; from strong to weak, as each fit starts from the last.
        folds: Parts of the cross-validation.
        seed: Of the parts.

    Returns:
        The result.

    Raises:
        ValueError: If rows and labels differ in number, or the widths do.
    """
    x, z = (torch.as_tensor(np.asarray(part), dtype=torch.float32) for part in (train, test))
    if x.ndim != 2 or z.ndim != 2 or x.shape[1] != z.shape[1] or len(x) != len(train_labels):
        raise ValueError(
            f"linear_probe got features of shapes {tuple(x.shape)} and {tuple(z.shape)} and {len(train_labels)} "
            "training labels; expected (rows, dim) with one dim, and a label a row."
        )
    if len(z) != len(test_labels):
        raise ValueError(f"linear_probe got {len(z)} test rows and {len(test_labels)} labels; expected one a row.")
    place = {name: number for number, name in enumerate(sorted(set(train_labels), key=str))}
    y = torch.tensor([place[label] for label in train_labels])
    wanted = np.array([place.get(label, -1) for label in test_labels])
    part = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)) % folds
    found = np.zeros(len(penalties), dtype=int)
    for fold in range(folds):
        inside = part != fold
        for number, predict in enumerate(_fits(x[inside], y[inside], len(place), penalties)):
            found[number] += int((predict(x[~inside]) == y[~inside]).sum())
    chosen = int(found.argmax())
    *_, predict = _fits(x, y, len(place), penalties[: chosen + 1])
    correct = predict(z).numpy() == wanted
    macro = np.mean([correct[wanted == label].mean() for label in np.unique(wanted)])
    return ProbeResult(float(correct.mean()), float(macro), penalties[chosen], correct)


def _fits(x: Tensor, y: Tensor, labels: int, penalties: Sequence[float]) -> Iterator[Callable[[Tensor], Tensor]]:
    """Train a classifier for each penalty in turn; yields what predicts label numbers."""
    mean, std = x.mean(0), x.std(0).clamp_min(1e-6)
    inputs = (x - mean) / std
    weight = torch.zeros(x.shape[1], labels, requires_grad=True)
    bias = torch.zeros(labels, requires_grad=True)
    for penalty in penalties:
        solver = torch.optim.LBFGS([weight, bias], max_iter=60, line_search_fn="strong_wolfe", tolerance_grad=1e-5)

        def closure(solver: torch.optim.LBFGS = solver, penalty: float = penalty) -> Tensor:
            solver.zero_grad()
            loss = nn.functional.cross_entropy(inputs @ weight + bias, y) + penalty * weight.square().sum() / 2
            loss.backward()
            return loss

        solver.step(closure)
        w, b = weight.detach().clone(), bias.detach().clone()
        yield lambda rows, w=w, b=b: ((rows - mean) / std @ w + b).argmax(1)
