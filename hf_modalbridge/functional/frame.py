"""The fixed frame of AnisoAlign (arXiv 2605.07825, section 4.1): where the gap's residual is large."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["orthogonal_complement", "pair_columns", "residual_frame"]


def residual_frame(
    source_covariance: Tensor, target_covariance: Tensor, rank: int, ridge: float = 1e-4
) -> tuple[Tensor, Tensor]:
    """Compute Q_U, the top eigenvectors of Sigma = Sigma_t + Sigma_i + lambda I, by eigh in float64.

    The sum of both covariances stands in for that of the paired residual, which would need pairs. The paper
    gives no lambda; here it is `ridge` times the mean eigenvalue of the sum.

    Args:
        source_covariance: Sigma_t `(dim, dim)`.
        target_covariance: Sigma_i `(dim, dim)`.
        rank: r, the number of eigenvectors.
        ridge: lambda = ridge * tr(Sigma_t + Sigma_i) / dim; it moves no eigenvector.

    Returns:
        Q_U `(dim, rank)` float64, columns by falling eigenvalue, each with its largest entry positive; and all
        eigenvalues `(dim,)`, falling.

    Raises:
        ValueError: If `rank` is not within 0..dim.
    """
    total = (source_covariance + target_covariance).double()
    dim = total.shape[0]
    if not 0 <= rank <= dim:
        raise ValueError(f"rank of the frame must be within 0..{dim}, the width of the embeddings; got {rank}.")
    sigma = (total + total.T) / 2 + ridge * total.trace() / dim * torch.eye(dim, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(sigma)
    vectors = vectors.flip(1)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return (vectors * torch.where(largest < 0, -1.0, 1.0))[:, :rank].contiguous(), values.flip(0)


def pair_columns(frame: Tensor) -> Tensor:
    """Order the columns 0, 2, 4, ..., 1, 3, 5, ..., so that block k is columns k and k + m.

    Neighbouring eigenvectors make a block (R = I of section 4.2). All functions here take the first
    coordinates of all blocks first, then all second ones.

    Args:
        frame: `(dim, 2 m)`.

    Returns:
        `(dim, 2 m)`.
    """
    return torch.cat([frame[:, 0::2], frame[:, 1::2]], dim=1)


def orthogonal_complement(rows: Tensor, frame: Tensor) -> Tensor:
    """Take the frame's part out of rows: z_V = z - Q_U Q_U^T z (section 4.1).

    Args:
        rows: `(..., dim)`.
        frame: Q_U `(dim, r)`, orthonormal columns.

    Returns:
        `(..., dim)`.
    """
    return rows - (rows @ frame) @ frame.T
