"""From clouds and files to what `PointEncoder` takes."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, FeatureExtractionMixin

from hf_modalbridge.encoders.point_files import (
    FORMATS,
    PointCloud,
    from_mapping,
    from_trimesh,
    read_points,
    split_columns,
)
from hf_modalbridge.functional.points import subsample_points, unit_sphere

__all__ = ["MIN_POINTS", "PointFeatureExtractor"]

MIN_POINTS = 16
"""Clouds of fewer points are refused."""

_LARGEST = 1e15  # squares of larger coordinates leave float32's range


class PointFeatureExtractor(FeatureExtractionMixin):
    """Clouds of any unit and size to padded, normalised tensors.

    The encoder's frame is x right, y up, z towards the viewer, as in glTF. Units do not matter: each cloud is centred
    and scaled so that its farthest point has distance 1, so size is not seen. Clouds of more than `num_points` points
    are thinned (`functional.points.subsample_points`: seeded, the same for any order of the points), meshes sampled
    evenly by area; smaller clouds are taken whole.

    Args:
        num_points: Most points of a cloud.
        use_color: Whether to give colours; as in the model's configuration.
        use_normals: Whether to give normals; as in the model's configuration.
        normalize: Whether to centre and scale.
        center: "box" centres on the bounding box, "mean" on the centroid.
        up_axis: What is up in the data: "y", or "z" as in most scans, CAD files and robots. LAS files are z-up by
            their specification, whatever this says; a call or an item can say otherwise.
        seed: Seed of thinning and of the sampling of meshes.
        **kwargs: Kept by transformers' base class.
    """

    model_input_names = ["point_values", "point_mask"]

    def __init__(
        self,
        num_points: int = 1024,
        use_color: bool = False,
        use_normals: bool = False,
        normalize: bool = True,
        center: str = "box",
        up_axis: str = "y",
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if num_points < MIN_POINTS:
            raise ValueError(f"PointFeatureExtractor got num_points {num_points}; expected {MIN_POINTS} or more.")
        self.num_points, self.use_color, self.use_normals = num_points, use_color, use_normals
        self.normalize, self.center, self.up_axis, self.seed = normalize, center, _axis(up_axis), seed

    def __call__(
        self, points: Any = None, return_tensors: str | None = "pt", up_axis: str | None = None, **kwargs
    ) -> BatchFeature:
        """Prepare clouds.

        Args:
            points: One cloud or a list of them. A cloud is an array or tensor `(points, 3)`, `(points, 6)` with a
                colour or `(points, 9)` with a normal as well; a dict with `points` and perhaps `colors`, `normals`,
                `up_axis`, or with `path`; the path of a file (see `FORMATS`); or a trimesh object. Colours are in
                [0, 1] or 0 to 255. An array `(clouds, points, channels)` is a list.
            return_tensors: "pt" for tensors, "np" for arrays.
            up_axis: What is up in these clouds; None for the extractor's own.
            **kwargs: Ignored; transformers' processors pass options of other modalities along.

        Returns:
            `point_values` `(clouds, most points, channels)` float32: x, y, z, then, if used, red, green, blue in
            [-1, 1] and 1 (or four zeros without a colour), then the unit normal and 1 (or four zeros); `point_mask`
            `(clouds, most points)`, True for points, False for padding.

        Raises:
            ValueError: If a cloud has fewer than 16 points, numbers that are not finite, no extent, or cannot be read.
            FileNotFoundError: If a path does not exist.
            TypeError: If an item is of another kind.
        """
        items = _as_list(points)
        if not items:
            raise ValueError("PointFeatureExtractor got no clouds; give at least one.")
        own = None if up_axis is None else _axis(up_axis)
        rows = [self._prepare(item, own, f"cloud {place}") for place, item in enumerate(items)]
        size = max(len(row) for row in rows)
        values = torch.zeros(len(rows), size, rows[0].shape[1])
        mask = torch.zeros(len(rows), size, dtype=torch.bool)
        for place, row in enumerate(rows):
            values[place, : len(row)] = row
            mask[place, : len(row)] = True
        data = {"point_values": values, "point_mask": mask}
        return BatchFeature(data if return_tensors == "pt" else {key: value.numpy() for key, value in data.items()})

    def _prepare(self, item: Any, up_axis: str | None, name: str) -> Tensor:
        """One cloud `(points, channels)`."""
        cloud, name = self._read(item, name)
        points = cloud.points
        if len(points) < MIN_POINTS:
            raise ValueError(f"{name} has {len(points)} points; expected {MIN_POINTS} or more.")
        bad = ~(np.abs(points) < _LARGEST).all(1)  # NaN compares false
        if bad.any():
            raise ValueError(
                f"{name} has {int(bad.sum()):,} of {len(points):,} points with NaN, infinite or huge coordinates, "
                f"first at row {int(bad.argmax())}. Remove them first."
            )
        columns = [points]
        for what, values, used in (
            ("colours", cloud.colors, self.use_color),
            ("normals", cloud.normals, self.use_normals),
        ):
            if used and values is not None and not np.isfinite(values).all():
                raise ValueError(f"{name} has {what} that are not finite numbers; remove them, or leave {what} out.")
            if used:
                columns.append(np.zeros((len(points), 3)) if values is None else values)
        table = torch.from_numpy(np.concatenate(columns, 1))
        table = table[subsample_points(table, self.num_points, self.seed)]
        xyz = _turn_up(table[:, :3], up_axis or cloud.up_axis or self.up_axis)
        if self.normalize:
            xyz, _, scale = unit_sphere(xyz[None], center=self.center)
            if not (xyz.abs() > 0).any():
                raise ValueError(f"{name} has no extent: all its points are in one place. Check its coordinates.")
            xyz = xyz[0]
        out, at = [xyz], 3
        if self.use_color:
            known = float(cloud.colors is not None)
            out += [(table[:, at : at + 3] * 2 - 1) * known, torch.full((len(xyz), 1), known)]
            at += 3
        if self.use_normals:
            known = float(cloud.normals is not None)
            normals = _turn_up(table[:, at : at + 3], up_axis or cloud.up_axis or self.up_axis)
            out += [torch.nn.functional.normalize(normals, dim=1), torch.full((len(xyz), 1), known)]
        return torch.cat([part.to(torch.float32) for part in out], 1)

    def _read(self, item: Any, name: str) -> tuple[PointCloud, str]:
        """Take a cloud from whatever it comes as, and say what it is called."""
        if isinstance(item, str | PathLike):
            return read_points(Path(item), self.num_points, self.seed), repr(str(item))
        if isinstance(item, Mapping):
            axis = item.get("up_axis")
            if item.get("path") is not None:
                cloud, name = self._read(item["path"], name)
            else:
                values = {key: _array(value, name) for key, value in item.items() if key != "up_axis"}
                cloud = from_mapping(values, name)
            if axis is not None:
                cloud = PointCloud(cloud.points, cloud.colors, cloud.normals, _axis(axis))
            return cloud, name
        if type(item).__module__.startswith("trimesh"):
            return from_trimesh(item, self.num_points, self.seed), name
        return split_columns(_array(item, name), name), name


def _array(value: Any, name: str) -> np.ndarray:
    """An array of what is array-like; nothing is made of objects."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    if not isinstance(value, np.ndarray | list | tuple):
        raise TypeError(
            f"{name} is of type {type(value).__name__}; expected an array or tensor (points, 3), a dict with 'points', "
            f"or the path of a file ({', '.join(FORMATS)})."
        )
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is a list of rows of different lengths; expected (points, 3).") from error
    if array.dtype.hasobject:
        raise ValueError(f"{name} is an array of Python objects; expected numbers (points, 3).")
    return array


def _as_list(points: Any) -> list[Any]:
    """One cloud or many, as a list of clouds."""
    if isinstance(points, np.ndarray | Tensor):
        return list(points) if points.ndim == 3 else [points]
    if isinstance(points, list | tuple):
        # rows of numbers are one cloud; anything else is a list of clouds
        row = points[0] if points else None
        one = isinstance(row, list | tuple) and row and isinstance(row[0], int | float)
        return [points] if one else list(points)
    return [] if points is None else [points]


def _axis(name: str) -> str:
    if name not in ("y", "z"):
        raise ValueError(f"got up_axis {name!r}; expected 'y' or 'z'. Turn clouds with another axis up yourself.")
    return name


def _turn_up(points: Tensor, up_axis: str) -> Tensor:
    """Turn z up into y up, a quarter about x: `(points, 3)`."""
    if up_axis == "y":
        return points
    x, y, z = points.unbind(-1)
    return torch.stack([x, z, -y], -1)
