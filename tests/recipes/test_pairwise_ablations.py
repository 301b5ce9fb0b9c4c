"""What an ablation takes away, and nothing else."""

from __future__ import annotations

import pytest
from pairwise_ablations import ABLATIONS, PAPER_ABLATIONS, leave_out


def values():
    return {
        "text": {"num_tokens": 8},
        "modalities": {"point": {"num_tokens": 1}, "image": {"num_tokens": 1, "reconstruction": 0.1}},
        "pairs": [{"source": "point", "target": "text", "active": 50}, {"source": "image", "target": "point"}],
        "stage1": {},
        "stage2": {},
    }


WITHOUT = {
    "full": {},
    "unpaired": {},
    "no_stage1": {"stage1": {"skip": True}},
    "no_stage2": {"stage2": {"skip": True}},
    "no_contrast": {"pairs": {"contrast": 0.0}},
    "full_masks": {"pairs": {"active": None}},
    "no_reconstruction": {"pairs": {"cross": 0.0, "backward": 0.0}, "modalities": {"reconstruction": 0.0}},
}


@pytest.mark.parametrize("row", WITHOUT)
def test_only_the_named_part_goes(row):
    changed = values()
    leave_out(changed, row)
    expected, without = values(), WITHOUT[row]
    for stage in ("stage1", "stage2"):
        expected[stage] = {"skip": False} | without.get(stage, {})
    for pair in expected["pairs"]:
        pair |= without.get("pairs", {})
    for modality in (expected["text"], *expected["modalities"].values()):
        modality |= without.get("modalities", {})
    assert changed == expected


def test_every_ablation_is_checked_here():
    assert ABLATIONS.keys() <= WITHOUT.keys()
    assert PAPER_ABLATIONS.keys() <= ABLATIONS.keys()
