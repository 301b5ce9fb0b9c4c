"""The modality gap as an `evaluate` measurement, a thin wrapper of `hf_modalbridge.GapReport`."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
How far two sides of a contrastive embedding space (such as text and images of one dual encoder) are apart: centroid
gap with its sampling floor, covariances and spectra, angles, mixing of neighbourhoods, linear separability and, for
paired rows, retrieval and the paired residual. With corrected source rows, also what the correction changed.
"""

_INPUTS = """
Args:
    source (list of list of float): Embeddings of the source side, one row an item. Rows are normalised.
    target (list of list of float): Embeddings of the target modality, as many rows (a table has one length; for
        sides that differ in number use `hf_modalbridge.GapReport`).
    paired (bool): Whether row i of the source belongs to row i of the target. Default: False.
    corrected (dict): By name, corrected source rows (array of the source's shape). Default: none.
    sample, bootstrap, k, q, seed: As in `hf_modalbridge.GapReport.compute`.
Returns:
    dict: Numbers of the source by measure ("gap", "gap_floor", "mixing_z", ...), "intervals" with their 95 % bootstrap
    intervals, "target" with what the target has by itself, "corrected" with the numbers of each corrected set,
    "recommendation" and "warnings".
Examples:
    >>> gap = evaluate.load("spaces/modality_gap")
    >>> numbers = gap.compute(source=[[1.0, 0.0], [0.8, 0.6]], target=[[0.0, 1.0], [-0.6, 0.8]], bootstrap=0, k=1)
    >>> round(numbers["gap"], 3)
    1.342
"""

_CITATION = (
    "arXiv:2602.07026 (ReAlign), arXiv:2605.07825 (AnisoAlign), arXiv:2405.18570 and arXiv:2005.10242 (uniformity)"
)


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class ModalityGap(evaluate.Measurement):
    """Distance of two sides of a contrastive embedding space."""

    def _info(self) -> evaluate.MeasurementInfo:
        row = datasets.Sequence(datasets.Value("float32"))
        return evaluate.MeasurementInfo(
            module_type="measurement",
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"source": row, "target": row}),
            reference_urls=["https://arxiv.org/abs/2602.07026", "https://arxiv.org/abs/2605.07825"],
        )

    def _compute(
        self,
        source: Any,
        target: Any,
        paired: bool = False,
        corrected: dict[str, Any] | None = None,
        sample: int = 10_000,
        bootstrap: int = 200,
        k: int = 20,
        q: int | None = None,
        seed: int = 0,
    ) -> dict[str, Any]:
        from hf_modalbridge import GapReport

        report = GapReport.compute(
            np.asarray(source, dtype=np.float32),
            np.asarray(target, dtype=np.float32),
            {name: np.asarray(rows, dtype=np.float32) for name, rows in (corrected or {}).items()},
            pairs=paired,
            sample=sample,
            bootstrap=bootstrap,
            k=k,
            q=q,
            seed=seed,
        ).to_dict()
        sets = report["sets"]
        found = sets.pop("source")
        return {name: estimate["value"] for name, estimate in found.items()} | {
            "intervals": {name: [e["low"], e["high"]] for name, e in found.items() if e["low"] is not None},
            "target": report["target"],
            "corrected": sets,
            "recommendation": report["recommendation"],
            "warnings": report["warnings"],
        }
