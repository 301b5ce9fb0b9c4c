r"""Fit a correction on two embedding stores: text (source) and the modality (target).

Needs `pip install hf-modalbridge`. Tested as:

    python recipes/fit_correction.py type=realign source=stores/text target=stores/image \
        output=corrections/realign

Types are those of `AutoCorrection.types()`, described in docs/corrections.md. Most need no pairs; `procrustes`,
`subspace_cca` and `diffusion_link` do, and join the stores on their ids or on the column `pairs=COLUMN`.
`hyper.NAME=VALUE` sets a hyper-parameter of the type, such as `hyper.noise_norm=0.5` of C3. The keys can also
stand in a YAML file given as `--config FILE`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_modalbridge import AutoCorrection, EmbeddingStore
from hf_modalbridge.training import load_config


@dataclass
class FitConfig:
    """What to fit, on what, and where to."""

    source: str
    target: str
    output: str
    type: str = "realign"
    seed: int = 0
    pairs: str | None = None
    hyper: dict[str, Any] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="YAML file with the same keys")
    arguments, overrides = parser.parse_known_args()
    config = load_config(FitConfig, arguments.config, overrides)
    if (Path(config.output) / "config.json").exists():
        raise FileExistsError(f"{config.output} already holds a correction: remove it, or choose another output.")
    source, target = EmbeddingStore.open(config.source), EmbeddingStore.open(config.target)
    kind = AutoCorrection.from_type(config.type)
    pairs = {} if config.pairs is None else {"pairs": config.pairs}
    correction = kind.fit(source, target, seed=config.seed, progress=True, **pairs, **config.hyper)
    correction.save_pretrained(config.output)
    rows = f"{correction.source_rows} and {correction.target_rows} rows"
    print(f"{config.type} fitted on {rows}, saved to {config.output}")


if __name__ == "__main__":
    main()
