from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_modalbridge.data import read_items

ROWS = [{"id": "1", "file": "a.png", "note": "x"}, {"id": "2", "file": "sub/b.png", "note": "y"}]


def write(folder, kind):
    file = folder / f"items.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), file)
    elif kind == "jsonl":
        file.write_text('{"id": 1, "file": "a.png", "note": "x"}\n\n{"id": 2, "file": "sub/b.png", "note": "y"}\n')
    else:
        mark = "," if kind == "csv" else "\t"
        file.write_text("\n".join(mark.join(r) for r in [ROWS[0], *[r.values() for r in ROWS]]))
    return file


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet"])
def test_all_kinds_give_the_same_items(tmp_path, kind):
    items = list(read_items(write(tmp_path, kind), "image", column="file"))
    assert items == [
        {"id": "1", "image": tmp_path / "a.png", "note": "x", "image_file": "a.png"},
        {"id": "2", "image": tmp_path / "sub/b.png", "note": "y", "image_file": "sub/b.png"},
    ]
    texts = list(read_items(write(tmp_path, kind), "text", column="note", root=tmp_path / "elsewhere"))
    assert [t["text"] for t in texts] == ["x", "y"]


def test_what_is_wrong_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv"):
        next(read_items(tmp_path / "nowhere.csv", "text"))
    with pytest.raises(ValueError, match=r"\.xlsx.*no table"):
        next(read_items(tmp_path / "items.xlsx", "text"))
    with pytest.raises(ValueError, match=r"row 1 lacks \['text'\]"):
        next(read_items(write(tmp_path, "csv"), "text"))
    (tmp_path / "bad.jsonl").write_text('{"id": 1, "text": "a"}\n{oops\n')
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        list(read_items(tmp_path / "bad.jsonl", "text"))
