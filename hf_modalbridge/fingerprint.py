"""Compare encoder fingerprints: the record of which encoder an embedding came from.

A fingerprint is a plain dict, so that it goes into any manifest or config:
`id`, `revision`, `modality`, `dim`, `normalized`, `probe` (numbers the encoder gives for a fixed input).
`hf_modalbridge.encoders.encoder_fingerprint` makes one; this module only compares and names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import hypot
from typing import Any

__all__ = ["PROBE_TOLERANCE", "describe_fingerprint", "fingerprints_match"]

PROBE_TOLERANCE = 0.1
"""Largest distance of two probes of one encoder, relative to the longer one: a model in bfloat16 is about 0.03 away."""


def describe_fingerprint(fingerprint: Mapping[str, Any] | None) -> str:
    """Name an encoder for a message.

    Args:
        fingerprint: A fingerprint, or None for embeddings whose encoder was not recorded.

    Returns:
        Such as "openai/clip-vit-large-patch14@main (text, 768-d)".
    """
    if not fingerprint:
        return "an unrecorded encoder"
    name = str(fingerprint.get("id") or "an unnamed encoder")
    revision = fingerprint.get("revision")
    name = f"{name}@{revision}" if revision else name
    return f"{name} ({fingerprint.get('modality') or 'unknown modality'}, {fingerprint.get('dim')}-d)"


def fingerprints_match(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> bool:
    """Tell whether two fingerprints are of the same encoder and modality.

    The probes decide where both sides have one: the same weights match under another path, at another
    precision or on another device, and other weights under the same name do not. They are compared with a
    tolerance, not by a hash, because a hash of rounded numbers flips at the rounding boundary. Without two
    probes, id and revision decide. An absent fingerprint matches anything: nothing is known against it.

    Args:
        a: A fingerprint or None.
        b: A fingerprint or None.

    Returns:
        Whether embeddings of the two may be used together.
    """
    if not a or not b:
        return True
    if a.get("dim") != b.get("dim") or a.get("modality") != b.get("modality"):
        return False
    if a.get("normalized", True) != b.get("normalized", True):
        return False
    probe_a, probe_b = a.get("probe"), b.get("probe")
    if probe_a and probe_b:
        if len(probe_a) != len(probe_b):
            return False
        distance = hypot(*(float(x) - float(y) for x, y in zip(probe_a, probe_b, strict=True)))
        return distance <= PROBE_TOLERANCE * max(hypot(*probe_a), hypot(*probe_b), 1e-6)
    return a.get("id") == b.get("id") and a.get("revision") == b.get("revision")
