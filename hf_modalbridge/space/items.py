"""Things to talk about, from uploaded files: a picture, a 3D file, a touch recording; each with what shows it."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from hf_modalbridge.encoders.image_processing import flatten_on_white
from hf_modalbridge.encoders.point_files import PointCloud, read_points, split_columns
from hf_modalbridge.encoders.point_guards import check_file

from .scenes import cloud_glb, mesh_glb, prepare_scene
from .uploads import Limits, Refused, check_upload, open_archive, plain_name, read_array, refusals

__all__ = ["ITEM_FILES", "Item", "cloud_item", "picture_item", "picture_uri", "read_item", "touch_item"]

_PICTURES = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP", ".gif": "GIF", ".bmp": "BMP"}
_SCENES = (".glb", ".obj", ".ply", ".stl", ".off")
ITEM_FILES = (*_PICTURES, ".jpeg", *_SCENES, ".npy", ".npz")
"""File name endings that `read_item` reads."""

MODALITIES = {"image": "picture", "point": "3D object", "touch": "touch recording"}
_MIN_POINTS = 16


@dataclass
class Item:
    """Something to talk about.

    Args:
        modality: "image", "point" or "touch".
        name: To show.
        value: What the processor takes: a picture, `{"points", "colors"}`, or an array `(frames, channels)`.
        html: A picture of it, safe to put into a page; empty for what the 3D viewer shows.
        glb: What the 3D viewer shows.
    """

    modality: str
    name: str
    value: Any = field(repr=False)
    html: str = field(default="", repr=False)
    glb: bytes | None = field(default=None, repr=False)


def read_item(path: str | Path, limits: Limits, touch_channels: int = 44) -> Item:
    """Read an uploaded file.

    Args:
        path: A file with one of the endings `ITEM_FILES`. An array of width 3, 6 or 9 is a cloud, one as wide as a
            touch recording is one.
        limits: How much it may be.
        touch_channels: Channels of a touch recording.

    Returns:
        The item.

    Raises:
        Refused: If it is none of these, too large, damaged, or empty of contents.
    """
    suffix = check_upload(path, ITEM_FILES, limits)
    name = plain_name(path)
    with refusals(path):
        if suffix in _PICTURES:
            return picture_item(_read_picture(Path(path), _PICTURES[suffix], name, limits), name)
        if suffix in _SCENES:
            check_file(Path(path))
            prepare_scene(Path(path), suffix, name, limits)
            cloud = read_points(path, 4096)
            return cloud_item(cloud, name, limits, mesh_glb(Path(path), suffix))
        arrays = _read_arrays(Path(path), suffix, name, limits)
        only = next(iter(arrays.values()))
        touch = arrays.get("touch", arrays.get("array", only if only.shape[1:] == (touch_channels,) else None))
        if touch is not None:
            return touch_item(touch, name, touch_channels)
        return cloud_item(_cloud(arrays, name), name, limits)


def picture_item(image: Image.Image, name: str) -> Item:
    """Make an item of a picture.

    Args:
        image: Any picture that was read whole.
        name: To show.

    Returns:
        The item; the picture is on white and at most 1,024 pixels a side.
    """
    image = flatten_on_white(image)
    image.thumbnail((1024, 1024))
    return Item("image", name, image, f'<img class="mb-shown" alt="{escape(name)}" src="{picture_uri(image, 480)}">')


def picture_uri(image: Image.Image, side: int) -> str:
    """Write a picture into an address, so that no file has to be kept for it.

    Args:
        image: The picture.
        side: Longest side in pixels.

    Returns:
        A `data:` address.
    """
    small = flatten_on_white(image).copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=82)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def cloud_item(cloud: PointCloud, name: str, limits: Limits, glb: bytes | None = None) -> Item:
    """Make an item of a cloud.

    Args:
        cloud: Its points.
        name: To show.
        limits: How many points.
        glb: What the viewer shows; None draws the points.

    Returns:
        The item.

    Raises:
        Refused: If it has too few or too many points, NaN among them, or no extent.
    """
    points = cloud.points
    if len(points) < _MIN_POINTS:
        raise Refused(f"“{name}” has {len(points)} points; expected {_MIN_POINTS} or more.")
    if len(points) > limits.points:
        raise Refused(f"“{name}” has {len(points):,} points; at most {limits.points:,} are taken here. Thin it first.")
    bad = ~(np.abs(points) < 1e15).all(1)  # NaN compares false
    if bad.any():
        raise Refused(
            f"“{name}” has NaN, infinite or huge coordinates in {int(bad.sum()):,} of {len(points):,} points, first "
            f"point {int(bad.argmax())}. Remove them first."
        )
    if not np.ptp(points, axis=0).any():
        raise Refused(f"“{name}” has all its points in one place, so there is no shape to see.")
    value: dict[str, Any] = {"points": points}
    if cloud.colors is not None and np.isfinite(cloud.colors).all():
        value["colors"] = cloud.colors
    if cloud.up_axis is not None:
        value["up_axis"] = cloud.up_axis
    return Item("point", name, value, glb=glb or cloud_glb(points, value.get("colors")))


def touch_item(values: np.ndarray, name: str, channels: int) -> Item:
    """Make an item of a touch recording.

    Args:
        values: `(frames, channels)`.
        name: To show.
        channels: How many there should be.

    Returns:
        The item, shown as a picture: time to the right, a row a channel.

    Raises:
        Refused: If it has another shape, or NaN.
    """
    if values.ndim != 2 or values.shape[1] != channels or len(values) < 2:
        raise Refused(f"“{name}” has shape {values.shape}; a touch recording is (two frames or more, {channels}).")
    values = values.astype(np.float64)
    bad = ~np.isfinite(values).all(1)
    if bad.any():
        raise Refused(f"“{name}” has NaN or infinite numbers in {int(bad.sum()):,} of {len(values):,} frames.")
    shown = values[np.linspace(0, len(values) - 1, min(len(values), 480)).astype(int)].T
    low, high = shown.min(1, keepdims=True), shown.max(1, keepdims=True)
    grey = ((shown - low) / np.where(high > low, high - low, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(grey).resize((480, 6 * channels), Image.Resampling.NEAREST)
    tinted = ImageOps.colorize(picture, (18, 24, 48), (255, 214, 120), (70, 130, 180))
    caption = f"{len(values):,} frames of {channels} channels, time to the right"
    html = f'<figure><img class="mb-shown" alt="{escape(name)}" src="{picture_uri(tinted, 480)}">'
    return Item("touch", name, values, html + f"<figcaption>{caption}</figcaption></figure>")


def _read_picture(path: Path, kind: str, name: str, limits: Limits) -> Image.Image:
    try:
        with Image.open(path, formats=[kind]) as image:  # reads the header only
            width, height = image.size
            if width * height > limits.pixels:
                raise Refused(
                    f"“{name}” is {width:,} × {height:,} pixels large; at most {limits.pixels:,} pixels are taken. "
                    "Nothing of it was read."
                )
            image.draft("RGB", (1024, 1024))
            return ImageOps.exif_transpose(image.convert("RGBA" if "A" in image.mode else "RGB")).copy()
    except Image.DecompressionBombError as error:
        raise Refused(f"“{name}” claims far too many pixels. Nothing of it was read.") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, Refused):
            raise
        raise Refused(f"“{name}” is a damaged picture. Please save it again.") from error


def _read_arrays(path: Path, suffix: str, name: str, limits: Limits) -> dict[str, np.ndarray]:
    if suffix == ".npy":
        with path.open("rb") as file:
            return {"points": _numbers(read_array(file, path.stat().st_size, name, limits), name)}
    arrays = {}
    with open_archive(path, limits) as archive:
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                raise Refused(f"“{name}” holds “{plain_name(member.filename)}”, which is no array.")
            key = plain_name(member.filename).removesuffix(".npy")
            with archive.open(member) as file:
                arrays[key] = _numbers(read_array(file, member.file_size, f"{name}: {key}", limits), name)  # type: ignore[arg-type]
    return arrays


def _numbers(values: np.ndarray, name: str) -> np.ndarray:
    if values.dtype.kind not in "fiu" or values.ndim != 2:
        raise Refused(
            f"“{name}” holds an array of shape {values.shape} and type {values.dtype}; expected numbers: points "
            "(n, 3), or a touch recording (frames, channels)."
        )
    return values


def _cloud(arrays: dict[str, np.ndarray], name: str) -> PointCloud:
    from hf_modalbridge.encoders.point_files import from_mapping

    if len(arrays) > 1:
        return from_mapping(arrays, f"“{name}”")
    return split_columns(next(iter(arrays.values())), f"“{name}”")
