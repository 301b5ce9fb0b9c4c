"""Reading point clouds and meshes from files, as one kind of object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hf_modalbridge.encoders.point_guards import check_file

__all__ = ["FORMATS", "PointCloud", "read_points", "sample_surface", "split_columns"]

_TRIMESH = (".ply", ".obj", ".glb", ".stl", ".off")
FORMATS = (*_TRIMESH, ".npy", ".npz", ".pcd", ".las", ".laz")
"""File name endings that `read_points` reads."""

_POINT_KEYS = ("points", "xyz", "coords", "pc", "vertices", "point_cloud")
_COLOR_KEYS = ("colors", "rgb", "color")
_NORMAL_KEYS = ("normals", "normal")


@dataclass(frozen=True)
class PointCloud:
    """Points with what is known of them, as they came: no unit or axis has been changed.

    Args:
        points: `(points, 3)` float64.
        colors: `(points, 3)` in [0, 1], or None.
        normals: `(points, 3)`, or None.
        up_axis: "y" or "z" where the format says so, else None.
    """

    points: np.ndarray = field(repr=False)
    colors: np.ndarray | None = field(default=None, repr=False)
    normals: np.ndarray | None = field(default=None, repr=False)
    up_axis: str | None = None


def read_points(path: str | Path, num_points: int = 1024, seed: int = 0) -> PointCloud:
    """Read a file.

    Args:
        path: A file with one of the endings `FORMATS`. Textures and other files beside it are not opened.
        num_points: Points to sample from the surface of a mesh.
        seed: Seed of that sampling.

    Returns:
        The cloud.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the ending is unknown, or the file cannot be read, claims more than it holds, or has no points.
        ImportError: If the library for the format is not installed.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(
            f"{str(path)!r} ends in {path.suffix!r}; point clouds are read from {', '.join(FORMATS)}. Convert it, or "
            "read it yourself and give an array (points, 3)."
        )
    check_file(path)
    try:
        if suffix in _TRIMESH:
            return _read_trimesh(path, num_points, seed)
        return _READERS[suffix](path)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # the readers' own errors are many and seldom say which file it was
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"{str(path)!r} could not be read as {suffix} ({type(error).__name__}: {reason}). Open and export it again "
            "with the tool that it comes from."
        ) from error


def sample_surface(
    vertices: np.ndarray, faces: np.ndarray, num_points: int, seed: int = 0, colors: np.ndarray | None = None
) -> PointCloud:
    """Draw points from triangles, evenly by area (Osada et al., 2002, section 3.1).

    Args:
        vertices: `(vertices, 3)`.
        faces: `(faces, 3)` integer.
        num_points: How many points.
        seed: Seed of the draw.
        colors: `(vertices, 3)` in [0, 1], or None.

    Returns:
        The points with the triangles' normals, and colours between those of the corners.

    Raises:
        ValueError: If the surface has no area, or a face names a vertex that is not there.
    """
    if len(faces) and (faces.min() < 0 or faces.max() >= len(vertices)):
        raise ValueError(f"a face names vertex {faces.max()}, and there are {len(vertices)}; export the mesh again.")
    corners = np.asarray(vertices, dtype=np.float64)[faces]  # (F, 3, 3)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = np.linalg.norm(normals, axis=1) / 2
    if not np.isfinite(areas).all():
        raise ValueError("the mesh has corners that are not finite numbers; repair it first.")
    if areas.sum() <= 0:
        raise ValueError("the mesh has no area: all its triangles are degenerate. Give its vertices as points.")
    rng = np.random.default_rng(seed)
    face = np.searchsorted(np.cumsum(areas), rng.random(num_points) * areas.sum(), side="right").clip(0, len(areas) - 1)
    root, along = np.sqrt(rng.random(num_points)), rng.random(num_points)
    weights = np.stack([1 - root, root * (1 - along), root * along], 1)[:, :, None]  # (P, 3, 1)
    unit = normals[face] / np.maximum(2 * areas[face, None], 1e-300)
    blended = None if colors is None else (np.asarray(colors)[faces[face]] * weights).sum(1)
    return PointCloud((corners[face] * weights).sum(1), blended, unit)


