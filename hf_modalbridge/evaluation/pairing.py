"""Find which rows of two stores belong together; the function lives with the stores."""

from __future__ import annotations

from hf_modalbridge.store.pairing import match_pairs

__all__ = ["match_pairs"]
