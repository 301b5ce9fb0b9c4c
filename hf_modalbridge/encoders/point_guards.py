"""Checks of point cloud files before anything of the size that they claim is allocated."""

from __future__ import annotations

import json
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

__all__ = ["MAX_POINTS", "check_file", "check_npy_header"]

MAX_POINTS = 50_000_000
"""More points than this in a file are refused: cut or thin it with the tool it comes from."""

_HEADER = 1 << 16
_PLY_BYTES = {"char": 1, "short": 2, "int": 4, "float": 4, "double": 8}
_PLY_BYTES |= {f"u{name}": size for name, size in _PLY_BYTES.items()} | {
    "int8": 1,
    "uint8": 1,
    "int16": 2,
    "uint16": 2,
    "int32": 4,
    "uint32": 4,
    "float32": 4,
    "float64": 8,
}


def check_file(path: Path) -> None:
    """Refuse a file whose header claims more than the file holds, or more than `MAX_POINTS`.

    Args:
        path: A file of a format that `read_points` reads.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is empty, cut off, or claims too much.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no point cloud file at {str(path)!r}; give a path that exists, or an array.")
    size = path.stat().st_size
    if not size:
        raise ValueError(f"{str(path)!r} is empty; expected a point cloud or mesh.")
    check = _CHECKS.get(path.suffix.lower())
    if check is not None:
        with path.open("rb") as file:
            check(file, size, str(path))


def check_npy_header(file: BinaryIO, size: int, name: str) -> None:
    """Refuse an array of objects, or one that is larger than its file.

    Args:
        file: Open at the start of a .npy file.
        size: Its bytes.
        name: Of the file, for the messages.

    Raises:
        ValueError: If it is not a .npy file, holds objects (pickles), or claims too much.
    """
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file, max_header_size=10_000)
    except (ValueError, EOFError, SyntaxError) as error:
        raise ValueError(f"{name!r} is no readable .npy array ({error}); write it again with numpy.save.") from error
    if dtype.hasobject:
        raise ValueError(
            f"{name!r} holds Python objects, which would have to be unpickled; that is never done. Save a plain float "
            "array (points, 3)."
        )
    rows = 1
    for length in shape:
        rows *= int(length)
    _refuse(rows * dtype.itemsize > size, name, f"an array {tuple(shape)} of {dtype}", size)
    _refuse_many(int(shape[0]) if len(shape) > 1 else 0, name)


def _refuse(claims_more: bool, name: str, claim: str, size: int) -> None:
    if claims_more:
        raise ValueError(
            f"{name!r} claims {claim}, but has only {size:,} bytes: it is cut off or forged, and nothing was read. "
            "Download or export it again."
        )


def _refuse_many(points: int, name: str) -> None:
    if points > MAX_POINTS:
        raise ValueError(
            f"{name!r} claims {points:,} points, and at most {MAX_POINTS:,} are read; thin it first with the tool that "
            "it comes from."
        )


def _check_npz(file: BinaryIO, size: int, name: str) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                _refuse_many(info.file_size // 24, name)  # what a bomb unpacks to; three doubles are a point
                if info.filename.endswith(".npy"):
                    with archive.open(info) as member:
                        check_npy_header(member, info.file_size, f"{name}:{info.filename}")
    except zipfile.BadZipFile as error:
        raise ValueError(f"{name!r} is no .npz archive ({error}); write it again with numpy.savez.") from error


def _check_ply(file: BinaryIO, size: int, name: str) -> None:
    head = file.read(_HEADER)
    end = head.find(b"end_header")
    if not head.startswith(b"ply") or end < 0:
        raise ValueError(f"{name!r} has no PLY header (ply ... end_header); export it again.")
    binary, rows, width = False, 0, 0
    total = 0
    for line in head[:end].decode("ascii", "replace").splitlines():
        words = line.split()
        if words[:1] == ["format"]:
            binary = len(words) > 1 and words[1].startswith("binary")
        elif words[:1] == ["element"] and len(words) == 3:
            total += rows * width
            if not words[2].isdigit():
                raise ValueError(f"{name!r} has the PLY header line {line!r}; expected a count. Export it again.")
            rows, width = int(words[2]), 0
            if words[1] == "vertex":
                _refuse_many(rows, name)
        elif words[:1] == ["property"] and len(words) > 2:
            kind = words[2] if words[1] == "list" else words[1]  # a list has its length at least
            width += _PLY_BYTES.get(kind, 1) if binary else 2  # a digit and a space
    total += rows * width
    _refuse(total > size, name, f"{total:,} bytes of elements", size)


def _check_off(file: BinaryIO, size: int, name: str) -> None:
    text = re.sub(rb"#.*", b"", file.read(_HEADER)).split(b"\n")
    words = b" ".join(text[:20]).split()
    if words and words[0].upper().endswith(b"OFF"):
        words = words[1:]
    elif words and words[0].upper().startswith(b"OFF"):  # "OFF8 12 0", as ModelNet has it
        words = [words[0][3:], *words[1:]]
    if len(words) < 2 or not words[0].isdigit() or not words[1].isdigit():
        raise ValueError(f"{name!r} has no OFF header (OFF, then the numbers of vertices, faces and edges).")
    vertices, faces = int(words[0]), int(words[1])
    _refuse_many(vertices, name)
    _refuse(6 * vertices + 4 * faces > size, name, f"{vertices:,} vertices and {faces:,} faces", size)


def _check_stl(file: BinaryIO, size: int, name: str) -> None:
    head = file.read(84)
    if head.startswith(b"solid") and b"\x00" not in head:
        return  # text, which claims nothing
    count = struct.unpack("<I", head[80:84])[0] if len(head) == 84 else 0
    _refuse_many(count, name)
    _refuse(len(head) < 84 or 84 + 50 * count > size, name, f"{count:,} triangles", size)


def _check_glb(file: BinaryIO, size: int, name: str) -> None:
    head = file.read(20)
    if len(head) < 20 or head[:4] != b"glTF":
        raise ValueError(f"{name!r} is no binary glTF file; export it again as .glb.")
    _, total, length, _ = struct.unpack("<IIII", head[4:])
    _refuse(total > size or length > total, name, f"{max(total, length):,} bytes", size)
    try:
        tree = json.loads(file.read(length))
        # an accessor without data is filled with zeros, as many as it says
        counts = [int(accessor.get("count", 0)) for accessor in tree.get("accessors", [])]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{name!r} has no readable glTF description ({error}); export it again as .glb.") from error
    largest = max(counts, default=0)
    _refuse_many(largest, name)
    _refuse(largest > size, name, f"{largest:,} elements in an accessor", size)


def _check_pcd(file: BinaryIO, size: int, name: str) -> None:
    head = file.read(_HEADER)
    points = re.search(rb"^POINTS\s+(\d+)", head, re.MULTILINE)
    data = re.search(rb"^DATA\s+(\w+)", head, re.MULTILINE)
    if points is None or data is None:
        raise ValueError(f"{name!r} has no PCD header (POINTS, DATA); export it again.")
    count = int(points[1])
    _refuse_many(count, name)
    sizes = re.search(rb"^SIZE\s+([\d ]+)", head, re.MULTILINE)
    counts = re.search(rb"^COUNT\s+([\d ]+)", head, re.MULTILINE)
    for more in (counts, sizes):
        _refuse(more is not None and max(map(int, more[1].split()), default=0) > size, name, "long fields", size)
    if data[1] == b"binary" and sizes is not None:
        widths = list(map(int, sizes[1].split()))
        repeats = list(map(int, counts[1].split())) if counts is not None else [1] * len(widths)
        width = sum(w * n for w, n in zip(widths, repeats, strict=False))
        _refuse(count * width > size, name, f"{count:,} points of {width} bytes", size)
    elif data[1] == b"ascii":
        _refuse(count * 6 > size, name, f"{count:,} points", size)


def _check_las(file: BinaryIO, size: int, name: str) -> None:
    head = file.read(375)
    if len(head) < 227 or head[:4] != b"LASF":
        raise ValueError(f"{name!r} is no LAS or LAZ file; export it again.")
    offset, layout, record, count = struct.unpack("<I4xBHI", head[96:111])
    if head[24:26] >= b"\x01\x04" and len(head) >= 255:
        count = max(count, struct.unpack("<Q", head[247:255])[0])
    _refuse_many(count, name)
    if not layout & 0x80:  # the bit says that the points are compressed
        _refuse(offset + count * record > size, name, f"{count:,} points of {record} bytes", size)


_CHECKS: dict[str, Callable[[BinaryIO, int, str], None]] = {
    ".npy": check_npy_header,
    ".npz": _check_npz,
    ".ply": _check_ply,
    ".off": _check_off,
    ".stl": _check_stl,
    ".glb": _check_glb,
    ".pcd": _check_pcd,
    ".las": _check_las,
    ".laz": _check_las,
}