def split_columns(values: np.ndarray, name: str) -> PointCloud:
    """Take an array apart: x, y, z, then colour, then normal.

    Args:
        values: `(points, 3)`, `(points, 6)` with a colour or `(points, 9)` with a normal as well; numbers.
        name: Of where it is from, for the messages.

    Returns:
        The cloud.

    Raises:
        ValueError: If the shape or the kind of numbers is another.
    """
    if values.ndim != 2 or values.shape[1] not in (3, 6, 9) or values.dtype.kind not in "fiu":
        raise ValueError(
            f"{name} has shape {values.shape} and dtype {values.dtype}; expected numbers (points, 3): x, y, z, or "
            "(points, 6) with red, green, blue, or (points, 9) with a normal as well."
        )
    values = values.astype(np.float64)
    width = values.shape[1]
    return PointCloud(
        values[:, :3], scale_colors(values[:, 3:6], name) if width > 3 else None, values[:, 6:9] if width > 6 else None
    )


def scale_colors(colors: np.ndarray, name: str) -> np.ndarray:
    """Bring colours to [0, 1]: 8-bit and 16-bit ones are divided by 255 and 65,535.

    Args:
        colors: `(points, 3)` or `(points, 4)`; a fourth column, opacity, is left out.
        name: Of where they are from, for the messages.

    Returns:
        `(points, 3)` float64.

    Raises:
        ValueError: If they are negative, not finite, or above 65,535.
    """
    colors = np.asarray(colors)
    kind = colors.dtype
    values = colors.astype(np.float64)[:, :3]
    low, high = (values.min(), values.max()) if values.size else (0.0, 0.0)
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > 65535:
        raise ValueError(f"{name} has colours from {low} to {high}; expected [0, 1], or 0 to 255.")
    if kind == np.uint8 or 1 < high <= 255:
        return values / 255
    return values / 65535 if high > 255 or kind == np.uint16 else values


def _read_trimesh(path: Path, num_points: int, seed: int) -> PointCloud:
    try:
        import trimesh
    except ImportError as error:
        raise ImportError(
            f"reading {path.suffix} needs trimesh; install it with `pip install hf-modalbridge[points]`."
        ) from error
    with path.open("rb") as file:  # without its path: no other file is opened for textures and materials
        scene = trimesh.load_scene(file, file_type=path.suffix[1:].lower(), process=False)
    return from_trimesh(scene, num_points, seed)


def from_trimesh(scene: Any, num_points: int, seed: int) -> PointCloud:
    """Turn a trimesh scene, mesh or point cloud into a cloud.

    Args:
        scene: The trimesh object.
        num_points: Points to sample from faces.
        seed: Seed of the sampling.

    Returns:
        Points of the surface if there are faces, else the vertices.

    Raises:
        ValueError: If there is neither.
    """
    parts = scene.dump(concatenate=False) if hasattr(scene, "dump") else [scene]
    meshes = [part for part in parts if len(getattr(part, "faces", ())) and len(part.vertices)]
    if meshes:
        colors = [_mesh_colors(mesh) for mesh in meshes]
        starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
        return sample_surface(
            np.concatenate([np.asarray(mesh.vertices, dtype=np.float64) for mesh in meshes]),
            np.concatenate([np.asarray(m.faces) + start for m, start in zip(meshes, starts, strict=False)]),
            num_points,
            seed,
            None if any(color is None for color in colors) else np.concatenate(colors),
        )
    clouds = [part for part in parts if len(getattr(part, "vertices", ()))]
    if not clouds:
        raise ValueError("there are neither points nor faces in it")
    points = np.concatenate([np.asarray(cloud.vertices, dtype=np.float64) for cloud in clouds])
    colors = [np.asarray(getattr(cloud, "colors", ())) for cloud in clouds]
    given = all(color.shape == (len(cloud.vertices), 4) for color, cloud in zip(colors, clouds, strict=True))
    normals = None
    if len(clouds) == 1:  # trimesh keeps a PLY's normals only in its raw data
        raw = clouds[0].metadata.get("_ply_raw", {}).get("vertex", {}).get("data")
        names = getattr(getattr(raw, "dtype", None), "names", None) or (raw.keys() if isinstance(raw, dict) else ())
        if raw is not None and {"nx", "ny", "nz"} <= set(names):
            normals = np.stack([np.asarray(raw[n], dtype=np.float64).reshape(-1) for n in ("nx", "ny", "nz")], 1)
        if raw is not None and not {"red", "green", "blue"} <= set(names):
            given = False  # trimesh paints what has no colour
    return PointCloud(points, scale_colors(np.concatenate(colors), "the file") if given else None, normals)


