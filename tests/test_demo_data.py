"""The committed demo data: complete, licensed, without leakage, and the same bytes when built again."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
DATA = ROOT / "demo_data"
SPLITS = ("train", "validation", "test")
LICENCES = {"public-domain", "cc0-1.0", "cc-by-3.0", "mit", "apache-2.0"}


def read(config: str) -> list[dict]:
    rows = []
    for split in SPLITS:
        files = sorted((DATA / config).glob(f"{split}-*.parquet"))
        assert files, f"{config} has no file of the split {split}"
        part = pa.concat_tables([pq.read_table(path) for path in files]).to_pylist()
        assert {row["split"] for row in part} == {split}
        rows += part
    return rows


@pytest.fixture(scope="module")
def captions() -> list[dict]:
    return read("captions")


@pytest.fixture(scope="module")
def points() -> list[dict]:
    return read("points")


def stem(text: str) -> str:
    """A text without case, digits, punctuation and plural endings."""
    return " ".join(re.sub(r"(?<=\w{3})s$", "", word) for word in re.findall(r"[a-z]+", text.lower()))


def splits_by(rows: list[dict], key) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        found[key(row)].add(row["split"])
    return {name: where for name, where in found.items() if len(where) > 1}


def test_counts(captions, points):
    count = {split: sum(row["split"] == split for row in captions) for split in SPLITS}
    assert count["test"] >= 800
    assert count["validation"] >= 400
    assert count["train"] >= 3500
    assert len(points) == 820
    sources = {row["source"] for row in captions}
    assert sources == {"openclipart", "emoji", "sweethome3d"}
    assert sum(row["source"] == "sweethome3d" for row in captions) == 820


def test_ids_are_unique(captions, points):
    assert len({row["id"] for row in captions}) == len(captions)
    assert len({row["id"] for row in points}) == len(points)


def test_licences_and_creators(captions, points):
    for row in captions + points:
        assert row["license"] in LICENCES, row["id"]
        assert row["creator"] or row["license"] == "public-domain", row["id"]
        assert "@" not in row["creator"], row["id"]
    licences = (DATA / "LICENSES.md").read_text(encoding="utf-8")
    for creator in {row["creator"] for row in captions if row["license"] == "cc-by-3.0"}:
        assert creator in licences


def test_captions_are_short_phrases(captions):
    for row in captions:
        words = row["caption"].split()
        assert 2 <= len(words) <= 10, row["id"]
        assert row["caption"] == row["caption"].lower() and row["caption"].isascii(), row["id"]
        assert not re.search(r"hash\(|0x|\.svg|_|clip ?art|architetto", row["caption"]), row["id"]


def test_no_caption_crosses_a_split(captions, points):
    assert splits_by(captions, lambda row: stem(row["caption"])) == {}
    assert splits_by(captions, lambda row: stem(row["caption"].split(",")[0])) == {}
    assert splits_by(points, lambda row: stem(row["name"])) == {}


def test_no_picture_is_stored_twice(captions):
    seen = defaultdict(set)
    for row in captions:
        if row["source"] != "sweethome3d":
            seen[hashlib.sha256(row["image"]["bytes"]).hexdigest()].add(row["id"])
    assert [ids for ids in seen.values() if len(ids) > 1] == []
    assert splits_by(captions, lambda row: hashlib.sha256(row["image"]["bytes"]).hexdigest()) == {}


def test_cloud_icon_and_name_join(captions, points):
    icons = {row["id"]: row for row in captions if row["source"] == "sweethome3d"}
    assert set(icons) == {row["id"] for row in points}
    for row in points:
        for column in ("split", "license", "creator", "caption"):
            assert row[column] == icons[row["id"]][column], row["id"]
        assert row["name"] == icons[row["id"]]["title"]


def test_pictures_decode(captions):
    for row in captions:
        with Image.open(io.BytesIO(row["image"]["bytes"])) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        assert pixels.shape[0] == pixels.shape[1] and 64 <= pixels.shape[0] <= 160, row["id"]
        assert pixels.min() < 250 and pixels.max() > pixels.min(), f"{row['id']} is blank"


def test_clouds(points):
    for row in points:
        cloud = np.asarray(row["points"], dtype=np.float64)
        assert cloud.shape == (1024, 3), row["id"]
        assert np.isfinite(cloud).all(), row["id"]
        assert np.linalg.norm(cloud, axis=1).max() == pytest.approx(1.0, abs=2e-3), row["id"]
        assert len(np.unique(cloud, axis=0)) > 700, row["id"]
        # Proportions are those of the catalogue: width along x, height along y, depth along z. A sample may
        # miss the tip of a thin part, so an extent may fall short of the stated one, and never exceeds it.
        width, depth, height = row["size_cm"]
        ratio = np.ptp(cloud, axis=0) / np.asarray([width, height, depth])
        assert ratio.max() / np.median(ratio) < 1.35, row["id"]


def test_sizes_and_sums():
    build = json.loads((DATA / "build.json").read_text(encoding="utf-8"))
    files = {path.relative_to(DATA).as_posix(): path for path in DATA.rglob("*.parquet")}
    assert set(files) == set(build["files"])
    for name, path in files.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == build["files"][name], name
        assert path.stat().st_size < 4_500_000, name
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) <= 20_000_000


def test_datasets_opens_the_folder(tmp_path, monkeypatch, captions):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    pictures = datasets.load_dataset(str(DATA), "captions", cache_dir=str(tmp_path))
    assert set(pictures) == set(SPLITS)
    assert isinstance(pictures["test"].features["image"], datasets.Image)
    assert sum(len(part) for part in pictures.values()) == len(captions)
    assert pictures["test"][0]["image"].mode == "RGB"
    clouds = datasets.load_dataset(str(DATA), "points", split="test", cache_dir=str(tmp_path))
    assert clouds.features["points"].shape == (1024, 3)
    assert clouds.with_format("torch")[:2]["points"].shape == (2, 1024, 3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_rebuild_gives_the_same_bytes(tmp_path):
    """Packages come from $MODALBRIDGE_DEMO_PACKAGES where that is set, else from apt-get and npm."""
    pytest.importorskip("trimesh")
    given = os.environ.get("MODALBRIDGE_DEMO_PACKAGES")
    if not given and not (shutil.which("apt-get") and shutil.which("npm")):
        pytest.skip("needs $MODALBRIDGE_DEMO_PACKAGES, or apt-get and npm")
    build = json.loads((DATA / "build.json").read_text(encoding="utf-8"))
    other = {name: (version(name), want) for name, want in build["versions"].items() if version(name) != want}
    if other:
        pytest.skip(f"files were written with other versions (here, there): {other}")
    command = [sys.executable, str(ROOT / "scripts" / "build_demo_data.py"), "--out", str(tmp_path / "new")]
    command += ["--packages", given or str(tmp_path / "packages")]
    subprocess.run(command, check=True, cwd=tmp_path)
    again = json.loads((tmp_path / "new" / "build.json").read_text(encoding="utf-8"))
    assert again == build
    for name in ("README.md", "LICENSES.md"):
        assert (tmp_path / "new" / name).read_text() == (DATA / name).read_text()


def test_a_wrong_package_is_refused(tmp_path):
    for name in ("openclipart-png_1.deb", "openclipart-svg_1.deb", "sweethome3d-furniture_1.deb"):
        (tmp_path / name).write_bytes(b"not a package")
    (tmp_path / "emoji-datasource-google-1.tgz").write_bytes(b"not a package")
    pytest.importorskip("trimesh")
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "scripts" / "build_demo_data.py"), "--no-download"]
    done = subprocess.run(
        [*command, "--packages", str(tmp_path), "--out", str(out)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode != 0
    assert "expected sha256" in done.stderr and "openclipart-png" in done.stderr
    assert not out.exists()
