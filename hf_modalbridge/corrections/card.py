"""The README that goes with a saved correction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hf_modalbridge.fingerprint import describe_fingerprint

__all__ = ["PAPERS", "correction_card"]

PAPERS = {
    "mean_shift": "step 1 of ReAlign, [arXiv 2602.07026](https://arxiv.org/abs/2602.07026)",
    "c3": "C3 with own-mean removal, [arXiv 2401.08567](https://arxiv.org/abs/2401.08567)",
    "c3_shift": "C3 as a shift onto the target's mean, [arXiv 2605.07825](https://arxiv.org/abs/2605.07825), "
    "appendix B.3",
    "gr": "GR-CLIP, own-mean removal by role, [arXiv 2507.19054](https://arxiv.org/abs/2507.19054)",
    "block_covariance": "block-wise covariance matching, the baseline of "
    "[arXiv 2602.07026](https://arxiv.org/abs/2602.07026), table 3",
    "procrustes": "orthogonal Procrustes (Schönemann 1966) on centred pairs",
    "subspace_cca": "subspace CCA and an affine map, after [arXiv 2503.05283](https://arxiv.org/abs/2503.05283)",
    "diffusion_link": "Diffusion-Link, after [arXiv 2510.11330](https://arxiv.org/abs/2510.11330)",
    "aniso_align": "AnisoAlign, [arXiv 2605.07825](https://arxiv.org/abs/2605.07825)",
    "realign": "ReAlign, [arXiv 2602.07026](https://arxiv.org/abs/2602.07026)",
}


def correction_card(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Write the card of a correction from its config and statistics.

    Args:
        config: From `to_config`.
        tensors: Its buffers.

    Returns:
        Markdown with the Hub's metadata block.
    """
    gap = float(torch.linalg.vector_norm(tensors["source_mean"] - tensors["target_mean"]))
    kind = config["correction_type"]
    rows = "\n".join(
        f"| {side} | {describe_fingerprint(config[f'{side}_encoder'])} | {config[f'{side}_rows']:,} | "
        f"{float(torch.linalg.vector_norm(tensors[f'{side}_mean'])):.4f} | "
        f"{float(tensors[f'{side}_trace']):.4f} |"
        for side in ("source", "target")
    )
    return f"""---
library_name: hf_modalbridge
tags: [modality-gap, correction, {kind}]
---

# A `{kind}` correction of the modality gap, width {config["dim"]}

Method: {PAPERS.get(kind, "none; embeddings pass through")}. It moves source embeddings to the target's side
of a contrastive space; centroid gap before: {gap:.4f}.

| side | encoder | rows of the fit | length of the mean | trace of the covariance |
|---|---|---|---|---|
{rows}

```python
from hf_modalbridge import AutoCorrection

correction = AutoCorrection.from_pretrained("this repo or directory")
surrogate = correction(text_embeddings)  # (n, {config["dim"]}) -> (n, {config["dim"]})
```

The statistics are float64 in `correction.safetensors`, and weights of networks float32. They describe
these two encoders and the domain of the fit; embeddings of another encoder are refused. The licences of the
encoder and of the data of the fit apply.
"""
