"""What a gap report recommends, and what it warns of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hf_modalbridge.corrections import Correction
from hf_modalbridge.evaluation.gap_measure import Gauge, Measured
from hf_modalbridge.evaluation.gap_rows import Rows
from hf_modalbridge.evaluation.gap_spectra import gather_moments
from hf_modalbridge.fingerprint import describe_fingerprint
from hf_modalbridge.functional.resampling import interval

__all__ = ["complexity", "recommend", "warn"]

FEW_ROWS = 100


def complexity(correction: Any) -> float:
    """Count the numbers that a correction stores, to prefer the simpler of two that do equally well.

    Args:
        correction: A correction, or rows that came from an unknown one.

    Returns:
        0 for no correction, infinity for rows.
    """
    if not isinstance(correction, Correction):
        return float("inf")
    if correction.correction_type == "none":
        return 0.0
    return float(sum(t.numel() for t in (*correction.buffers(), *correction.parameters())))


def recommend(measured: Mapping[str, Measured], simplicity: Mapping[str, float], paired: bool) -> str:
    """Choose among the source as it is and its corrections, and say why.

    With pairs the score is the mean reciprocal rank of a row's own target among all targets and the other rows of
    its own side: it is high only if the gap is closed and the meaning is kept. Without pairs it is the harmonic
    mean of mixing, (M^Z + M^X) / 2 but at most 1, and of the kept neighbourhoods, Omega_k. Sets whose score differs
    from the best by less than chance (the 95 % interval of the difference on the same resamples includes 0) count
    as equal, and of those the one that stores the fewest numbers is recommended.

    Args:
        measured: By name of the set, "source" among them.
        simplicity: `complexity` by name.
        paired: Whether pairs were measured.

    Returns:
        One sentence.
    """
    if len(measured) < 2:
        return "No correction was given, so there is nothing to choose; give one or more to compare."
    scores = {name: _score(m, paired) for name, m in measured.items()}
    best = max(scores, key=lambda name: scores[name][0])
    level = [name for name in scores if name == best or _ties(scores[best], scores[name])]
    chosen = min(level, key=lambda name: (simplicity[name], -scores[name][0]))
    what = "mixed-pool mean reciprocal rank" if paired else "balance of mixing and kept neighbourhoods"
    low, high = interval(scores[chosen][1]) if scores[chosen][1] is not None else (None, None)
    shown = f"{scores[chosen][0]:.3f}" + (f" ({low:.3f} to {high:.3f})" if low is not None else "")
    subject = "Leave the source as it is" if chosen == "source" else f"Use {chosen}"
    others = ", ".join(name for name in level if name != chosen)
    if chosen == best:
        reason = f"its {what}, {shown}, is the best of {len(scores)}"
        reason += f"; {others} cannot be told from it and is no simpler" if others else ", beyond chance"
    else:
        reason = (
            f"its {what}, {shown}, cannot be told from the best one's ({best}, {scores[best][0]:.3f}), and of all that "
            "are level it stores the fewest numbers"
        )
    return f"{subject}: {reason}."


def warn(
    gauge: Gauge,
    measured: Mapping[str, Measured],
    corrections: Mapping[str, Any],
    fitted_on: Sequence[Any] | None,
) -> list[str]:
    """Find what makes the numbers hard to trust.

    Args:
        gauge: What was measured.
        measured: By name of the set.
        corrections: What was given as corrected, by name.
        fitted_on: Source and target data that the corrections were fitted on, where known.

    Returns:
        One paragraph each.
    """
    source, target = gauge.source, gauge.target
    found = _warn_of_encoders(source, target)
    smaller = min(len(source), len(target))
    if smaller < FEW_ROWS:
        found.append(f"Only {smaller} rows on the smaller side: intervals are rough below some hundreds.")
    if smaller <= source.dim:
        found.append(
            f"There are {smaller:,} rows on the smaller side for {source.dim} dimensions: covariances have at most "
            "that rank, so G_Sigma, C_lambda, O_q and effective ranks say more about the sample than about the gap."
        )
    for name, m in measured.items():
        gap, floor = m.estimates["gap"].value, m.estimates["gap_floor"].value
        if gap < 2 * floor:
            found.append(
                f"The gap of {name}, {gap:.4f}, is at the sampling floor of {floor:.4f}: do not rank methods by "
                "it here."
            )
    if gauge.k < gauge.settings.k:
        found.append(f"Too few rows for {gauge.settings.k} neighbours; {gauge.k} were used.")
    for side, rows, moments in (
        ("source", source, gauge.source_moments),
        ("target", target, gauge.target_moments),
    ):
        if moments.not_unit or not rows.normalized:
            count = f"{moments.not_unit:,} of {len(rows):,} rows" if moments.not_unit else "rows"
            found.append(f"{count} of the {side} do not have length one; all measures are of their directions.")
        if moments.row_hashes is not None:
            repeated = len(rows) - len(moments.row_hashes.unique())
            if repeated:
                found.append(
                    f"{repeated:,} of {len(rows):,} rows of the {side} repeat another row: neighbours and retrieval "
                    "count ties, and intervals are too narrow."
                )
        if len(rows) > gauge.settings.pool:
            found.append(
                f"Neighbours of the {side} were looked for among {gauge.settings.pool:,} rows of {len(rows):,}."
            )
    return found + _warn_of_fitting_rows(gauge, corrections, fitted_on)


def _warn_of_encoders(source: Rows, target: Rows) -> list[str]:
    a, b = source.encoder, target.encoder
    if not a or not b or (a.get("id"), a.get("revision")) == (b.get("id"), b.get("revision")):
        return []
    return [
        f"Source and target are of different encoders, {describe_fingerprint(a)} and {describe_fingerprint(b)}: a gap "
        "between two spaces that were never aligned means nothing."
    ]


def _warn_of_fitting_rows(gauge: Gauge, corrections: Mapping[str, Any], fitted_on: Sequence[Any] | None) -> list[str]:
    """Tell where a correction has seen the rows that it is measured on."""
    found = []
    pairs = ", the pairs among them" if gauge.pairs is not None else ""
    for name, correction in corrections.items():
        if not isinstance(correction, Correction):
            continue
        same = [
            side
            for side, moments in (("source", gauge.source_moments), ("target", gauge.target_moments))
            if getattr(correction, f"{side}_rows") == moments.count
            and float((getattr(correction, f"{side}_mean").cpu() - moments.mean).norm()) < 1e-9
        ]
        if same:
            found.append(
                f"{name} was fitted on the very rows of the {' and '.join(same)} that it is measured on{pairs}: "
                "its numbers are too good. Measure on rows that the fit has not seen."
            )
    if fitted_on is None:
        return found
    for side, data, rows, moments in zip(
        ("source", "target"), fitted_on, (gauge.source, gauge.target), (gauge.source_moments, gauge.target_moments),
        strict=True,
    ):  # fmt: skip
        fit = Rows(data, f"fitting {side}")
        shared = 0
        if fit.ids is not None and rows.ids is not None:
            shared = len(set(fit.ids) & set(rows.ids))
        if not shared and moments.row_hashes is not None:
            hashes = gather_moments(fit, 0, inspect=True).row_hashes
            assert hashes is not None
            shared = int(torch.isin(moments.row_hashes, hashes).sum())
        if shared:
            found.append(
                f"{shared:,} of {len(rows):,} measured rows of the {side} are in the data that was fitted on{pairs}: "
                "the numbers are too good. Measure on rows that the fit has not seen."
            )
    return found


def _score(m: Measured, paired: bool) -> tuple[float, Tensor | None]:
    """Give the score of a set and its replicates."""
    if paired:
        return m.estimates["mixed_mrr"].value, m.replicates.get("mixed_mrr")
    mixing = min(1.0, (m.estimates["mixing_z"].value + m.estimates["mixing_x"].value) / 2)
    omega = m.estimates["omega"].value if "omega" in m.estimates else 1.0
    value = 2 * mixing * omega / max(mixing + omega, 1e-12)
    if "mixing" not in m.replicates:
        return value, None
    drawn, kept = m.replicates["mixing"].clamp_max(1.0), m.replicates["omega"]
    return value, 2 * drawn * kept / (drawn + kept).clamp_min(1e-12)


def _ties(best: tuple[float, Tensor | None], other: tuple[float, Tensor | None]) -> bool:
    """Tell whether the difference of two scores may be chance."""
    if best[1] is None or other[1] is None:
        return best[0] == other[0]
    return interval(best[1] - other[1])[0] <= 0
