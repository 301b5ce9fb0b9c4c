from __future__ import annotations

import json

import numpy as np
import pytest
from store_world import unit_rows, write

from hf_modalbridge import EmbeddingStore, EmbeddingStoreWriter


@pytest.fixture
def writer(tmp_path):
    with EmbeddingStoreWriter(tmp_path / "s", dim=12) as writer:
        writer.append(["first"], unit_rows(1))
        yield writer


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_rows_are_named(writer, value):
    rows = unit_rows(5)
    rows[2, 3] = value
    with pytest.raises(ValueError, match="NaN or infinity.*id c"):
        writer.append(list("abcde"), rows)
    assert writer.rows_written == 1, "nothing of a bad batch is written"


def test_zero_rows_are_named(writer):
    rows = unit_rows(9)
    rows[[1, 7]] = 0
    with pytest.raises(ValueError, match="2 rows are all zero.*id b, h"):
        writer.append(list("abcdefghi"), rows)


def test_rows_that_vanish_or_overflow_in_the_stores_dtype_are_named(tmp_path):
    with EmbeddingStoreWriter(tmp_path / "s", dim=12, normalized=False) as writer:
        writer.append(["a"], unit_rows(1))
        with pytest.raises(ValueError, match="all zero as torch.float16"):
            writer.append(["tiny"], unit_rows(1) * 1e-9)
        with pytest.raises(ValueError, match="infinity as torch.float16"):
            writer.append(["huge"], unit_rows(1) * 1e6)


def test_rows_of_another_length_need_normalized_false(tmp_path, writer):
    with pytest.raises(ValueError, match="not of unit length.*id x.*normalized=False"):
        writer.append(["x"], unit_rows(1) * 3)
    store = write(tmp_path / "long", unit_rows(5) * 3, normalized=False)
    assert not store.normalized


@pytest.mark.parametrize(
    ("ids", "rows", "error", "match"),
    [
        (["a"], unit_rows(1, 11), ValueError, "dim 12"),
        (["a"], unit_rows(1)[0], ValueError, "shape"),
        (["a", "b"], unit_rows(1), ValueError, "2 ids for 1 rows"),
        (["a", "a"], unit_rows(2), ValueError, "twice: a"),
        (["first"], unit_rows(1), ValueError, "twice: first"),
        ([1], unit_rows(1), TypeError, "ids are strings"),
        (["a"], np.ones((1, 12), int), TypeError, "floating point"),
    ],
)
def test_bad_batches_are_refused(writer, ids, rows, error, match):
    with pytest.raises(error, match=match):
        writer.append(ids, rows)
    assert writer.rows_written == 1


def test_columns_must_stay_the_same(tmp_path):
    with EmbeddingStoreWriter(tmp_path / "s", dim=12) as writer:
        writer.append(["a"], unit_rows(1), {"text": ["x"]})
        with pytest.raises(ValueError, match="columns differ"):
            writer.append(["b"], unit_rows(1), {"caption": ["x"]})
        with pytest.raises(ValueError, match="'text' has another type"):
            writer.append(["b"], unit_rows(1), {"text": [3]})
        with pytest.raises(ValueError, match="2 values for 1 rows"):
            writer.append(["b"], unit_rows(1), {"text": ["x", "y"]})
        with pytest.raises(ValueError, match="'id' is taken"):
            writer.append(["b"], unit_rows(1), {"id": ["x"]})


def test_an_empty_store_is_refused(tmp_path):
    with pytest.raises(ValueError, match="empty"), EmbeddingStoreWriter(tmp_path / "s", dim=12):
        pass
    with pytest.raises(ValueError, match="incomplete"):
        EmbeddingStore.open(tmp_path / "s")
    write(tmp_path / "s", unit_rows(3))  # what it left is no reason to refuse a new run


def test_existing_stores_and_foreign_folders_are_not_overwritten(tmp_path):
    write(tmp_path / "s", unit_rows(5))
    with pytest.raises(FileExistsError, match="resume=True"):
        EmbeddingStoreWriter(tmp_path / "s", dim=12)
    assert len(EmbeddingStore.open(tmp_path / "s")) == 5
    assert len(write(tmp_path / "s", unit_rows(3), overwrite=True)) == 3
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"x")
    with pytest.raises(FileExistsError, match="not an embedding store"):
        EmbeddingStoreWriter(tmp_path / "photos", dim=12, overwrite=True)
    assert (tmp_path / "photos" / "cat.png").exists()


def test_resuming_with_other_settings_is_refused(tmp_path):
    write(tmp_path / "s", unit_rows(5), encoder={"id": "a", "dim": 12})
    for kwargs, match in (
        ({"dim": 13}, "its dim is 12"),
        ({"dim": 12, "dtype": "float64"}, "its dtype"),
        ({"dim": 12, "dtype": "float32", "encoder": {"id": "b", "dim": 12}}, "its encoder"),
    ):
        with pytest.raises(ValueError, match=match):
            EmbeddingStoreWriter(tmp_path / "s", resume=True, **kwargs)
    assert len(EmbeddingStore.open(tmp_path / "s")) == 5


def edit_manifest(store: EmbeddingStore, change) -> None:
    path = store.path / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_damaged_files_are_named(tmp_path):
    store = write(tmp_path / "s", unit_rows(25))
    shard = store.path / "shard-00001.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-8])
    with pytest.raises(ValueError, match="shard-00001.safetensors is truncated"):
        EmbeddingStore.open(store.path)
    shard.write_bytes(b"\x00" * 20)
    with pytest.raises(ValueError, match="shard-00001.safetensors is damaged"):
        EmbeddingStore.open(store.path)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match="shard-00001.safetensors"):
        EmbeddingStore.open(store.path)
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="shard-00001.safetensors was changed"):
        EmbeddingStore.open(store.path).verify()
    shard.write_bytes(whole)
    (store.path / "index.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="index.parquet is damaged"):
        EmbeddingStore.open(store.path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m: m.update(rows=24), "add up to 25"),
        (lambda m: m.update(dim=6), "disagrees"),
        (lambda m: m.update(dtype="float16"), "disagrees"),
        (lambda m: (m["shards"][0].update(rows=9), m.update(rows=24)), "disagrees"),
        (lambda m: (m["shards"].pop(), m.update(rows=20)), "20 rows of embeddings and 25 lines"),
        (lambda m: m["index"][0].update(rows=24), "25 lines"),
        (lambda m: m.update(format_version=99), "version 99"),
        (lambda m: m.pop("dtype"), "dtype"),
        (lambda m: m.update(shards=[], index=[], rows=0), "empty"),
    ],
)
def test_a_manifest_that_disagrees_with_its_files_is_refused(tmp_path, change, match):
    store = write(tmp_path / "s", unit_rows(25))
    edit_manifest(store, change)
    with pytest.raises(ValueError, match=match):
        EmbeddingStore.open(store.path)


def test_bad_reads_say_what_is_there(tmp_path):
    store = write(tmp_path / "s", unit_rows(5))
    with pytest.raises(KeyError, match="2 of 3 ids.*nope, never"):
        store[["item-1", "nope", "never"]]
    with pytest.raises(KeyError, match="no column 'txt'.*text, label"):
        store.column("txt")
    with pytest.raises(IndexError, match="5 rows"):
        store[5]
    with pytest.raises(TypeError, match="positions"):
        store[np.array([0.5])]
    with pytest.raises(FileNotFoundError, match="no embedding store"):
        EmbeddingStore.open(tmp_path)
