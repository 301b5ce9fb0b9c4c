"""Files that mean harm, or are only broken: what reads them must refuse them in words and leave nothing behind."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from space_world import bomb, npy, npy_header, npz


@dataclass(frozen=True)
class Hostile:
    """A file, the page that it is sent to (look, embeddings or table), and a word of the refusal."""

    name: str
    page: str
    data: bytes
    word: str

    def write(self, folder: Path) -> Path:
        path = folder / self.name
        path.write_bytes(self.data)
        return path


def png_of(width: int, height: int) -> bytes:
    """A picture that claims a size and holds one row."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def glb(tree: dict, body: bytes = b"") -> bytes:
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    parts = struct.pack("<I4s", len(text), b"JSON") + text
    if body:
        parts += struct.pack("<I4s", len(body), b"BIN\0") + body
    return struct.pack("<4sII", b"glTF", 2, 12 + len(parts)) + parts


def safetensors(header: dict, body: bytes = bytes(64)) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def parquet(**columns: object) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


class _Evil:
    def __reduce__(self) -> tuple[Callable, tuple]:
        return exec, ("open('/tmp/modalbridge-was-here', 'w').close()",)


def objects() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([_Evil()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def tree_with_instances() -> bytes:
    """One mesh, drawn a thousand times: small on disk, large when it is unpacked."""
    body = np.random.default_rng(0).normal(size=(3000, 3)).astype("<f4").tobytes()
    return glb(
        {
            "asset": {"version": "2.0"},
            "scene": 0,
            "scenes": [{"nodes": list(range(1000))}],
            "nodes": [{"mesh": 0}] * 1000,
            "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
            "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3000, "type": "VEC3"}],
            "bufferViews": [{"buffer": 0, "byteLength": len(body)}],
            "buffers": [{"byteLength": len(body)}],
        },
        body,
    )


def outside_links() -> bytes:
    tree = {"asset": {"version": "2.0"}, "buffers": [{"uri": "../../../etc/passwd", "byteLength": 100}]}
    return glb(tree)


def hostile_files() -> list[Hostile]:
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(100, 3))
    broken, endless = cloud.copy(), rng.normal(size=(60, 8)).astype(np.float32)
    broken[7, 1], endless[9, 2] = np.nan, np.inf
    zeros = rng.normal(size=(60, 8))
    zeros[3] = 0
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(picture, "PNG")
    nested = pa.array([[0.5] * 8] * 50, pa.list_(pa.float32()))
    return [
        Hostile("bomb.npz", "look", bomb(400), "unpack"),
        Hostile("bomb-table.npz", "embeddings", bomb(400), "unpack"),
        Hostile("ten-gigabytes.npy", "look", npy_header((833_000_000, 3)), "claims"),
        Hostile("ten-gigabytes-rows.npy", "embeddings", npy_header((2_500_000, 1024)), "claims"),
        Hostile("negative.npy", "look", npy_header((-5, 3)), "claims"),
        Hostile("nan-cloud.npy", "look", npy(broken), "NaN"),
        Hostile("infinite.npy", "embeddings", npy(endless), "infinite"),
        Hostile("zero-rows.npy", "embeddings", npy(zeros), "zeros"),
        Hostile("zero-points.npy", "look", npy(np.zeros((0, 3))), "0 points"),
        Hostile("one-place.npy", "look", npy(np.ones((50, 3))), "one place"),
        Hostile(
            "no-points.ply",
            "look",
            b"ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nend_header\n",
            "no-points.ply",
        ),
        Hostile(
            "billion.ply",
            "look",
            b"ply\nformat binary_little_endian 1.0\nelement vertex 40000000\nproperty float x\nend_header\n",
            "claims",
        ),
        Hostile("picture.npy", "look", picture.getvalue(), "inside it is"),
        Hostile("program.png", "look", b"MZ\x90\x00" + bytes(500), "program"),
        Hostile("text.png", "look", b"<svg onload=alert(1)>", "does not begin"),
        Hostile(
            "page.svg",
            "look",
            b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
            "What is read",
        ),
        Hostile("cut.png", "look", picture.getvalue()[:80], "damaged"),
        Hostile("huge.png", "look", png_of(100_000, 100_000), "pixels"),
        Hostile("empty.glb", "look", b"", "empty"),
        Hostile("links.glb", "look", outside_links(), "outside"),
        Hostile("instances.glb", "look", tree_with_instances(), "corners"),
        Hostile("weights.pkl", "look", pickle.dumps(_Evil()), "pickle"),
        Hostile("model.pt", "embeddings", pickle.dumps(_Evil()), "pickle"),
        Hostile("objects.npy", "embeddings", objects(), "pickle"),
        Hostile("disguised.npy", "embeddings", pickle.dumps(_Evil()), "pickle"),
        Hostile("forged.safetensors", "embeddings", struct.pack("<Q", 1 << 40) + b"{}", "header"),
        Hostile(
            "beyond.safetensors",
            "embeddings",
            safetensors({"x": {"dtype": "F32", "shape": [99, 9], "data_offsets": [0, 3564]}}),
            "could not be read",
        ),
        Hostile(
            "claims.safetensors",
            "embeddings",
            safetensors({"x": {"dtype": "F32", "shape": [99999, 99999], "data_offsets": [0, 64]}}),
            "claims",
        ),
        Hostile(
            "ragged.parquet",
            "table",
            parquet(embedding=pa.array([[1.0, 2.0], [1.0]] * 20), caption=["a"] * 40),
            "different lengths",
        ),
        Hostile(
            "repeats.parquet",
            "table",
            parquet(embedding=pa.array([[0.5] * 8] * 4000), caption=["x" * 100_000] * 4000),
            "caption of",
        ),
        Hostile(
            "many.parquet",
            "table",
            parquet(embedding=pa.array([[0.5] * 900] * 40_000), caption=["x"] * 40_000),
            "claims",
        ),
        Hostile("silent.parquet", "table", parquet(embedding=nested), "no captions"),
        Hostile(
            "blank.parquet",
            "table",
            parquet(embedding=nested, caption=["a chair"] * 49 + ["  "]),
            "no caption in row 49",
        ),
        Hostile("alone.csv", "table", b"caption\na chair\na table\n", "no embeddings"),
        Hostile("binary.csv", "table", b"caption\n\x00\x00\x01", "binary"),
        Hostile("strange.npz", "table", npz(embeddings=rng.normal(size=(50, 8)), caption=np.arange(50)), "no captions"),
    ]