def _mesh_colors(mesh: Any) -> np.ndarray | None:
    """Colours of a mesh's vertices where it has some: its own, or those of its material."""
    visual = getattr(mesh, "visual", None)
    kind = getattr(visual, "kind", None)
    if visual is None or kind not in ("vertex", "face", "texture"):
        return None
    try:
        colors = visual.to_color().vertex_colors if kind == "texture" else visual.vertex_colors
    except (AttributeError, ValueError, IndexError, TypeError):  # a material without what its texture needs
        return None
    colors = np.asarray(colors)
    return scale_colors(colors, "the mesh") if colors.shape == (len(mesh.vertices), 4) else None


def _read_npy(path: Path) -> PointCloud:
    return split_columns(np.load(path, allow_pickle=False), f"the array in {path.name!r}")


def _read_npz(path: Path) -> PointCloud:
    with np.load(path, allow_pickle=False) as arrays:
        return from_mapping({name: arrays[name] for name in arrays.files}, f"the archive {path.name!r}")


def from_mapping(values: Mapping[str, Any], name: str) -> PointCloud:
    """Take a cloud from arrays by name.

    Args:
        values: Points under one of `points`, `xyz`, `coords`, `pc`, `vertices`, or the only array; colours under
            `colors`, `rgb`; normals under `normals`.
        name: Of where they are from, for the messages.

    Returns:
        The cloud.

    Raises:
        ValueError: If there are no points, or another number of colours or normals than points.
    """

    def find(keys: tuple[str, ...]) -> np.ndarray | None:
        return next((np.asarray(values[key]) for key in keys if values.get(key) is not None), None)

    points = find(_POINT_KEYS)
    if points is None:
        arrays = [np.asarray(value) for value in values.values()]
        if len(arrays) != 1:
            raise ValueError(f"{name} has {sorted(values)}; expected points under one of {', '.join(_POINT_KEYS)}.")
        points = arrays[0]
    cloud = split_columns(points, f"{name}, points,")
    colors, normals = find(_COLOR_KEYS), find(_NORMAL_KEYS)
    for what, found in (("colors", colors), ("normals", normals)):
        if found is not None and (found.ndim != 2 or len(found) != len(points) or found.shape[1] not in (3, 4)):
            raise ValueError(
                f"{name} has {what} of shape {found.shape} for points of shape {points.shape}; expected one a point, "
                "(points, 3)."
            )
    return PointCloud(
        cloud.points,
        cloud.colors if colors is None else scale_colors(colors, name),
        cloud.normals if normals is None else normals.astype(np.float64)[:, :3],
    )


def _read_pcd(path: Path) -> PointCloud:
    try:
        from pypcd4 import PointCloud as Pcd
    except ImportError as error:
        raise ImportError("reading .pcd needs pypcd4; install it with `pip install hf-modalbridge[scans]`.") from error
    cloud = Pcd.from_path(path)
    fields = {name: np.asarray(values) for name, values in zip(cloud.fields, cloud.numpy(cloud.fields).T, strict=True)}
    points = np.stack([fields[name] for name in "xyz"], 1).astype(np.float64)
    colors = None
    if "rgb" in cloud.fields:
        colors = scale_colors(np.asarray(Pcd.decode_rgb(fields["rgb"].astype(np.float32)), dtype=np.uint8), path.name)
    names = ("normal_x", "normal_y", "normal_z")
    normals = np.stack([fields[name] for name in names], 1).astype(np.float64) if fields.keys() >= set(names) else None
    kept = np.isfinite(points).all(1)  # PCD marks pixels without a measurement by NaN
    return PointCloud(
        points[kept], None if colors is None else colors[kept], None if normals is None else normals[kept]
    )


def _read_las(path: Path) -> PointCloud:
    try:
        import laspy
    except ImportError as error:
        raise ImportError(
            f"reading {path.suffix} needs laspy; install it with `pip install hf-modalbridge[scans]`."
        ) from error
    scan = laspy.read(path)
    names = set(scan.point_format.dimension_names)
    colors = np.stack([scan.red, scan.green, scan.blue], 1) if {"red", "green", "blue"} <= names else None
    if colors is not None and not colors.any():  # a format with colour, and none given
        colors = None
    scaled = None if colors is None else scale_colors(colors.astype(np.uint16), path.name)
    return PointCloud(np.asarray(scan.xyz, dtype=np.float64), scaled, up_axis="z")  # heights, by the specification


_READERS: dict[str, Callable[[Path], PointCloud]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".pcd": _read_pcd,
    ".las": _read_las,
    ".laz": _read_las,
}
