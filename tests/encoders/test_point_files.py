"""Clouds and meshes from files, written by other libraries; broken and hostile files."""

from __future__ import annotations

import json
import struct
import zipfile

import numpy as np
import pytest
import torch

from hf_modalbridge.encoders import PointFeatureExtractor, read_points, sample_surface

trimesh = pytest.importorskip("trimesh")

EXTRACTOR = PointFeatureExtractor(num_points=512)


def cloud(size: int = 40) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(size, 3)).astype(np.float32)


def test_arrays(tmp_path):
    points = cloud()
    np.save(tmp_path / "a.npy", points)
    np.save(tmp_path / "b.npy", np.hstack([points, np.full((40, 3), 128)]).astype(np.float16))
    np.savez(tmp_path / "a.npz", points=points, colors=np.full((40, 4), 255, dtype=np.uint8), normals=points)
    np.savez_compressed(tmp_path / "one.npz", anything=points)
    for name in ("a.npy", "a.npz", "one.npz"):
        assert np.allclose(read_points(tmp_path / name).points, points)
    assert np.allclose(read_points(tmp_path / "b.npy").colors, 128 / 255)
    assert np.allclose(read_points(tmp_path / "a.npz").colors, 1)
    assert np.allclose(read_points(tmp_path / "a.npz").normals, points)
    assert torch.equal(EXTRACTOR(tmp_path / "a.npy")["point_values"], EXTRACTOR(points)["point_values"])
    both = EXTRACTOR([str(tmp_path / "a.npy"), {"path": tmp_path / "a.npz", "up_axis": "z"}])["point_values"]
    assert torch.allclose(both[1], EXTRACTOR(points, up_axis="z")["point_values"][0])


@pytest.mark.parametrize("name", ["ply", "obj", "glb", "stl", "off"])
def test_meshes_are_sampled_evenly(tmp_path, name):
    mesh = trimesh.creation.box(extents=(4, 2, 1))
    mesh.apply_translation([10, 0, 0])
    file = tmp_path / f"box.{name}"
    mesh.export(file)
    got = read_points(file, num_points=4000)
    assert got.points.shape == (4000, 3)
    offset = np.abs(got.points - [10, 0, 0]) / (2, 1, 0.5)
    assert np.allclose(offset.max(1), 1, atol=1e-5), "all points lie on the box"
    face = np.isclose(offset, 1, atol=1e-5).argmax(1)  # which axis the face is normal to
    assert np.allclose(np.bincount(face) / 4000, np.array([2, 4, 8]) / 14, atol=0.03), "in proportion to the areas"
    assert np.allclose(np.abs(got.normals).argmax(1), face)
    assert np.array_equal(read_points(file, num_points=4000).points, got.points), "the draw is seeded"
    assert not np.array_equal(read_points(file, num_points=4000, seed=1).points, got.points)
    assert EXTRACTOR(file)["point_values"].shape == (1, 512, 3)
    assert torch.allclose(EXTRACTOR(mesh)["point_values"].std(), EXTRACTOR(file)["point_values"].std(), atol=0.02)


def test_point_clouds_in_mesh_formats(tmp_path):
    points, colors = cloud(), np.random.default_rng(1).integers(0, 256, (40, 4), dtype=np.uint8)
    trimesh.PointCloud(points, colors=colors).export(tmp_path / "c.ply")
    got = read_points(tmp_path / "c.ply")
    assert np.allclose(got.points, points) and np.allclose(got.colors, colors[:, :3] / 255)
    (tmp_path / "c.obj").write_text("".join(f"v {x} {y} {z}\n" for x, y, z in points))
    (tmp_path / "c.off").write_text("OFF\n40 0 0\n" + "".join(f"{x} {y} {z}\n" for x, y, z in points))
    for name in ("c.obj", "c.off"):
        assert np.allclose(read_points(tmp_path / name).points, points, atol=1e-6)
    header = "".join(f"property float {n}\n" for n in ("x", "y", "z", "nx", "ny", "nz"))
    rows = "".join(" ".join(map(str, [*p, 0, 0, 1])) + "\n" for p in points)
    (tmp_path / "n.ply").write_text(f"ply\nformat ascii 1.0\nelement vertex 40\n{header}end_header\n{rows}")
    got = read_points(tmp_path / "n.ply")
    assert np.allclose(got.normals, [0, 0, 1]) and got.colors is None


