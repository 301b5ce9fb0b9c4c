"""The pairwise route without one of its parts, as arXiv 2605.21059 takes them away."""

from __future__ import annotations

from typing import Any

ABLATIONS = {
    "full": "pairwise, full",
    "no_stage1": "without stage I",
    "no_stage2": "without stage II",
    "no_reconstruction": "without reconstruction (own and cross)",
    "no_contrast": "without contrast",
    "full_masks": "full masks instead of partial ones",
}
PAPER_ABLATIONS = {"full": 70.5, "no_stage1": 47.3, "no_stage2": 63.6, "no_reconstruction": 4.1, "no_contrast": 54.7}
"""ModelNet40 accuracy of the paper's ablations."""


def leave_out(values: dict[str, Any], row: str) -> None:
    """Change the values of a `PairwiseRecipe` in place.

    Args:
        values: With `pairs`, `modalities`, `stage1` and `stage2`.
        row: One of `ABLATIONS`; any other name leaves out nothing.
    """
    for pair in values["pairs"]:
        if row == "no_contrast":
            pair["contrast"] = 0.0
        if row == "no_reconstruction":  # the codes are compared only; decoders stay as they start until stage II
            pair["cross"] = pair["backward"] = 0.0
        if row == "full_masks":
            pair["active"] = None
    if row == "no_reconstruction":
        for modality in (values["text"], *values["modalities"].values()):
            modality["reconstruction"] = 0.0
    values["stage1"]["skip"] = row == "no_stage1"
    values["stage2"]["skip"] = row == "no_stage2"
