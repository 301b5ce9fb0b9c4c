"""Contrastive losses over paired or tupled embeddings, and their temperature."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_modalbridge.functional.geometry import normalize_rows

__all__ = [
    "alignment_loss",
    "clip_loss",
    "cwcl_loss",
    "gram_loss",
    "gram_volume",
    "info_nce_loss",
    "inverse_softplus",
    "scheduled_temperature",
    "softplus_temperature",
    "symile_loss",
    "uniformity_alignment_loss",
    "uniformity_loss",
]


def clip_loss(image: Tensor, text: Tensor, logit_scale: Tensor | float) -> Tensor:
    """Compute the symmetric contrastive loss of CLIP (arXiv 2103.00020, figure 3).

    Args:
        image: `(n, dim)`; row i belongs to row i of `text`. Rows are normalised here.
        text: `(n, dim)`.
        logit_scale: Factor of the cosines (100 for a trained CLIP), not its logarithm.

    Returns:
        Scalar: the mean of the cross-entropies over rows and over columns.

    Raises:
        ValueError: If the shapes differ.
    """
    _check_pairs(image, text)
    logits = logit_scale * normalize_rows(image) @ normalize_rows(text).T  # (n, n)
    own = torch.arange(len(logits), device=logits.device)
    return 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own))


def info_nce_loss(
    a: Tensor,
    b: Tensor,
    temperature: Tensor | float = 0.07,
    *,
    all_a: Tensor | None = None,
    all_b: Tensor | None = None,
    offset: int = 0,
) -> Tensor:
    """Compute symmetric InfoNCE with negatives that may be gathered from other processes.

    `L = -(1/2n) sum_i [log softmax_j(cos(a_i, b_j) / t)_own(i) + log softmax_j(cos(b_i, a_j) / t)_own(i)]`, the softmax
    over all gathered rows (arXiv 2103.00020; arXiv 2605.21059, section 4.2). Averaged over processes of equal batches
    it is the loss of the joint batch, and so is its gradient if the gathered rows carry theirs.

    Args:
        a: `(n, dim)`; row i belongs to row i of `b`. Rows are normalised here.
        b: `(n, dim)`.
        temperature: Divides the cosines.
        all_a: `(m, dim)` rows of all processes, those of this one included; None takes `a`.
        all_b: `(m, dim)`, likewise.
        offset: Where this process's rows begin in the gathered ones.

    Returns:
        Scalar.

    Raises:
        ValueError: If the shapes differ, or the gathered rows do not hold this process's.
    """
    _check_pairs(a, b)
    all_a, all_b = (a if all_a is None else all_a), (b if all_b is None else all_b)
    if all_a.shape != all_b.shape or not 0 <= offset <= len(all_a) - len(a):
        raise ValueError(
            f"gathered rows have shapes {tuple(all_a.shape)} and {tuple(all_b.shape)}, and this process's {len(a)} "
            f"rows begin at {offset}: gather both sides in the same order, and pass where one's own rows begin."
        )
    own = torch.arange(len(a), device=a.device) + offset
    a, b, all_a, all_b = (normalize_rows(x) for x in (a, b, all_a, all_b))
    return 0.5 * (F.cross_entropy(a @ all_b.T / temperature, own) + F.cross_entropy(b @ all_a.T / temperature, own))


def cwcl_loss(frozen: Tensor, trained: Tensor, reference: Tensor, temperature: Tensor | float = 0.07) -> Tensor:
    """Compute continuously weighted contrastive learning (arXiv 2309.14580, section 3).

    Every row counts as a match to the degree that the frozen side says: `w_ij = cos(p_i, p_j) / 2 + 1/2`,
    `L = -(1/n) sum_i (1 / sum_j w_ij) sum_j w_ij log softmax_j(cos(f_i, t_j) / temperature)`; from the trained to the
    frozen side the plain contrastive loss. The two directions are averaged.

    Args:
        frozen: `(n, dim)` embeddings of the modality that is known, in the shared space.
        trained: `(n, dim)` of the other; row i belongs to row i.
        reference: `(n, any)` embeddings p of the known modality alone, whose cosines weigh. No gradient flows to them.
        temperature: Divides the cosines.

    Returns:
        Scalar.

    Raises:
        ValueError: If the shapes differ.
    """
    _check_pairs(frozen, trained)
    if len(reference) != len(frozen):
        raise ValueError(f"got {len(reference)} reference rows for {len(frozen)} pairs: give one a pair.")
    unit = normalize_rows(reference.detach())
    weights = 0.5 * (unit @ unit.T) + 0.5  # (n, n)
    logits = normalize_rows(frozen) @ normalize_rows(trained).T / temperature
    weighted = -(weights * F.log_softmax(logits, dim=1)).sum(1) / weights.sum(1)
    own = torch.arange(len(logits), device=logits.device)
    return 0.5 * (weighted.mean() + F.cross_entropy(logits.T, own))


def gram_volume(anchor: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Compute the volumes that unit vectors of several modalities span (GRAM, arXiv 2412.11959, section 3).

    `V_ij = sqrt(|det G|)`, `G` the Gram matrix of `anchor_i` and of row j of each other modality: 0 where they agree.

    Args:
        anchor: `(n, dim)`. Rows are normalised here.
        others: One or more of `(m, dim)`; row j of all of them belongs together.

    Returns:
        `(n, m)`.
    """
    a = normalize_rows(anchor)
    rest = [normalize_rows(x) for x in others]
    n, m, k = len(a), len(rest[0]), len(rest) + 1
    gram = torch.empty(n, m, k, k, dtype=a.dtype, device=a.device)
    gram[..., 0, 0] = 1
    for i, x in enumerate(rest, start=1):
        gram[..., 0, i] = gram[..., i, 0] = a @ x.T
        for j, y in enumerate(rest, start=1):
            gram[..., i, j] = (x * y).sum(1)
    # the root's slope is infinite at 0, where a pair agrees
    return (torch.linalg.det(gram).abs() + torch.finfo(a.dtype).eps).sqrt()


