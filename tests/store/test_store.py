from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from store_world import unit_rows, write

from hf_modalbridge import EmbeddingStore, EmbeddingStoreWriter


def test_rows_come_back_by_position_slice_mask_and_id(tmp_path):
    rows = unit_rows(33)
    store = write(tmp_path / "s", rows)
    assert (len(store), store.dim, store.dtype, store.normalized) == (33, 12, np.float32, True)
    assert np.array_equal(store[:], rows)
    assert np.array_equal(store[-1], rows[-1]) and store[3].shape == (12,)
    assert np.array_equal(store[5:29:3], rows[5:29:3])
    assert np.array_equal(store[np.array([32, 0, 9, 10, 10])], rows[[32, 0, 9, 10, 10]])
    assert np.array_equal(store[torch.tensor([4, 2])], rows[[4, 2]])
    assert np.array_equal(store[rows[:, 0] > 0], rows[rows[:, 0] > 0])
    assert np.array_equal(store["item-11"], rows[11])
    assert np.array_equal(store[["item-30", "item-2"]], rows[[30, 2]])
    assert store.ids[12] == "item-12" and store.columns == ["text", "label"]
    assert store.column("text")[32] == "caption item-32"
    assert store.table.num_rows == 33
    assert store.positions(["item-9", "item-1"]).tolist() == [9, 1]


def test_a_shard_is_a_safetensors_file_whose_hash_is_in_the_manifest(tmp_path):
    rows = unit_rows(33)
    store = write(tmp_path / "s", rows)
    manifest = json.loads((store.path / "manifest.json").read_text())
    assert [shard["rows"] for shard in manifest["shards"]] == [10, 10, 10, 3]
    assert (manifest["rows"], manifest["dim"], manifest["dtype"]) == (33, 12, "float32")
    files = [store.path / shard["file"] for shard in manifest["shards"]]
    assert np.array_equal(np.concatenate([load_file(file)["embeddings"] for file in files]), rows)
    for shard, file in zip(manifest["shards"], files, strict=True):
        assert shard["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert sorted(p.name for p in store.path.iterdir()) == sorted(
        ["manifest.json", "index.parquet", *(file.name for file in files)]
    )
    store.verify()


def test_total_rows_gives_the_same_files_as_without(tmp_path):
    rows = unit_rows(33)
    with_total, without = write(tmp_path / "a", rows, total_rows=33), write(tmp_path / "b", rows)
    with_total.verify()
    assert np.array_equal(with_total[:], without[:])


def test_batches_in_order_and_shuffled(tmp_path):
    rows = unit_rows(33)
    store = write(tmp_path / "s", rows)
    for kwargs in ({}, {"buffers": 2}):
        got = [(p.copy(), x.copy()) for p, x in store.iter_batches(8, **kwargs)]
        assert [len(p) for p, _ in got] == [8, 8, 8, 8, 1]
        assert np.array_equal(np.concatenate([x for _, x in got]), rows)
    first = list(store.iter_batches(8, shuffle=True, seed=1))
    positions = np.concatenate([p for p, _ in first])
    assert sorted(positions) == list(range(33)) and list(positions) != list(range(33))
    assert all((np.diff(p) > 0).all() for p, _ in first), "positions inside a batch are sorted"
    assert all(np.array_equal(x, rows[p]) for p, x in first)
    again = np.concatenate([p for p, _ in store.iter_batches(8, shuffle=True, seed=1)])
    other = np.concatenate([p for p, _ in store.iter_batches(8, shuffle=True, seed=2)])
    assert np.array_equal(again, positions) and not np.array_equal(other, positions)


def test_float16_stores_convert_on_request_only(tmp_path):
    rows = unit_rows(20)
    store = write(tmp_path / "s", rows, dtype="float16")
    assert store[:].dtype == np.float16 and np.array_equal(store[:], rows.astype(np.float16))
    assert next(store.iter_batches(4))[1].dtype == np.float32
    assert next(store.iter_batches(4, dtype=None))[1].dtype == np.float16


def test_bfloat16_tensors_go_in(tmp_path):
    rows = torch.from_numpy(unit_rows(4)).bfloat16()
    with EmbeddingStoreWriter(tmp_path / "s", dim=12) as writer:
        writer.append(list("abcd"), rows)
    assert np.array_equal(EmbeddingStore.open(tmp_path / "s")[:], rows.half().numpy())


def test_columns_keep_types_and_missing_values(tmp_path):
    rows = unit_rows(4)
    with EmbeddingStoreWriter(tmp_path / "s", dim=12) as writer:
        writer.append(["a", "b"], rows[:2], {"note": [None, None], "tags": [["x"], []]})
        writer.append(["c", "d"], rows[2:], {"tags": [["y", "z"], None], "note": ["n", None]})
    store = EmbeddingStore.open(tmp_path / "s")
    assert store.column("note") == [None, None, "n", None]
    assert store.column("tags") == [["x"], [], ["y", "z"], None]


def test_a_complete_store_can_be_extended(tmp_path):
    rows = unit_rows(40)
    write(tmp_path / "s", rows[:25])
    store = write(tmp_path / "s", rows[25:], first=25, resume=True)
    assert np.array_equal(store[:], rows) and store.ids == [f"item-{i}" for i in range(40)]
    assert not list(store.path.glob("index-*"))
    store.verify()


def test_an_exception_keeps_what_was_appended_and_marks_the_store(tmp_path):
    rows = unit_rows(20)
    with pytest.raises(RuntimeError, match="boom"), EmbeddingStoreWriter(tmp_path / "s", dim=12) as writer:
        writer.append([f"item-{i}" for i in range(13)], rows[:13])
        raise RuntimeError("boom")
    with pytest.raises(ValueError, match="incomplete.*13 rows"):
        EmbeddingStore.open(tmp_path / "s")
    assert len(EmbeddingStore.open(tmp_path / "s", allow_incomplete=True)) == 13
    with EmbeddingStoreWriter(tmp_path / "s", dim=12, resume=True) as writer:
        assert writer.rows_written == 13
        writer.append([f"item-{i}" for i in range(13, 20)], rows[13:])
    assert np.array_equal(EmbeddingStore.open(tmp_path / "s")[:], rows.astype(np.float16))