def test_colours_of_a_mesh_are_blended(tmp_path):
    mesh = trimesh.creation.box()
    mesh.visual.vertex_colors = np.tile([255, 0, 51, 255], (8, 1)).astype(np.uint8)
    for name in ("ply", "glb"):
        mesh.export(tmp_path / f"c.{name}")
        assert np.allclose(read_points(tmp_path / f"c.{name}").colors, [1, 0, 0.2], atol=1e-6)


def test_a_scene_s_transforms_count(tmp_path):
    scene = trimesh.Scene()
    scene.add_geometry(trimesh.creation.box(), transform=trimesh.transformations.translation_matrix([9, 0, 0]))
    scene.add_geometry(trimesh.creation.box())
    scene.export(tmp_path / "s.glb")
    points = read_points(tmp_path / "s.glb", num_points=500).points
    assert points[:, 0].max() == pytest.approx(9.5, abs=0.02) and points[:, 0].min() == pytest.approx(-0.5, abs=0.02)


def test_scans(tmp_path):
    pypcd4, laspy = pytest.importorskip("pypcd4"), pytest.importorskip("laspy")
    points = cloud()
    pypcd4.PointCloud.from_xyz_points(points).save(tmp_path / "a.pcd")
    assert np.allclose(read_points(tmp_path / "a.pcd").points, points)
    colors = np.full((40, 3), 51.0)
    packed = pypcd4.PointCloud.encode_rgb(colors.astype(np.uint8)).reshape(-1, 1)
    pypcd4.PointCloud.from_xyzrgb_points(np.hstack([points, packed])).save(tmp_path / "b.pcd")
    assert np.allclose(read_points(tmp_path / "b.pcd").colors, 0.2)
    scan = laspy.create(point_format=2, file_version="1.2")
    scan.header.scales = [1e-4] * 3
    scan.x, scan.y, scan.z = points.T.astype(np.float64)
    scan.red = scan.green = scan.blue = np.full(40, 65535, dtype=np.uint16)
    scan.write(tmp_path / "a.las")
    got = read_points(tmp_path / "a.las")
    assert np.allclose(got.points, points, atol=1e-3) and np.allclose(got.colors, 1) and got.up_axis == "z"
    want = EXTRACTOR(got.points, up_axis="z")["point_values"]
    assert torch.equal(EXTRACTOR(tmp_path / "a.las")["point_values"], want), "LAS is z-up by itself"
    size = (tmp_path / "a.las").stat().st_size
    broken = bytearray((tmp_path / "a.las").read_bytes())
    broken[107:111] = struct.pack("<I", 40_000_000)
    (tmp_path / "b.las").write_bytes(broken)
    with pytest.raises(ValueError, match=f"40,000,000 points.*{size}|40,000,000 points.*{size:,}"):
        read_points(tmp_path / "b.las")


def forged_glb() -> bytes:
    tree = {"asset": {"version": "2.0"}, "accessors": [{"componentType": 5126, "count": 40_000_000, "type": "VEC3"}]}
    tree["meshes"] = [{"primitives": [{"attributes": {"POSITION": 0}}]}]
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    return struct.pack("<4sIIII", b"glTF", 2, 20 + len(text), len(text), 0x4E4F534A) + text


def npy_header(shape: str, descr: str = "<f8") -> bytes:
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}".encode()
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head


