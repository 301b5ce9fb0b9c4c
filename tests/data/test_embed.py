"""Embedding items into a store: right rows in the right order, resumable, and clear about bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_encoders import make_dual_encoder, make_picture

from hf_modalbridge import EmbeddingStore
from hf_modalbridge.data.embed import embed_items
from hf_modalbridge.encoders import encode, fingerprints_match, prepare_items

TEXTS = [
    "cat",
    "a red bicycle beside the wall",
    "two of them",
    "dog on the mat",
    "the wall",
    "a cat on a red mat",
]


@pytest.fixture(scope="module")
def encoder():
    return make_dual_encoder()


def texts(count=6):
    return [{"id": f"t{i}", "text": TEXTS[i % 6], "length": len(TEXTS[i % 6])} for i in range(count)]


def alone(encoder, modality, item):
    model, processor = encoder
    with torch.no_grad():
        return encode(model, modality, prepare_items(processor, modality, [item], model.config))[0].numpy()


def test_rows_are_the_items_embedded_one_by_one(encoder, tmp_path):
    store = embed_items(
        *encoder, "text", iter(texts(20)), tmp_path / "s", batch_size=3, dtype="float32", progress=False
    )
    assert store.ids == [f"t{i}" for i in range(20)]
    assert store.column("text") == [TEXTS[i % 6] for i in range(20)] and store.columns == ["text", "length"]
    for i in range(6):
        np.testing.assert_allclose(store[i], alone(encoder, "text", TEXTS[i]), atol=1e-5)
    assert store.encoder["modality"] == "text" and store.normalized and store.dim == 12


def test_pictures_keep_their_columns_and_lose_their_pixels(encoder, tmp_path):
    items = [{"id": str(i), "image": make_picture(i), "caption": f"picture {i}"} for i in range(5)]
    store = embed_items(*encoder, "image", items, tmp_path / "s", batch_size=2, progress=False)
    assert store.columns == ["caption"] and store.dtype == np.float16
    for i in range(5):
        np.testing.assert_allclose(store[i].astype(np.float32), alone(encoder, "image", items[i]["image"]), atol=1e-3)
    assert encoder[0].training is False


class Killed(BaseException):
    """A stop that nothing catches."""


def stopped_after(items, count):
    for index, item in enumerate(items):
        if index == count:
            raise Killed
        yield item


def test_stopped_run_goes_on_and_ends_the_same(encoder, tmp_path):
    whole = embed_items(*encoder, "text", texts(50), tmp_path / "whole", batch_size=2, progress=False)
    options = {"batch_size": 2, "rows_per_shard": 8, "progress": False}
    with pytest.raises(Killed):
        embed_items(*encoder, "text", stopped_after(texts(50), 37), tmp_path / "s", **options)
    begun = EmbeddingStore.open(tmp_path / "s", allow_incomplete=True)
    assert 0 < len(begun) < 50
    store = embed_items(*encoder, "text", texts(50), tmp_path / "s", **options)
    assert store.ids == whole.ids and store.column("text") == whole.column("text")
    np.testing.assert_allclose(store[:].astype(np.float32), whole[:].astype(np.float32), atol=1e-3)
    again = embed_items(*encoder, "text", texts(50), tmp_path / "s", **options)  # nothing left to do
    assert np.array_equal(again[:], store[:])


def test_other_items_or_another_encoder_do_not_go_on(encoder, tmp_path):
    embed_items(*encoder, "text", texts(6), tmp_path / "s", progress=False)
    before = EmbeddingStore.open(tmp_path / "s")[:].copy()
    changed = texts(6)
    changed[3]["id"] = "other"
    with pytest.raises(ValueError, match="row 3 is 't3'.*'other'"):
        embed_items(*encoder, "text", changed, tmp_path / "s", progress=False)
    with pytest.raises(ValueError, match="was begun with.*overwrite=True"):
        embed_items(*make_dual_encoder(1), "text", texts(6), tmp_path / "s", progress=False)
    with pytest.raises(FileExistsError):
        embed_items(*encoder, "text", texts(6), tmp_path / "s", resume=False, progress=False)
    assert np.array_equal(EmbeddingStore.open(tmp_path / "s")[:], before)
    other = make_dual_encoder(1)
    replaced = embed_items(*other, "text", texts(6), tmp_path / "s", overwrite=True, progress=False)
    assert not fingerprints_match(replaced.encoder, {**replaced.encoder, "probe": [0.0] * 8})
    assert not np.array_equal(replaced[:], before)


def test_bad_items_are_named_and_good_ones_kept(encoder, tmp_path):
    with pytest.raises(ValueError, match="no items to embed"):
        embed_items(*encoder, "text", [], tmp_path / "empty", progress=False)
    assert not (tmp_path / "empty").exists()
    items = [*texts(20), {"id": "bad", "caption": "no text"}]
    with pytest.raises(ValueError, match=r"item 20 \(id 'bad'\) lacks 'text'.*caption"):
        embed_items(*encoder, "text", items, tmp_path / "s", batch_size=1, progress=False)
    assert len(EmbeddingStore.open(tmp_path / "s", allow_incomplete=True)) == 16


def test_rows_without_direction_are_listed(encoder, tmp_path):
    model, processor = make_dual_encoder(2)
    torch.nn.init.zeros_(model.text_head.fc2.weight)
    torch.nn.init.zeros_(model.text_head.fc2.bias)
    torch.nn.init.zeros_(model.text_head.skip.weight)
    with pytest.raises(ValueError, match="t0"):
        embed_items(model, processor, "text", texts(2), tmp_path / "s", progress=False)