def gram_loss(
    anchor: Tensor, others: Sequence[Tensor], temperature: Tensor | float = 0.07, label_smoothing: float = 0.1
) -> Tensor:
    """Compute GRAM's contrastive loss: small volumes for tuples that belong together (arXiv 2412.11959).

    Cross-entropies of `-V_ij / temperature` over rows and over columns, averaged. The matching loss that the paper
    adds is another network's and not part of it.

    Args:
        anchor: `(n, dim)`, text in the paper; row i belongs to row i of the others.
        others: One or more of `(n, dim)`.
        temperature: Divides the volumes.
        label_smoothing: Of both cross-entropies.

    Returns:
        Scalar.

    Raises:
        ValueError: If there are no others or the shapes differ.
    """
    _check_tuple([anchor, *others])
    logits = -gram_volume(anchor, others) / temperature
    own = torch.arange(len(logits), device=logits.device)
    return 0.5 * (
        F.cross_entropy(logits, own, label_smoothing=label_smoothing)
        + F.cross_entropy(logits.T, own, label_smoothing=label_smoothing)
    )


def symile_loss(modalities: Sequence[Tensor], logit_scale: Tensor | float = 1.0, *, all_pairs: bool = True) -> Tensor:
    """Compute Symile: contrast of multilinear inner products (arXiv 2411.01053, section 3).

    `MIP(x, y, z) = sum_d x_d y_d z_d`, of any number of modalities. For each anchor modality, cross-entropy of the true
    tuple among negatives, averaged over anchors. Rows are taken as they are given.

    Args:
        modalities: Two or more of `(n, dim)`; row i of all belongs together.
        logit_scale: Factor of the products, not its logarithm.
        all_pairs: Negatives of an anchor row are all `n^(k-1) - 1` other combinations of the other modalities' rows
            (the paper's O(n^2) for three); False takes those `n - 1` in which each other modality is shifted by its own
            step (the O(n) form, shifted and not shuffled: no random numbers).

    Returns:
        Scalar.

    Raises:
        ValueError: If there are fewer than two modalities or the shapes differ.
    """
    _check_tuple(modalities)
    n = len(modalities[0])
    place = torch.arange(n, device=modalities[0].device)
    losses = []
    for anchor in range(len(modalities)):
        rest = [x for i, x in enumerate(modalities) if i != anchor]
        if all_pairs:
            product, own = rest[0], place  # (n, dim), rows in the order of all combinations
            for x in rest[1:]:
                product = (product[:, None] * x[None]).flatten(0, 1)
                own = own * n + place
            logits = modalities[anchor] @ product.T
        else:
            # column j of row i holds rows i + j, i + 2j, ... of the others: the true tuple in column 0
            steps = (place[:, None] + place[None]) % n
            product = rest[0][steps]  # (n, n, dim)
            for order, x in enumerate(rest[1:], start=2):
                product = product * x[(place[:, None] + order * place[None]) % n]
            logits, own = (modalities[anchor][:, None] * product).sum(-1), torch.zeros_like(place)
        losses.append(F.cross_entropy(logit_scale * logits, own))
    return torch.stack(losses).mean()


