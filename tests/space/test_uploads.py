"""Uploads: hostile ones are refused in words before they cost anything, honest ones are read whole."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("trimesh")
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import trimesh  # noqa: E402
from hostile import Hostile, glb, hostile_files  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402
from space_world import npy, npz  # noqa: E402

from hf_modalbridge.space import Limits, Refused, read_embeddings, read_item, read_table  # noqa: E402

LIMITS = Limits()
READ = {
    "look": lambda path: read_item(path, LIMITS),
    "embeddings": lambda path: read_embeddings(path, LIMITS),
    "table": lambda path: read_table([path], LIMITS),
}


@pytest.mark.parametrize("case", hostile_files(), ids=lambda case: case.name)
def test_a_hostile_upload_is_refused_in_words(case: Hostile, tmp_path: Path):
    path = case.write(tmp_path)
    peak, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(Refused) as refusal:
        READ[case.page](path)
    message = str(refusal.value)
    assert case.word in message and case.name in message
    assert str(tmp_path) not in message, "no folder of the server is named"
    assert time.perf_counter() - began < 20
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    assert grown < 250_000, f"{grown} kB were taken for it"
    assert sorted(p.name for p in tmp_path.iterdir()) == [case.name], "nothing was written"
    assert not Path("/tmp/modalbridge-was-here").exists(), "nothing of it was run"


def test_a_path_in_the_name_is_only_a_name(tmp_path: Path):
    from hf_modalbridge.space.uploads import plain_name

    assert plain_name("../../etc/passwd.npy") == "passwd.npy"
    assert plain_name("C:\\windows\\system32\\x.png") == "x.png"
    assert plain_name("a\x00b\x1b[31m.npy") == "ab[31m.npy"
    assert len(plain_name("x" * 500 + ".npy")) <= 60
    path = tmp_path / "..%2f..%2fetc%2fpasswd.npz"
    path.write_bytes(npz(**{"../../evil": np.random.default_rng(0).normal(size=(50, 8))}))
    assert read_embeddings(path, LIMITS).shape == (50, 8)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_link_is_not_followed(tmp_path: Path):
    (tmp_path / "real.npy").write_bytes(npy(np.random.default_rng(0).normal(size=(50, 8))))
    os.symlink(tmp_path / "real.npy", tmp_path / "link.npy")
    with pytest.raises(Refused, match="did not arrive"):
        read_embeddings(tmp_path / "link.npy", LIMITS)


def test_too_large_a_file_is_refused_by_its_size(tmp_path: Path):
    path = tmp_path / "large.npy"
    with path.open("wb") as file:
        file.truncate(LIMITS.file_bytes + 1)
    with pytest.raises(Refused, match="at most 40 MB"):
        read_embeddings(path, LIMITS)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".parquet"])
def test_embeddings_of_every_format_come_through(tmp_path: Path, suffix: str):
    rows = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    path = tmp_path / f"rows{suffix}"
    if suffix == ".npy":
        path.write_bytes(npy(np.asfortranarray(rows)))
    elif suffix == ".npz":
        path.write_bytes(npz(embeddings=rows, other=np.arange(3)))
    elif suffix == ".safetensors":
        save_file({"embeddings": rows}, path)
    else:
        pq.write_table(pa.table({"id": list("ab") * 25, "embedding": list(rows)}), path)
    np.testing.assert_array_equal(read_embeddings(path, LIMITS), rows)


def test_tables_of_every_form_come_through(tmp_path: Path):
    rng = np.random.default_rng(0)
    rows, texts = rng.normal(size=(2, 50, 8)).astype(np.float32)
    captions = [f"a <b>chair</b> {i}" for i in range(50)]
    (tmp_path / "rows.npy").write_bytes(npy(rows))
    (tmp_path / "captions.csv").write_text("id,Caption\n" + "".join(f'{i},"{c}"\n' for i, c in enumerate(captions)))
    pq.write_table(
        pa.table({"embedding": list(rows), "caption": captions, "text_embedding": list(texts)}),
        tmp_path / "table.parquet",
    )
    (tmp_path / "table.npz").write_bytes(npz(embeddings=rows, captions=np.array(captions), text_embeddings=texts))
    two = read_table([tmp_path / "captions.csv", tmp_path / "rows.npy"], LIMITS)
    assert two.captions == captions and two.text_embeddings is None
    for name in ("table.parquet", "table.npz"):
        table = read_table([tmp_path / name], LIMITS)
        np.testing.assert_array_equal(table.embeddings, rows)
        np.testing.assert_array_equal(table.text_embeddings, texts)
        assert table.captions == captions


def test_items_of_every_kind_come_through(tmp_path: Path):
    rng = np.random.default_rng(0)
    Image.new("RGBA", (300, 200), (255, 0, 0, 128)).save(tmp_path / "red.png")
    picture = read_item(tmp_path / "red.png", LIMITS)
    assert picture.modality == "image" and picture.value.mode == "RGB" and picture.value.size == (300, 200)
    assert picture.value.getpixel((5, 5)) == (255, 127, 127), "what is transparent shows white"
    assert 'src="data:image/webp;base64,' in picture.html and picture.glb is None

    (tmp_path / "cloud.npy").write_bytes(npy(rng.normal(size=(200, 6)).clip(0, 1)))
    cloud = read_item(tmp_path / "cloud.npy", LIMITS)
    assert cloud.modality == "point" and cloud.value["points"].shape == cloud.value["colors"].shape == (200, 3)
    (tmp_path / "touch.npy").write_bytes(npy(rng.normal(size=(90, 44))))
    touch = read_item(tmp_path / "touch.npy", LIMITS)
    assert touch.modality == "touch" and touch.value.shape == (90, 44) and "90 frames" in touch.html

    box = trimesh.creation.box((1, 2, 3))
    for suffix in (".glb", ".ply", ".stl", ".obj", ".off"):
        box.export(tmp_path / f"box{suffix}")
        item = read_item(tmp_path / f"box{suffix}", LIMITS)
        assert item.modality == "point" and len(item.value["points"]) == 4096
        np.testing.assert_allclose(np.abs(item.value["points"]).max(0), [0.5, 1, 1.5], atol=1e-5)
        shown = trimesh.load(trimesh.util.wrap_as_stream(item.glb), file_type="glb", force="mesh")
        assert len(shown.faces) == 12, "a surface is shown as a surface"
    shown = trimesh.load(trimesh.util.wrap_as_stream(cloud.glb), file_type="glb", force="mesh")
    assert len(shown.faces) == 200 * 8, "a point is shown as a small solid"


def test_pictures_on_a_surface_are_left_out_and_its_shape_stays(tmp_path: Path):
    box = trimesh.creation.box((1, 2, 3))
    texture = Image.new("RGB", (8, 8), "red")
    box.visual = trimesh.visual.TextureVisuals(uv=np.zeros((8, 2)), image=texture)
    box.export(tmp_path / "textured.glb")
    assert b'"images"' in (tmp_path / "textured.glb").read_bytes()
    item = read_item(tmp_path / "textured.glb", LIMITS)
    np.testing.assert_allclose(np.abs(item.value["points"]).max(0), [0.5, 1, 1.5], atol=1e-5)
    assert b"images" not in item.glb and b"image/png" not in item.glb


def test_a_name_with_markup_stays_text(tmp_path: Path):
    path = tmp_path / '"><img src=x onerror=alert(1)>.png'
    Image.new("RGB", (8, 8)).save(path)
    html = read_item(path, LIMITS).html
    assert "onerror=alert(1)>" not in html and "&lt;img src=x" in html


def test_a_tree_that_repeats_itself_is_refused(tmp_path: Path):
    path = tmp_path / "loop.glb"
    path.write_bytes(glb({"asset": {"version": "2.0"}, "nodes": [{"children": [1, 1]}, {"children": [0]}]}))
    with pytest.raises(Refused, match="more than once"):
        read_item(path, LIMITS)
