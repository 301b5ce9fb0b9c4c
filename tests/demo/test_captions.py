"""The demo's captioned pictures as rows."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hf_modalbridge import demo


@pytest.fixture
def data_dir(tmp_path):
    (tmp_path / "captions").mkdir()
    for part in range(2):
        rows = []
        for i in range(3):
            buffer = io.BytesIO()
            Image.new("RGB", (4 + i, 4), (part, i, 0)).save(buffer, "PNG")
            picture = {"bytes": buffer.getvalue(), "path": None}
            rows.append({"id": f"{part}/{i}", "image": picture, "caption": f"caption {part} {i}", "license": "cc0"})
        rows[1]["image"]["bytes"] = b"broken" if part else rows[1]["image"]["bytes"]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "captions" / f"train-{part:05d}-of-00002.parquet")
    return tmp_path


def test_rows_come_in_order_and_pictures_when_asked_for(data_dir):
    rows = demo.load_captions("train", data_dir)  # the broken picture is not decoded
    assert len(rows) == 6
    assert rows.ids == ["0/0", "0/1", "0/2", "1/0", "1/1", "1/2"]
    row = rows[-1]
    assert row["caption"] == "caption 1 2" == rows.captions[5] and row["license"] == "cc0"
    assert row["image"].size == (6, 4) and row["image"].getpixel((0, 0)) == (1, 2, 0)
    part = rows[1:4]
    assert part.ids == ["0/1", "0/2", "1/0"] and part[1]["image"].size == (6, 4)
    assert rows.column("license") == ["cc0"] * 6
    with pytest.raises(IndexError):
        rows[6]
    with pytest.raises(OSError):
        rows[4]


def test_what_is_not_there_is_named(data_dir):
    with pytest.raises(ValueError, match="got split 'dev'; expected one of train, validation, test"):
        demo.load_captions("dev", data_dir)
    with pytest.raises(FileNotFoundError, match=r"no test-\*.parquet in .*build_demo_data.py"):
        demo.load_captions("test", data_dir)


def test_data_folder_can_be_named_by_the_environment(data_dir, monkeypatch):
    monkeypatch.setenv("MODALBRIDGE_DEMO_DATA", str(data_dir))
    assert demo.demo_data_dir() == data_dir
    assert len(demo.load_captions("train")) == 6


@pytest.mark.parametrize(
    ("keywords", "description"),
    [
        ([], "green pear"),
        (["Food", "pear", "fruit", "food"], "green pear: food, fruit"),
        (["pear-shaped", "x2", "ab", "green pear"], "green pear"),  # no words, or said already
        (["one", "two", "three", "four", "five"], "green pear: one, two, three, four"),
    ],
)
def test_description_is_the_caption_with_its_keywords(keywords, description):
    assert demo.describe("green pear", keywords) == description
