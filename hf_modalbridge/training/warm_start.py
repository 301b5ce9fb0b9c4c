"""Closed-form start of a connector: ridge regression to the mean token embedding of the caption."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["ridge_regression", "warm_start_connector"]


def ridge_regression(features: Tensor, targets: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Solve `min_W,b mean ||x W^T + b - y||^2 + penalty ||W||^2`, `penalty = ridge * mean variance of x`.

    The intercept is not penalised: features and targets are centred, and
    `W = (cov(y, x)) (cov(x, x) + penalty I)^-1`, `b = mean(y) - W mean(x)`.

    Args:
        features: `(rows, inputs)`.
        targets: `(rows, outputs)`.
        ridge: Penalty relative to the features' scale.

    Returns:
        Weight `(outputs, inputs)` and bias `(outputs,)`, float64.
    """
    moments = _Moments()
    moments.update(features, targets)
    return moments.solve(ridge)


class _Moments:
    """Sums for the normal equations in float64, so that rows need not be in memory together."""

    def __init__(self) -> None:
        self.rows = 0
        self.xx: Any = 0.0
        self.yx: Any = 0.0
        self.x: Any = 0.0
        self.y: Any = 0.0
        self.yy = 0.0

    def update(self, features: Tensor, targets: Tensor) -> None:
        x, y = features.double(), targets.double()
        self.rows += len(x)
        self.xx, self.yx = self.xx + x.T @ x, self.yx + y.T @ x
        self.x, self.y = self.x + x.sum(0), self.y + y.sum(0)
        self.yy += float(y.square().sum())

    def centred(self) -> tuple[Tensor, Tensor, float]:
        mean_x, mean_y = self.x / self.rows, self.y / self.rows
        return (
            self.xx / self.rows - torch.outer(mean_x, mean_x),
            self.yx / self.rows - torch.outer(mean_y, mean_x),
            self.yy / self.rows - float(mean_y.square().sum()),
        )

    def solve(self, ridge: float) -> tuple[Tensor, Tensor]:
        cov_xx, cov_yx, _ = self.centred()
        penalty = ridge * float(cov_xx.diagonal().mean()) + 1e-12
        identity = torch.eye(len(cov_xx), dtype=torch.float64, device=cov_xx.device)
        weight = torch.linalg.solve(cov_xx + penalty * identity, cov_yx.T).T  # (outputs, inputs)
        return weight, (self.y - weight @ self.x) / self.rows

    def explained(self, weight: Tensor) -> float:
        cov_xx, cov_yx, variance = self.centred()
        return float(2 * (weight * cov_yx).sum() - ((weight @ cov_xx) * weight).sum()) / variance


@torch.no_grad()
def warm_start_connector(
    model: nn.Module,
    modality: str,
    dataset: Any,
    collate: Any,
    *,
    ridge: float = 0.1,
    rows: int | None = 20000,
    batch_size: int = 256,
) -> float:
    """Set the connector's last layer so that an item's tokens are near its caption's mean token embedding.

    The layers before it stay at their random start and act as random features. Every token of the `distinct`
    mode is given the same target.

    Args:
        model: `ModalBridgeForConditionalGeneration`, in evaluation mode so that no noise is added.
        modality: Name of the modality.
        dataset: Rows with one item each, such as `CaptionDataset`.
        collate: From rows to a batch.
        ridge: Penalty relative to the mean variance of the last layer's inputs.
        rows: Rows used, from the start of a seeded permutation; None takes all.
        batch_size: Rows computed together.

    Returns:
        Share of the targets' variance that the fit explains, on the rows used.
    """
    connector = model.model.connectors[modality]  # type: ignore[union-attr,index]
    last = connector.projector.last
    table = model.get_input_embeddings()  # type: ignore[operator]
    device = last.weight.device
    # the prompt's supervised tokens but the last, which is the end-of-text token, are the caption
    order = np.random.default_rng(0).permutation(len(dataset))[: rows or len(dataset)]
    moments = _Moments()
    inputs: list[Tensor] = []
    handle = last.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0].detach()))
    try:
        for start in range(0, len(order), batch_size):
            batch = collate([dataset[int(row)] for row in order[start : start + batch_size]])
            ids, labels = batch["input_ids"].to(device), batch["labels"].to(device)
            caption = (labels != -100) & (labels.roll(-1, 1) != -100)
            caption[:, -1] = False
            weights = caption.float() / caption.sum(1, keepdim=True).clamp(min=1)
            targets = (table(ids).float() * weights.unsqueeze(-1)).sum(1)  # (rows, hidden)
            values = {k: v.to(device) for k, v in batch["modality_inputs"][modality].items()}
            model.get_modality_features(modality, **values)  # type: ignore[operator]
            moments.update(inputs.pop(), targets)
    finally:
        handle.remove()
    weight, bias = moments.solve(ridge)
    copies = last.out_features // len(bias)
    last.weight.copy_(weight.repeat(copies, 1))
    last.bias.copy_(bias.repeat(copies))
    return moments.explained(weight)
