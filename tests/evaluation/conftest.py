"""A bridge that listens to what it is given."""

from __future__ import annotations

import pytest
import torch
from tiny_world import DIM, build_language_model, build_tokenizer

from hf_modalbridge import ModalBridgeForConditionalGeneration


@pytest.fixture(scope="module")
def bridge():
    tokenizer = build_tokenizer()
    fields = {"embedding_dim": DIM, "num_tokens": 2, "constant_prompt": 1, "placeholder_token": "<image>"}
    model, processor = ModalBridgeForConditionalGeneration.from_components(
        language_model=build_language_model(len(tokenizer)), tokenizer=tokenizer, modalities={"image": fields}
    )
    with torch.no_grad():  # loud enough for the items to matter
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    return model, processor
