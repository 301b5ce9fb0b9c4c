"""3D files for the viewer: judged before they are read, and written anew, so that only their shape goes further."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from .uploads import Limits, Refused

__all__ = ["cloud_glb", "mesh_glb", "prepare_scene"]

_MOST_FACES = 200_000
_DRAWN_POINTS = 2048
_OCTAHEDRON = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], np.float64)
_OCTAHEDRON_FACES = np.array(
    [[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]], np.int64
)
# dark blue over green to yellow, readable on white and on black
_RAMP = np.array([[0.21, 0.31, 0.65], [0.16, 0.55, 0.62], [0.30, 0.72, 0.44], [0.93, 0.76, 0.24]])


def prepare_scene(path: Path, suffix: str, name: str, limits: Limits) -> None:
    """Refuse a scene that is small on disk and large in memory; take the pictures out of one that has some.

    Args:
        path: A file whose own claims were checked by `point_guards.check_file`.
        suffix: Its ending.
        name: To show.
        limits: How many points.

    Raises:
        Refused: If it claims too much, or refers to something outside itself.
    """
    if suffix == ".glb":
        _prepare_glb(path, name, limits)
    elif suffix in (".obj", ".off"):
        with path.open("rb") as file:
            lines = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
        if lines > 3 * limits.points:
            raise Refused(f"“{name}” has {lines:,} lines; at most {3 * limits.points:,} are read here. Thin it first.")


def _prepare_glb(path: Path, name: str, limits: Limits) -> None:
    data = path.read_bytes()
    length = struct.unpack("<I", data[12:16])[0]
    tree = json.loads(data[20 : 20 + length])
    if not isinstance(tree, dict):
        raise Refused(f"“{name}” has no readable description of its scene. Export it again.")
    if any(
        str(entry.get("uri", "data:"))[:5] != "data:" for key in ("buffers", "images") for entry in tree.get(key, [])
    ):
        raise Refused(f"“{name}” refers to files outside itself, which are never opened. Export it with all in one.")
    counts = [int(accessor.get("count", 0)) for accessor in tree.get("accessors", [])]
    corners = [
        sum(counts[part["attributes"]["POSITION"]] for part in mesh.get("primitives", []))
        for mesh in tree.get("meshes", [])
    ]
    nodes = tree.get("nodes", [])
    children = [child for node in nodes for child in node.get("children", [])]
    most = max(sum(corners[node["mesh"]] for node in nodes if "mesh" in node), sum(counts) // 8)
    if most > limits.points:
        raise Refused(
            f"“{name}” would have {most:,} corners when it is unpacked; at most {limits.points:,} are taken here. Thin "
            "it first."
        )
    if len(set(children)) != len(children) or len(nodes) > 10_000:
        raise Refused(f"“{name}” has parts that occur more than once in its tree. Export it again.")
    if tree.get("images") or tree.get("textures"):
        path.write_bytes(_without_pictures(tree, data[20 + length :]))


def _without_pictures(tree: dict[str, Any], rest: bytes) -> bytes:
    """Take the textures out: a picture inside a model may unpack to anything, and the shape does not need it."""
    kept = {key: value for key, value in tree.items() if key not in ("images", "textures", "samplers")}
    kept["materials"] = [
        {"pbrMetallicRoughness": {"baseColorFactor": material.get("pbrMetallicRoughness", {})["baseColorFactor"]}}
        if "baseColorFactor" in material.get("pbrMetallicRoughness", {})
        else {}
        for material in tree.get("materials", [])
    ]
    text = json.dumps(kept, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    return struct.pack("<4sIII4s", b"glTF", 2, 20 + len(text) + len(rest), len(text), b"JSON") + text + rest


def mesh_glb(path: Path, suffix: str) -> bytes | None:
    """Write the surface of a checked 3D file for the viewer.

    Args:
        path: The file.
        suffix: Its ending.

    Returns:
        A .glb file; None if it has no faces or too many to draw.
    """
    import trimesh

    with path.open("rb") as file:
        scene: Any = trimesh.load_scene(file, file_type=suffix[1:], process=False)
    parts = [part for part in scene.dump(concatenate=False) if len(getattr(part, "faces", ()))]
    if not parts or sum(len(part.faces) for part in parts) > _MOST_FACES:
        return None
    starts = np.cumsum([0, *(len(part.vertices) for part in parts)])
    vertices = np.concatenate([np.asarray(part.vertices, np.float64) for part in parts])
    faces = np.concatenate([np.asarray(part.faces) + start for part, start in zip(parts, starts, strict=False)])
    if faces.max() >= len(vertices) or faces.min() < 0 or not np.isfinite(vertices).all():
        return None
    given = [p.visual.vertex_colors[:, :3] if getattr(p.visual, "kind", None) == "vertex" else None for p in parts]
    colors = None if any(color is None for color in given) else np.concatenate(given) / 255
    return _write(_unit(vertices), faces, _by_height(vertices) if colors is None else colors)


def cloud_glb(points: np.ndarray, colors: np.ndarray | None = None) -> bytes:
    """Draw points as small solids, since viewers draw bare points one pixel large.

    Args:
        points: `(points, 3)`.
        colors: `(points, 3)` in [0, 1], or None to colour by height.

    Returns:
        A .glb file.
    """
    chosen = np.random.default_rng(0).permutation(len(points))[:_DRAWN_POINTS]
    unit = _unit(points)[chosen]
    tint = (_by_height(points) if colors is None else np.asarray(colors)[:, :3])[chosen]
    radius = 0.7 / math.sqrt(len(chosen))
    corners = (unit[:, None] + radius * _OCTAHEDRON).reshape(-1, 3)
    faces = (np.arange(len(chosen))[:, None, None] * len(_OCTAHEDRON) + _OCTAHEDRON_FACES).reshape(-1, 3)
    return _write(corners, faces, np.repeat(tint, len(_OCTAHEDRON), 0))


def _unit(points: np.ndarray) -> np.ndarray:
    low, high = points.min(0), points.max(0)
    return (points - (low + high) / 2) / max(float((high - low).max()), 1e-30) * 2


def _by_height(points: np.ndarray) -> np.ndarray:
    low, high = points[:, 1].min(), points[:, 1].max()
    height = (points[:, 1] - low) / max(float(high - low), 1e-30)
    place = np.linspace(0, 1, len(_RAMP))
    return np.stack([np.interp(height, place, _RAMP[:, c]) for c in range(3)], 1)


def _write(vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray) -> bytes:
    import trimesh

    tints = np.concatenate([np.clip(colors, 0, 1), np.ones((len(colors), 1))], 1)
    mesh = trimesh.Trimesh(vertices, faces, vertex_colors=(tints * 255).astype(np.uint8), process=False)
    data = mesh.export(file_type="glb")
    return bytes(data)
