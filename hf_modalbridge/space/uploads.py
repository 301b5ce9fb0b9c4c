"""What a file from outside must pass before anything reads it: name, size, ending, first bytes, what it unpacks to."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

__all__ = ["Limits", "Refused", "check_upload", "forget", "open_archive", "plain_name", "read_array", "refusals"]

MB = 1_000_000


class Refused(ValueError):
    """An upload that is not taken; the message is for the person who sent it."""


@dataclass(frozen=True)
class Limits:
    """How much one upload may be.

    Args:
        file_bytes: Bytes of a file.
        unpacked_bytes: Bytes that a compressed file may unpack to.
        numbers: Numbers of an array.
        rows: Rows of a table of embeddings.
        dim: Width of embeddings.
        pixels: Pixels of a picture.
        points: Points or corners of a 3D file.
        caption: Characters of a caption.
    """

    file_bytes: int = 40 * MB
    unpacked_bytes: int = 200 * MB
    numbers: int = 25 * MB
    rows: int = 50_000
    dim: int = 2048
    pixels: int = 25 * MB
    points: int = 1 * MB
    caption: int = 1000


_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".joblib", ".dill")
# what a file begins with, and what such a file is called in words; text files begin with anything
_KINDS: dict[str, tuple[bytes, ...]] = {
    ".png": (b"\x89PNG\r\n\x1a\n",),
    ".jpg": (b"\xff\xd8\xff",),
    ".gif": (b"GIF87a", b"GIF89a"),
    ".bmp": (b"BM",),
    ".webp": (b"RIFF",),
    ".npy": (b"\x93NUMPY",),
    ".npz": (b"PK\x03\x04", b"PK\x05\x06"),
    ".parquet": (b"PAR1",),
    ".glb": (b"glTF",),
    ".ply": (b"ply",),
}
_WORDS = {".npz": "a zip archive", ".jpg": "a JPEG picture"}
_FOREIGN = (
    (b"MZ", "a Windows program"),
    (b"\x7fELF", "a program"),
    (b"%PDF", "a PDF"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x03", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
)
_TEXT = (".csv", ".obj", ".off")


def plain_name(path: str | Path) -> str:
    """Give a file's name to show: without folders and control characters, and not longer than 60 characters.

    Args:
        path: Path or name, of either kind of slash.

    Returns:
        The name.
    """
    name = re.split(r"[\\/]", str(path))[-1]
    name = "".join(c for c in name if c.isprintable()) or "the file"
    return name if len(name) <= 60 else f"{name[:40]}…{name[-18:]}"


def check_upload(path: str | Path, endings: tuple[str, ...], limits: Limits) -> str:
    """Check a file by its name, size and first bytes; nothing else of it is read.

    Args:
        path: Where it lies.
        endings: What its name may end in.
        limits: How large it may be.

    Returns:
        The ending, in lower case, `.jpeg` as `.jpg`.

    Raises:
        Refused: If it is not one of these kinds of file, empty, or too large.
    """
    path = Path(path)
    name = plain_name(path)
    suffix = {".jpeg": ".jpg"}.get(path.suffix.lower(), path.suffix.lower())
    if suffix in _PICKLES:
        raise Refused(
            f"“{name}” is a pickle, or may hold one. Pickles can run code when they are read, so none is ever opened "
            "here. Save plain numbers instead, as .npy, .npz or .safetensors."
        )
    if suffix not in endings:
        shown = f"ends in “{suffix}”" if suffix else "has no ending"
        raise Refused(f"“{name}” {shown}. What is read here: {', '.join(endings)}.")
    if path.is_symlink() or not path.is_file():
        raise Refused(f"“{name}” did not arrive as a file. Please send it again.")
    size = path.stat().st_size
    if size == 0:
        raise Refused(f"“{name}” is empty.")
    if size > limits.file_bytes:
        raise Refused(
            f"“{name}” has {size / MB:,.0f} MB, and at most {limits.file_bytes / MB:,.0f} MB are taken. Send a part of "
            "it, or run the library on your own machine."
        )
    with path.open("rb") as file:
        head = file.read(4096)
    _check_head(head, suffix, name)
    return suffix


def _check_head(head: bytes, suffix: str, name: str) -> None:
    """Compare a file's first bytes with its ending."""
    expected = _KINDS.get(suffix)
    if expected is not None and head.startswith(expected) and (suffix != ".webp" or head[8:12] == b"WEBP"):
        return
    found = next((words for start, words in _FOREIGN if head.startswith(start)), None)
    if found is None:
        kind = next((k for k, starts in _KINDS.items() if k != ".bmp" and head.startswith(starts)), None)
        found = None if kind in (None, suffix) else _WORDS.get(str(kind), f"a {kind} file")
    if found is not None:
        raise Refused(f"“{name}” is called {suffix}, but inside it is {found}. Nothing of it was read.")
    if expected is not None:
        raise Refused(f"“{name}” is called {suffix}, but does not begin as such a file does. Please save it again.")
    if suffix in _TEXT and b"\x00" in head:
        raise Refused(f"“{name}” should be text, but holds binary data. Please save it again as {suffix}.")


