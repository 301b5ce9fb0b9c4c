"""AnisoAlign inside a model: its networks keep their precision through casts, saving and loading."""

from __future__ import annotations

import numpy as np
import torch
from tiny_bridges import make_lm, make_tokenizer

from hf_modalbridge import AnisoAlign, AutoCorrection, ModalBridgeForConditionalGeneration

SMALL = {"rank": 4, "score_width": 8, "refine_width": 8, "score_steps": 4, "refine_steps": 20, "eval_every": 5}


def test_in_a_bfloat16_model_it_is_bit_equal(tmp_path):
    rng = np.random.default_rng(0)
    y, x = rng.normal(size=(80, 16)) + 1, rng.normal(size=(80, 16)) - 1
    correction = AnisoAlign.fit(y, x, **SMALL)
    rows = torch.from_numpy(y).float()
    expected = correction(rows)
    assert (expected - AnisoAlign.fit(y, x, **SMALL | {"refine_steps": 0})(rows)).abs().max() > 1e-4
    dtypes = {name: value.dtype for name, value in correction.state_dict().items()}
    built = ModalBridgeForConditionalGeneration.from_components(
        language_model=make_lm(), tokenizer=make_tokenizer(), modalities={"image": {"correction": correction}}
    )
    model = built[0] if isinstance(built, tuple) else built
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    loaded = ModalBridgeForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert loaded.get_input_embeddings().weight.dtype == torch.bfloat16
    found = [AutoCorrection.from_pretrained(tmp_path), *(m.model.corrections["image"] for m in (model, loaded))]
    for inside in found:
        assert {name: value.dtype for name, value in inside.state_dict().items()} == dtypes
        assert torch.equal(inside(rows), expected)