HOSTILE = {
    "huge.npy": (npy_header("(900000000000, 3)"), "claims an array"),
    "many.npy": (npy_header("(60000000, 3)", "|u1"), "claims an array"),
    "objects.npy": (npy_header("(2, 3)", "|O") + b"\x80\x04.", "Python objects"),
    "text.npy": (b"hello", "no readable .npy array"),
    "code.npy": (b"\x93NUMPY\x01\x00\x1e\x00" + b"__import__('os').system('ls')\n", "no readable .npy array"),
    "huge.ply": (
        b"ply\nformat binary_little_endian 1.0\nelement vertex 40000000\nproperty float x\nend_header\n",
        "claims 160,000,000 bytes",
    ),
    "more.ply": (
        b"ply\nformat ascii 1.0\nelement vertex 99999999999\nproperty float x\nend_header\n",
        "99,999,999,999",
    ),
    "minus.ply": (b"ply\nformat ascii 1.0\nelement vertex -5\nproperty float x\nend_header\n", "expected a count"),
    "none.ply": (b"ply\nformat ascii 1.0\n", "no PLY header"),
    "huge.off": (b"OFF\n30000000 30000000 0\n0 0 0\n", "30,000,000 vertices"),
    "none.off": (b"hello\n", "no OFF header"),
    "huge.stl": (b"\0" * 80 + struct.pack("<I", 30_000_000), "30,000,000 triangles"),
    "huge.glb": (forged_glb(), "40,000,000 elements"),
    "cut.glb": (struct.pack("<4sIIII", b"glTF", 2, 10**9, 10**8, 0x4E4F534A), "cut off or forged"),
    "none.glb": (b"PNG", "no binary glTF"),
    "huge.pcd": (b"FIELDS x y z\nSIZE 4 4 4\nCOUNT 1 1 1\nPOINTS 40000000\nDATA binary\n", "40,000,000 points"),
    "none.pcd": (b"hello", "no PCD header"),
    "none.las": (b"hello", "no LAS or LAZ"),
    "empty.obj": (b"", "is empty"),
    "text.obj": (b"hello\n", "could not be read as .obj"),
    "a.xyz": (b"1 2 3\n", "ends in '.xyz'"),
    "none.npz": (b"hello", "no .npz archive"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_one_paragraph(tmp_path, name):
    content, message = HOSTILE[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as info:
        EXTRACTOR(tmp_path / name)
    assert "\n" not in str(info.value) and name in str(info.value)


def test_a_packed_bomb_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("points.npy", npy_header("(200000000, 3)") + b"\0" * 10_000)
    with pytest.raises(ValueError, match="claims an array"):
        read_points(tmp_path / "bomb.npz")
    objects = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "pickle.npz", points=objects)
    with pytest.raises(ValueError, match="Python objects"):
        read_points(tmp_path / "pickle.npz")


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        (np.where(np.arange(120).reshape(40, 3) == 7, np.nan, 1.0), ValueError, "cloud 0 has 1 of 40 .* row 2"),
        (np.full((40, 3), np.inf), ValueError, "40 of 40 points"),
        (np.full((40, 3), 5.0), ValueError, "no extent"),
        (np.zeros((40, 4)), ValueError, r"shape \(40, 4\).*\(points, 3\)"),
        (np.zeros((40, 3), dtype=object), ValueError, "Python objects"),
        (np.zeros((40, 3), dtype=complex), ValueError, "dtype complex128"),
        ({"points": cloud(), "colors": cloud(7)}, ValueError, r"colors of shape \(7, 3\)"),
        ({"points": cloud(), "colors": np.full((40, 3), -1.0)}, ValueError, "colours from -1.0"),
        ({"a": cloud(), "b": cloud()}, ValueError, "expected points under one of"),
        ({1, 2}, TypeError, "of type set"),
        ("/no/such/cloud.ply", FileNotFoundError, "no point cloud file"),
        ([], ValueError, "no clouds"),
    ],
)
def test_wrong_items(item, error, message):
    with pytest.raises(error, match=message):
        EXTRACTOR(item)


def test_sampling_a_surface_refuses_what_has_none():
    with pytest.raises(ValueError, match="no area"):
        sample_surface(np.zeros((3, 3)), np.array([[0, 1, 2]]), 10)
    with pytest.raises(ValueError, match="vertex 7"):
        sample_surface(np.zeros((3, 3)), np.array([[0, 1, 7]]), 10)


def test_lists_and_tensors_are_clouds_too():
    points = cloud()
    want = EXTRACTOR(points)["point_values"]
    assert torch.equal(EXTRACTOR(points.tolist())["point_values"], want)
    assert torch.equal(EXTRACTOR(torch.from_numpy(points))["point_values"], want)
    assert EXTRACTOR(np.stack([points, points]))["point_values"].shape == (2, 40, 3)
    assert isinstance(EXTRACTOR(points, return_tensors="np")["point_values"], np.ndarray)
