"""What the measures of a gap report are called, what they range over and how they are read."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["METRICS", "SECTIONS", "Metric", "metric"]

SECTIONS = {
    "moments": "Means and covariances",
    "overlap": "Angles and neighbourhoods",
    "corrected": "What the correction changed",
    "pairs": "Pairs",
    "residual": "Paired residual",
}


@dataclass(frozen=True)
class Metric:
    """One measure.

    Attributes:
        name: Key in the numbers.
        label: Heading of its column.
        section: Table that it is in, a key of `SECTIONS`.
        reading: How it is read, in one line.
        digits: Decimals in tables.
        better: "low", "high", "one" (the nearer to 1) or "" (neither).
    """

    name: str
    label: str
    section: str
    reading: str
    digits: int = 3
    better: str = ""


METRICS: tuple[Metric, ...] = (
    Metric("gap", "gap G_mu", "moments", "distance of the means, 0 to 2; compare with the floor", 4, "low"),
    Metric("gap_floor", "floor", "moments", "gap that two samples of one distribution of these sizes show", 4),
    Metric("trace_ratio", "trace ratio", "moments", "total variance over the target's; 1 matches", 3, "one"),
    Metric("covariance_gap", "G_Sigma", "moments", "relative distance of the covariances; 0 matches", 3, "low"),
    Metric("spectrum_correlation", "C_lambda", "moments", "correlation of log eigenvalues; 1 matches", 3, "high"),
    Metric(
        "subspace_overlap", "O_q", "moments", "overlap of leading subspaces, q / dim by chance, 1 matches", 3, "high"
    ),
    Metric("exponent", "exponent", "moments", "power law of the spectrum; compare with the target's", 2),
    Metric(
        "effective_rank",
        "eff. rank",
        "moments",
        "exp of the spectrum's entropy, 1 to dim; compare with the target's",
        1,
    ),
    Metric("participation_ratio", "part. ratio", "moments", "(sum)^2 / sum of squares of the spectrum, 1 to dim", 1),
    Metric(
        "angular_js", "angular JS", "overlap", "divergence of pairwise-cosine densities in bits, 0 matches", 4, "low"
    ),
    Metric(
        "mixing_rate",
        "mixing rate",
        "overlap",
        "share of neighbours from the other side; about 0.5 when mixed",
        3,
        "high",
    ),
    Metric("mixing_z", "M^Z", "overlap", "do rows enter the target's support: 0 no, 1 as shuffled", 3, "high"),
    Metric("mixing_x", "M^X", "overlap", "is the target covered: 0 no, 1 as shuffled", 3, "high"),
    Metric(
        "separability", "separability", "overlap", "held-out accuracy of a linear classifier; 0.5 is mixed", 3, "low"
    ),
    Metric(
        "uniformity",
        "uniformity",
        "overlap",
        "log mean exp(-2 distance^2); lower is more even; compare with the target's",
        3,
    ),
    Metric("phi", "Phi", "corrected", "mean cosine with the row before the correction", 3, "high"),
    Metric("phi_ceiling", "its ceiling", "corrected", "largest Phi that these two means allow", 3),
    Metric("phi_ceiling_at_closed_gap", "ceiling, gap closed", "corrected", "1 - G_mu^2 / 2 of the uncorrected gap", 3),
    Metric("psi", "Psi", "corrected", "correlation of pairwise cosines before and after", 3, "high"),
    Metric("omega", "Omega_k", "corrected", "share of the k nearest neighbours that is kept", 3, "high"),
    Metric("pair_cosine", "pair cosine", "pairs", "mean cosine of a row and its own target", 3, "high"),
    Metric("alignment", "alignment", "pairs", "mean squared distance of pairs, 2 - 2 pair cosine", 3, "low"),
    Metric("cross_uniformity", "cross uniformity", "pairs", "log mean exp(-2 distance^2) to other items' targets", 3),
    Metric("mrr", "MRR", "pairs", "mean reciprocal rank of the own target among the targets", 3, "high"),
    Metric("mixed_mrr", "mixed MRR", "pairs", "the same among targets and the other queries", 3, "high"),
    Metric("residual_trace", "D_center", "residual", "mean squared distance of pairs without the means", 3, "low"),
    Metric("anisotropy", "A_r", "residual", "largest eigenvalue of the residual over the mean one, 1 to dim", 1),
    Metric("residual_energy", "E(q)", "residual", "share of the residual in its q leading directions", 3),
    Metric("residual_dimensions", "d_eff / dim", "residual", "effective dimensions of the residual over dim", 3),
    Metric(
        "frame_coverage",
        "eta_U",
        "residual",
        "share of the residual in the frame of source and target; r / dim by chance",
        3,
    ),
)

_BY_NAME = {m.name: m for m in METRICS}


def metric(name: str) -> Metric:
    """Find a measure by its key; recalls at any cut-off are made here.

    Args:
        name: Such as "gap" or "mixed_recall@5".

    Returns:
        The measure.

    Raises:
        KeyError: If there is none of this name.
    """
    if name in _BY_NAME:
        return _BY_NAME[name]
    prefix, _, cut = name.partition("recall@")
    if prefix not in ("", "mixed_") or not cut.isdigit():
        raise KeyError(f"there is no measure {name!r}; there are {', '.join(_BY_NAME)}, recall@K and mixed_recall@K.")
    where = "targets and the other queries" if prefix else "the targets"
    label = f"mixed R@{cut}" if prefix else f"R@{cut}"
    return Metric(
        name, label, "pairs", f"share of queries with the own target among the {cut} nearest of {where}", 3, "high"
    )
