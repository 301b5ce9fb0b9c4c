"""The demo's stores are made once, and made again when the encoder is another."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_encoders import make_dual_encoder, make_picture

from hf_modalbridge import EmbeddingStore, demo
from hf_modalbridge.demo import stores


@pytest.fixture
def small_world(tmp_path, monkeypatch):
    (tmp_path / "captions").mkdir()
    for split, count in (("train", 5), ("validation", 2), ("test", 2)):
        rows = []
        for i in range(count):
            buffer = io.BytesIO()
            make_picture(i).save(buffer, "PNG")
            picture = {"bytes": buffer.getvalue(), "path": None}
            rows.append({"id": f"{split}/{i}", "image": picture, "caption": f"cat {i}"})
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "captions" / f"{split}-00000-of-00001.parquet")
    for seed in range(2):
        model, processor = make_dual_encoder(seed)
        model.save_pretrained(tmp_path / f"encoder-{seed}")
        processor.save_pretrained(tmp_path / f"encoder-{seed}")
    monkeypatch.setenv("MODALBRIDGE_DEMO_DATA", str(tmp_path))
    monkeypatch.setattr(stores, "dual_encoder", lambda: tmp_path / "encoder-0")
    return tmp_path


def test_stores_are_made_once_for_an_encoder(small_world, monkeypatch):
    paths = demo.prepare_stores(small_world / "stores")
    assert sorted(paths) == sorted(f"{kind}-{split}" for kind in ("images", "captions") for split in demo.SPLITS)
    first = {name: EmbeddingStore.open(path) for name, path in paths.items()}
    assert first["images-train"].ids == first["captions-train"].ids == [f"train/{i}" for i in range(5)]
    assert first["images-train"].column("text") == [f"cat {i}" for i in range(5)]
    before = {name: np.array(store[:]) for name, store in first.items()}
    stamps = {path: (path / "manifest.json").stat().st_mtime_ns for path in paths.values()}
    demo.prepare_stores(small_world / "stores")
    assert all((path / "manifest.json").stat().st_mtime_ns == stamp for path, stamp in stamps.items())

    monkeypatch.setattr(stores, "dual_encoder", lambda: small_world / "encoder-1")
    demo.prepare_stores(small_world / "stores")
    for name, path in paths.items():
        assert not np.array_equal(EmbeddingStore.open(path)[:], before[name])


def test_a_share_of_the_train_pictures_stands_for_all(small_world):
    whole = demo.prepare_stores(small_world / "stores", splits=("train", "test"))
    rows = {name: np.array(EmbeddingStore.open(path)[:]) for name, path in whole.items()}
    part = demo.prepare_stores(small_world / "stores", splits=("train", "test"), every=2)
    images = EmbeddingStore.open(part["images-train"])
    assert images.ids == [f"train/{i}" for i in (0, 2, 4)]
    np.testing.assert_allclose(images[:], rows["images-train"][::2], atol=1e-3)
    for name in ("captions-train", "images-test"):
        np.testing.assert_array_equal(EmbeddingStore.open(part[name])[:], rows[name])
