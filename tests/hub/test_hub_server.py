"""The test Hub against the unchanged client: what our other tests rely on."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

WEIGHTS = bytes(range(256)) * 400  # goes to LFS by its suffix


@pytest.fixture(autouse=True)
def without_xet(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture
def api(hub) -> HfApi:
    return HfApi(endpoint=hub.url, token="hf_test")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "folder"
    (path / "sub").mkdir(parents=True)
    (path / "config.json").write_text('{"a": 1}')
    (path / "model.safetensors").write_bytes(WEIGHTS)
    (path / "sub" / "größe.txt").write_text("grüße")
    return path


def get(hub, cache, name, repo="org/m", **kwargs):
    return Path(hf_hub_download(repo, name, endpoint=hub.url, cache_dir=cache, **kwargs))


def test_an_upload_is_a_git_commit_with_lfs_pointers_and_comes_back_the_same(hub, api, folder, tmp_path):
    assert api.whoami()["name"] == "tester"
    assert api.create_repo("org/m").repo_id == "org/m"
    assert api.create_repo("org/m", exist_ok=True).repo_id == "org/m"
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("org/m")
    commit = api.upload_folder(repo_id="org/m", folder_path=folder, commit_message="all\n\nof it")
    repo = hub.storage.repo("model", "org/m")
    assert commit.oid == repo.git("rev-parse", "main").decode().strip()
    assert repo.git("show", "main:model.safetensors").startswith(b"version https://git-lfs.github.com/spec/v1\noid")
    assert hub.storage.object(hashlib.sha256(WEIGHTS).hexdigest()).read_bytes() == WEIGHTS
    got = Path(snapshot_download("org/m", endpoint=hub.url, cache_dir=tmp_path / "cache", revision=commit.oid))
    for name in ("config.json", "model.safetensors", "sub/größe.txt"):
        assert (got / name).read_bytes() == (folder / name).read_bytes()
    assert sorted(api.list_repo_files("org/m")) == [".gitattributes", *sorted(_names(folder))]
    tree = {e.path: e for e in api.list_repo_tree("org/m", recursive=True)}
    assert tree["model.safetensors"].lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert tree["model.safetensors"].size == len(WEIGHTS) and "sub" in tree
    assert [e.path for e in api.list_repo_tree("org/m", "sub")] == ["sub/größe.txt"]
    assert [e.path for e in api.get_paths_info("org/m", ["config.json", "nothing"])] == ["config.json"]
    assert [c.title for c in api.list_repo_commits("org/m")] == ["all", "initial commit"]
    info = api.model_info("org/m", files_metadata=True)
    assert info.sha == commit.oid and not info.private


def _names(folder: Path) -> list[str]:
    return [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]


def test_an_object_that_is_there_is_not_sent_again_and_an_unchanged_folder_makes_no_commit(hub, api, folder):
    api.create_repo("org/m")
    first = api.upload_folder(repo_id="org/m", folder_path=folder)
    sent = [r for r in hub.requests if r[0] == "PUT"]
    assert len(sent) == 1 and sum(p.endswith("/verify") for _, p in hub.requests) == 1
    second = api.upload_folder(repo_id="org/m", folder_path=folder)
    assert second.oid == first.oid
    api.upload_file(path_or_fileobj=WEIGHTS, path_in_repo="copy.safetensors", repo_id="org/m")
    assert [r for r in hub.requests if r[0] == "PUT"] == sent


def test_revisions_branches_tags_conflicts_and_deletions(hub, api, folder, tmp_path):
    api.create_repo("org/m")
    first = api.upload_folder(repo_id="org/m", folder_path=folder).oid
    api.create_tag("org/m", tag="v1")
    api.create_branch("org/m", branch="next")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_branch("org/m", branch="next")
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="org/m", revision="next")
    refs = api.list_repo_refs("org/m")
    assert {b.name for b in refs.branches} == {"main", "next"} and [t.name for t in refs.tags] == ["v1"]
    text = {r: get(hub, tmp_path, "config.json", revision=r).read_text() for r in ("main", "next", "v1", first)}
    assert text == {"main": '{"a": 1}', "next": "{}", "v1": '{"a": 1}', first: '{"a": 1}'}
    api.create_commit("org/m", [CommitOperationAdd("x.txt", b"x")], commit_message="x", parent_commit=first)
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit("org/m", [CommitOperationAdd("y.txt", b"y")], commit_message="y", parent_commit=first)
    api.delete_file("x.txt", "org/m")
    api.delete_folder("sub", "org/m")
    assert sorted(api.list_repo_files("org/m")) == [".gitattributes", "config.json", "model.safetensors"]
    api.delete_branch("org/m", branch="next")
    api.delete_tag("org/m", tag="v1")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("org/m", revision="v1")


def test_what_is_not_there_has_its_own_error(hub, api, folder, tmp_path):
    with pytest.raises(RepositoryNotFoundError):
        get(hub, tmp_path, "config.json", token=False)
    api.create_repo("org/m")
    api.upload_folder(repo_id="org/m", folder_path=folder)
    with pytest.raises(RevisionNotFoundError):
        get(hub, tmp_path, "config.json", revision="v9")
    with pytest.raises(EntryNotFoundError):
        get(hub, tmp_path, "nothing.json")
    commit = api.model_info("org/m").sha
    assert (tmp_path / "models--org--m" / ".no_exist" / commit / "nothing.json").exists()  # its header was understood
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree("org/m", "nothing"))
    api.delete_repo("org/m")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("org/m")


def test_private_repos_need_a_token_and_writing_always_does(hub, api, folder, tmp_path):
    api.create_repo("org/secret", private=True)
    api.upload_folder(repo_id="org/secret", folder_path=folder)
    assert api.model_info("org/secret").private
    with pytest.raises(RepositoryNotFoundError):
        get(hub, tmp_path, "config.json", "org/secret", token=False)
    with pytest.raises(HfHubHTTPError, match="401"):
        get(hub, tmp_path, "config.json", "org/secret", token="hf_wrong")
    assert get(hub, tmp_path, "config.json", "org/secret", token="hf_test").read_text() == '{"a": 1}'
    for call in ("create_repo", "delete_repo"):
        with pytest.raises(HfHubHTTPError, match="401"):
            getattr(HfApi(endpoint=hub.url, token=False), call)("org/secret")


def test_large_files_redirect_with_their_etag_and_ranges_work(hub, api, folder):
    api.create_repo("org/m")
    api.upload_folder(repo_id="org/m", folder_path=folder)
    url = f"{hub.url}/org/m/resolve/main/model.safetensors"
    head = httpx2.head(url)
    assert head.status_code == 302 and head.headers["x-linked-size"] == str(len(WEIGHTS))
    assert head.headers["x-linked-etag"].strip('"') == hashlib.sha256(WEIGHTS).hexdigest()
    assert head.headers["x-repo-commit"] == api.model_info("org/m").sha
    part = httpx2.get(head.headers["location"], headers={"Range": "bytes=100-299"})
    assert part.status_code == 206 and part.content == WEIGHTS[100:300]
    assert part.headers["content-range"] == f"bytes 100-299/{len(WEIGHTS)}"
    end = httpx2.get(head.headers["location"], headers={"Range": f"bytes={len(WEIGHTS) - 5}-"})
    assert end.content == WEIGHTS[-5:]
    assert httpx2.get(head.headers["location"], headers={"Range": f"bytes={len(WEIGHTS)}-"}).status_code == 416
    small = httpx2.head(f"{hub.url}/org/m/resolve/main/config.json")
    assert small.status_code == 200 and len(small.headers["etag"]) == 42


def test_a_renamed_repo_is_found_under_its_old_name(hub, api, folder, tmp_path):
    api.create_repo("org/m")
    api.upload_folder(repo_id="org/m", folder_path=folder)
    api.move_repo("org/m", "org/new")
    assert get(hub, tmp_path, "model.safetensors").read_bytes() == WEIGHTS
    assert get(hub, tmp_path, "model.safetensors", "org/new").read_bytes() == WEIGHTS


def test_objects_whose_content_is_not_what_they_say_are_refused(hub, api):
    oid = hashlib.sha256(b"right").hexdigest()
    answer = httpx2.put(f"{hub.url}/_lfs/{oid}", content=b"wrong")
    assert answer.status_code == 400 and not hub.storage.object(oid).exists()
    assert httpx2.get(f"{hub.url}/_lfs/{'0' * 64}").status_code == 404
    assert httpx2.get(f"{hub.url}/_lfs/..%2f..%2fetc").status_code == 404


def test_datasets_and_spaces_are_separate_from_models(hub, api):
    for kind in ("model", "dataset", "space"):
        api.create_repo("org/same", repo_type=kind, space_sdk="static" if kind == "space" else None)
        api.upload_file(path_or_fileobj=kind.encode(), path_in_repo="k", repo_id="org/same", repo_type=kind)
    api.delete_repo("org/same", repo_type="dataset")
    assert api.repo_exists("org/same") and api.repo_exists("org/same", repo_type="space")
    assert not api.repo_exists("org/same", repo_type="dataset")


def test_a_cut_is_repaired_by_the_client_which_asks_for_the_rest_only(hub, api, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 14)  # what is lost with a connection
    data = os.urandom(200_000)
    api.create_repo("org/m")
    up = hub.order("upload", after=50_000)
    api.upload_file(path_or_fileobj=data, path_in_repo="w.safetensors", repo_id="org/m")
    down, sent = hub.order("download", after=50_000), hub.bytes_sent
    assert get(hub, tmp_path, "w.safetensors").read_bytes() == data
    assert up.struck.is_set() and down.struck.is_set()
    assert hub.bytes_sent - sent < 210_000