def uniformity_loss(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Compute the uniformity term `log((1/n) sum_jk exp(-2 ||x_j - x_k||^2))` (arXiv 2405.18570, section 4).

    Args:
        x: `(n, dim)`. Rows are normalised here.
        y: Another modality's `(n, dim)`: then over all pairs that do not belong together, `j != k`. None takes all
            pairs of `x`.

    Returns:
        Scalar.
    """
    a = normalize_rows(x)
    b = a if y is None else normalize_rows(y)
    kernel = (4 * (a @ b.T) - 4).exp()  # ||a - b||^2 = 2 - 2 cos for unit rows
    if y is not None:
        kernel = kernel - torch.diag(kernel.diagonal())
    return (kernel.sum() / len(a)).log()


def alignment_loss(a: Tensor, b: Tensor) -> Tensor:
    """Compute the mean squared distance of unit rows that belong together (arXiv 2405.18570, section 4)."""
    _check_pairs(a, b)
    return (normalize_rows(a) - normalize_rows(b)).square().sum(1).mean()


def uniformity_alignment_loss(
    a: Tensor, b: Tensor, temperature: Tensor | float = 0.01, *, cross: bool = False
) -> Tensor:
    """Compute `L_CLIP + L_U + L_A`, with `cross` also `L_XU` (arXiv 2405.18570, section 4).

    Args:
        a: `(n, dim)`; row i belongs to row i of `b`. Rows are normalised here.
        b: `(n, dim)`.
        temperature: Of the contrastive term.
        cross: Add the uniformity across modalities.

    Returns:
        Scalar.
    """
    loss = info_nce_loss(a, b, temperature) + alignment_loss(a, b)
    loss = loss + 0.5 * (uniformity_loss(a) + uniformity_loss(b))
    return loss + uniformity_loss(a, b) if cross else loss


def scheduled_temperature(progress: float, start: float = 0.01, end: float = 0.05) -> float:
    """Compute a temperature that grows linearly over a run (arXiv 2412.07909, section 5).

    Args:
        progress: Share of the run that is done; beyond 0 and 1 it stays.
        start: At the beginning.
        end: At the end.

    Returns:
        The temperature.
    """
    return start + (end - start) * min(max(progress, 0.0), 1.0)


def softplus_temperature(nu: Tensor) -> Tensor:
    """Compute a learned temperature `1 / log(1 + exp(nu))` (arXiv 2412.07909, section 5), at least 0.01.

    Args:
        nu: The free parameter.

    Returns:
        Positive temperature of the same shape.
    """
    return 1 / F.softplus(nu).clamp(max=100.0)


def inverse_softplus(temperature: float) -> float:
    """Give the `nu` at which `softplus_temperature` is a given temperature."""
    value = 1 / temperature
    return value + math.log(-math.expm1(-value))


def _check_pairs(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(
            f"contrastive pairs need two tensors of one shape (n, dim), got {tuple(a.shape)} and "
            f"{tuple(b.shape)}. Row i of one must belong to row i of the other."
        )


def _check_tuple(modalities: Sequence[Tensor]) -> None:
    shapes = [tuple(x.shape) for x in modalities]
    if len(shapes) < 2 or len(set(shapes)) > 1 or len(shapes[0]) != 2:
        raise ValueError(
            f"a loss over tuples needs two or more tensors of one shape (n, dim), got {shapes}. Row i of all must "
            "belong together."
        )