@contextmanager
def open_archive(path: str | Path, limits: Limits) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive, after a look at what it would unpack to; names in it are never used as paths.

    Args:
        path: The archive.
        limits: What it may unpack to.

    Yields:
        The archive.

    Raises:
        Refused: If it unpacks to too much, has too many members, or is damaged or encrypted.
    """
    name = plain_name(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if not members or len(members) > 64:
                raise Refused(f"“{name}” holds {len(members)} arrays; expected 1 to 64.")
            total = sum(member.file_size for member in members)
            if total > limits.unpacked_bytes:
                raise Refused(
                    f"“{name}” would unpack to {total / MB:,.0f} MB, and at most {limits.unpacked_bytes / MB:,.0f} MB "
                    "are unpacked. Nothing of it was read."
                )
            if any(member.flag_bits & 1 for member in members):
                raise Refused(f"“{name}” is encrypted. Save it without a password.")
            yield archive
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError) as error:
        raise Refused(f"“{name}” is a damaged archive ({type(error).__name__}). Please save it again.") from error


def read_array(file: BinaryIO, size: int, name: str, limits: Limits) -> np.ndarray:
    """Read a .npy array whose header was judged first.

    Args:
        file: At the start of the array.
        size: Its bytes, header included.
        name: To show.
        limits: How many numbers.

    Returns:
        The array, of numbers or of text.

    Raises:
        Refused: If the header claims more than there is, more than the limit, or another kind of contents.
    """
    try:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"version {version}")
        shape, fortran, dtype = readers[version](file, max_header_size=10_000)
    except (ValueError, EOFError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise Refused(f"“{name}” has no readable array header. Write it again with numpy.save.") from error
    if dtype.hasobject:
        raise Refused(
            f"“{name}” holds Python objects, that is, a pickle. Pickles can run code when they are read, so none is "
            "ever opened here. Save plain numbers."
        )
    if dtype.kind not in "fiubU":
        raise Refused(f"“{name}” holds {dtype} values; expected plain numbers.")
    count = 1
    for length in shape:
        count *= int(length)
    claimed = count * dtype.itemsize
    if claimed > limits.unpacked_bytes or count > limits.numbers or min(shape, default=0) < 0:
        shown = " × ".join(f"{length:,}" for length in shape)
        raise Refused(
            f"“{name}” claims to be an array of {shown} values ({claimed / MB:,.0f} MB); at most {limits.numbers:,} "
            f"values and {limits.unpacked_bytes / MB:,.0f} MB are read. Nothing of it was read."
        )
    if claimed > size:
        raise Refused(
            f"“{name}” claims {claimed:,} bytes of numbers, but has only {size:,}: it is cut off or forged. Nothing of "
            "it was read."
        )
    data = file.read(claimed)
    if len(data) < claimed:
        raise Refused(f"“{name}” is cut off. Please save it again.")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def forget(*paths: str | Path | None) -> None:
    """Delete uploads that were read or refused; those that are gone already are passed over.

    Args:
        *paths: Files.
    """
    for path in paths:
        if path is not None:
            Path(path).unlink(missing_ok=True)


@contextmanager
def refusals(path: str | Path) -> Iterator[None]:
    """Turn the readers' own errors into words that do not name folders of this machine.

    Args:
        path: The upload that is read.

    Yields:
        Nothing.

    Raises:
        Refused: Instead of what the reader raised.
    """
    name = plain_name(path)
    try:
        yield
    except Refused:
        raise
    except MemoryError as error:
        raise Refused(f"“{name}” needs more memory than there is here.") from error
    except ImportError as error:
        raise Refused(f"“{name}” cannot be read here: {error}") from error
    except Exception as error:  # readers of foreign formats raise whatever they like
        reason = (str(error).splitlines() or [""])[0].replace(repr(str(path)), f"“{name}”").replace(str(path), name)
        raise Refused(f"“{name}” could not be read: {reason or type(error).__name__}") from error
