"""The demo's real models, where `make models` has put them into the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hf_modalbridge import demo


def cached(name: str, make: Callable[[], Path]) -> Path:
    if not any(demo.cache_dir().glob(f"{name}-*/config.json")):
        pytest.skip(f"{name} is not in the cache; run `make models`")
    return make()


@pytest.fixture(scope="session")
def image_tower() -> Path:
    return cached("efficientnet-lite0", demo.image_tower)


@pytest.fixture(scope="session")
def sentence_tower() -> Path:
    return cached("all-minilm-l6-v2", demo.sentence_tower)


@pytest.fixture(scope="session")
def dual_encoder() -> Path:
    return cached("dual-encoder", demo.dual_encoder)


@pytest.fixture(scope="session")
def language_model() -> Path:
    return cached("smollm2-135m-instruct", demo.language_model)
