"""What goes wrong between a user and the Hub: the right result after a repetition, or an error in words."""

from __future__ import annotations

import json
import os
from pathlib import Path

import httpx2
import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import save_file
from tiny_bridges import (
    make_bridge,
    make_cloud,
    make_correction,
    make_lm,
    make_point_bridge,
    make_point_encoder,
    make_tokenizer,
)
from transformers import AutoModel, AutoProcessor

from hf_modalbridge import AutoCorrection, EmbeddingStore, ModalBridgeForConditionalGeneration
from hf_modalbridge.cached_files import file_sha256
from hf_modalbridge.hub import download, push

LOAD = (
    "import sys; from hf_modalbridge import AutoCorrection as A; print(A.from_pretrained(sys.argv[1]).correction_type)"
)
PUSH = "import sys; from hf_modalbridge.hub import push; print(push(*sys.argv[1:]).kind)"


@pytest.fixture(scope="module")
def correction(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("correction")
    make_correction(dim=12).save_pretrained(path)
    return path


@pytest.mark.slow
def test_an_upload_killed_in_the_middle_leaves_nothing_and_is_repeated(hub, start, run, tmp_path):
    make_correction(dim=4096).save_pretrained(tmp_path / "c")  # 100 kB: the fault strikes within it
    fault = hub.order("upload", after=1 << 14, stall=True)
    process = start(hub, tmp_path / "home", PUSH, tmp_path / "c", "org/c")
    assert fault.struck.wait(200)
    process.kill()
    process.communicate()
    repo = hub.storage.repo("model", "org/c")
    assert [e["path"] for e in repo.tree(repo.sha("main"))] == [".gitattributes"]
    fault.over.set()
    assert run(hub, tmp_path / "home", PUSH, tmp_path / "c", "org/c") == "correction"
    assert run(hub, tmp_path / "reader", LOAD, "org/c") == "realign"


@pytest.mark.slow
def test_a_download_killed_in_the_middle_is_repeated(hub, start, run, tmp_path):
    make_correction(dim=4096).save_pretrained(tmp_path / "c")  # 100 kB: the fault strikes within it
    run(hub, tmp_path / "pusher", PUSH, tmp_path / "c", "org/c")
    fault = hub.order("download", after=1 << 14, stall=True)
    process = start(hub, tmp_path / "home", LOAD, "org/c")
    assert fault.struck.wait(200)
    process.kill()
    process.communicate()
    fault.over.set()
    snapshots = (tmp_path / "home" / "hub" / "models--org--c" / "snapshots").rglob("correction.safetensors")
    assert not list(snapshots)  # half a file is not there yet
    assert run(hub, tmp_path / "home", LOAD, "org/c") == "realign"


def test_a_connection_that_breaks_once_is_repaired(hub, client, correction, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    up, down = hub.order("upload", after=0), hub.order("download", after=0)
    client(hub, tmp_path)
    assert push(correction, "org/c").compared == ("source", "target")
    assert up.struck.is_set() and down.struck.is_set()


def test_a_wrong_hash_is_named_and_the_repetition_is_right(hub, client, correction, tmp_path):
    client(hub, tmp_path)
    push(correction, "org/c")
    blob = next(p for p in (hub.storage.root / "lfs").rglob("*") if p.is_file())
    good = blob.read_bytes()
    blob.write_bytes(good[:-4] + bytes(4))  # the size is right, so the client alone does not see it
    with pytest.raises(ValueError, match="1 file.* of 'org/c' were damaged on the way: correction.safetensors"):
        download("org/c")
    with pytest.raises(ValueError, match="correction.safetensors of 'org/c' was damaged on the way"):
        AutoCorrection.from_pretrained("org/c")
    blob.write_bytes(good)
    assert (download("org/c") / "correction.safetensors").read_bytes() == good
    assert AutoCorrection.from_pretrained("org/c").is_fitted


@pytest.fixture
def bridge_folder(tmp_path) -> Path:
    bridge, processor = make_point_bridge()
    bridge.save_pretrained(tmp_path / "bridge")
    processor.save_pretrained(tmp_path / "bridge")
    return tmp_path / "bridge"


def test_a_model_whose_transfer_breaks_is_whole_after_the_repetition(hub, client, bridge_folder, tmp_path, monkeypatch):
    """All attempts of one call break, in the middle of the weights, both ways."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    client(hub, tmp_path / "a")
    fault = hub.order("upload", after=1 << 16, times=100)
    with pytest.raises(ConnectionError, match="upload to 'org/m' broke off.*The repo is as it was"):
        push(bridge_folder, "org/m", bundle=False)
    fault.times = 0
    repo = hub.storage.repo("model", "org/m")
    assert [e["path"] for e in repo.tree(repo.sha("main"))] == [".gitattributes"]
    commit = push(bridge_folder, "org/m", bundle=False).commit
    client(hub, tmp_path / "b")
    fault = hub.order("download", after=1 << 16, times=100)
    with pytest.raises(ConnectionError, match="download of 'org/m' broke off"):
        download("org/m")
    with pytest.raises((httpx2.TransportError, OSError)):
        AutoModel.from_pretrained("org/m")
    fault.times, sent = 0, hub.bytes_sent
    loaded = AutoModel.from_pretrained("org/m", revision=commit)
    weights = sum(path.stat().st_size for path in bridge_folder.glob("*.safetensors"))
    assert hub.bytes_sent - sent <= weights, "files that had come are not sent again"
    saved = ModalBridgeForConditionalGeneration.from_pretrained(bridge_folder).state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in loaded.state_dict().items())


def test_a_model_repo_that_lacks_something_says_what(hub, client, bridge_folder, tmp_path):
    client(hub, tmp_path / "a")
    push(bridge_folder, "org/m", bundle=False)
    HfApi().delete_file("model-00001-of-00001.safetensors", "org/m")
    client(hub, tmp_path / "b")
    with pytest.raises(OSError, match="org/m does not appear to have a file named model-00001-of-00001.safetensors"):
        AutoModel.from_pretrained("org/m")
    assert AutoCorrection.from_pretrained("org/m", modality="image").is_fitted
    with pytest.raises(OSError, match="org/nothing is not a local folder and is not a valid model identifier"):
        AutoModel.from_pretrained("org/nothing")
    with pytest.raises(OSError, match="v9 is not a valid git identifier"):
        AutoModel.from_pretrained("org/m", revision="v9")


def test_a_model_in_the_cache_loads_without_the_network(hub, client, bridge_folder, tmp_path):
    client(hub, tmp_path / "a")
    push(bridge_folder, "org/m", bundle=False)
    client(hub, tmp_path / "warm")
    AutoModel.from_pretrained("org/m"), AutoProcessor.from_pretrained("org/m")
    client(hub, tmp_path / "warm", offline=True)
    asked = len(hub.requests)
    model, processor = AutoModel.from_pretrained("org/m"), AutoProcessor.from_pretrained("org/m")
    inputs = processor(text=["<|point|> what is this?"], point=[make_cloud().numpy()])
    assert torch.inference_mode()(lambda: model(**inputs).logits.isfinite().all())()
    assert len(hub.requests) == asked
    client(hub, tmp_path / "cold", offline=True)
    with pytest.raises(OSError, match="cached files|offline mode"):
        AutoModel.from_pretrained("org/m")


def test_a_push_whose_bytes_come_back_changed_is_not_called_done(hub, client, correction, tmp_path):
    client(hub, tmp_path)
    put = hub.storage.object

    def damaged(oid: str) -> Path:
        path = put(oid)
        if path.exists():
            path.write_bytes(path.read_bytes()[:-4] + bytes(4))
        return path

    hub.storage.object = damaged
    with pytest.raises(ValueError, match="damaged on the way"):
        push(correction, "org/c")


def test_missing_files_repos_revisions_and_names_are_told_apart(hub, client, correction, tmp_path):
    client(hub, tmp_path)
    HfApi().create_repo("org/half")
    config = json.dumps(make_correction().to_config()).encode()
    HfApi().upload_file(path_or_fileobj=config, path_in_repo="config.json", repo_id="org/half")
    for name, revision, words in (
        ("org/half", None, "with a file correction.safetensors .*EntryNotFound"),
        ("org/nothing", None, "RepositoryNotFound.*Check the spelling"),
        ("no-repo-name", None, "named 'owner/name'"),
        ("org/half", "v9", "no revision 'v9'"),
    ):
        with pytest.raises(FileNotFoundError, match=words):
            AutoCorrection.from_pretrained(name, revision=revision)
    with pytest.raises(FileNotFoundError, match="there is no repo 'org/nothing'"):
        download("org/nothing")
    with pytest.raises(FileNotFoundError, match="no revision 'v9'"):
        download("org/half", revision="v9")
    with pytest.raises(ValueError, match="cannot name a repo"):
        push(correction, "a/b/c")


def test_offline_with_a_warm_cache_works_and_with_a_cold_one_says_so(hub, client, correction, tmp_path):
    client(hub, tmp_path / "a")
    push(correction, "org/c")
    client(hub, tmp_path / "warm")
    AutoCorrection.from_pretrained("org/c")
    asked = len(hub.requests)
    client(hub, tmp_path / "warm", offline=True)
    assert AutoCorrection.from_pretrained("org/c").is_fitted
    client(hub, tmp_path / "cold", offline=True)
    with pytest.raises(FileNotFoundError, match="not in the cache, and the Hub cannot be reached"):
        AutoCorrection.from_pretrained("org/c")
    with pytest.raises(FileNotFoundError, match="not in the cache, and the Hub cannot be reached"):
        download("org/c")
    assert len(hub.requests) == asked


def test_a_private_repo_is_for_those_with_a_token(hub, client, correction, tmp_path):
    client(hub, tmp_path / "a")
    push(correction, "org/secret", private=True)
    assert AutoCorrection.from_pretrained("org/secret").is_fitted
    client(hub, tmp_path / "b", token=None)
    with pytest.raises(FileNotFoundError, match="your access if the repo is private"):
        AutoCorrection.from_pretrained("org/secret")
    with pytest.raises(PermissionError, match="hf auth login"):
        push(correction, "org/secret")


def test_revisions_are_branches_tags_and_commits(hub, client, correction, tmp_path):
    client(hub, tmp_path)
    first = push(correction, "org/c")
    make_correction(seed=5).save_pretrained(tmp_path / "other")
    second = push(tmp_path / "other", "org/c", revision="next")
    HfApi().create_tag("org/c", tag="v1", revision=first.commit)
    means = {
        r: AutoCorrection.from_pretrained("org/c", revision=r).source_mean.sum().item()
        for r in ("main", "v1", first.commit, "next", second.commit)
    }
    assert means["main"] == means["v1"] == means[first.commit] != means["next"] == means[second.commit]


def test_bridge_only_fetches_its_base_once_and_explains_a_missing_one(hub, client, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM

    client(hub, tmp_path / "a")
    base = make_lm("llama_tied")
    base.save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    commit = _upload(tmp_path / "base", "org/base")
    bridge, processor = make_bridge(language_model=base, language_model_source={"id": "org/base", "revision": commit})
    bridge.save_pretrained(tmp_path / "bridge", bridge_only=True)
    processor.save_pretrained(tmp_path / "bridge")
    push(tmp_path / "bridge", "org/bridge", bundle=False)
    client(hub, tmp_path / "b")
    loads = []
    real = AutoModelForCausalLM.from_pretrained.__func__
    counted = classmethod(lambda cls, *args, **kwargs: loads.append(kwargs["revision"]) or real(cls, *args, **kwargs))
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", counted)
    hub.requests.clear()
    loaded = AutoModel.from_pretrained("org/bridge")
    assert loads == [commit]
    weights = f"/_lfs/{file_sha256(tmp_path / 'base' / 'model.safetensors')}"
    assert hub.requests.count(("GET", weights)) == 1
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in bridge.state_dict().items())
    hub.storage.delete("model", "org/base")
    client(hub, tmp_path / "c")
    with pytest.raises(FileNotFoundError, match="language model of the bridge 'org/bridge'.*'org/base'"):
        AutoModel.from_pretrained("org/bridge")
    config = json.loads((tmp_path / "bridge" / "config.json").read_text())
    config["language_model_source"]["id"] = str(tmp_path / "base")
    (tmp_path / "bridge" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="no repo on the Hub"):
        push(tmp_path / "bridge", "org/bridge")


def test_a_bridge_only_repo_fetches_language_model_and_encoder_of_their_repos(hub, client, tmp_path):
    client(hub, tmp_path / "a")
    make_lm("llama_tied").save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    for part in make_point_encoder():
        part.save_pretrained(tmp_path / "points")
    commits = {name: _upload(tmp_path / name, f"org/{name}") for name in ("base", "points")}
    base = {"id": "org/base", "revision": commits["base"]}
    parts = {"encoder_source": {"id": "org/points", "revision": commits["points"]}}
    bridge, processor = make_point_bridge(language_model=make_lm("llama_tied"), language_model_source=base, point=parts)
    done = bridge.push_to_hub("org/bridge", bridge_only=True)
    processor.push_to_hub("org/bridge")
    files = HfApi().list_repo_files("org/bridge")
    assert "bridge.safetensors" in files and "model.safetensors" not in files and done.oid
    client(hub, tmp_path / "b")
    loaded, again = AutoModel.from_pretrained("org/bridge"), AutoProcessor.from_pretrained("org/bridge")
    cloud = make_cloud().numpy()
    with torch.inference_mode():
        before, after = (
            m(**p(text=["<|point|> what is this?"], point=[cloud])).logits
            for m, p in ((bridge, processor), (loaded, again))
        )
    assert torch.equal(before, after)
    hub.storage.delete("model", "org/points")
    client(hub, tmp_path / "c")
    with pytest.raises(FileNotFoundError, match="encoder of 'point'.*'org/points'"):
        AutoModel.from_pretrained("org/bridge")


def _upload(folder: Path, repo_id: str) -> str:
    HfApi().create_repo(repo_id)
    return HfApi().upload_folder(repo_id=repo_id, folder_path=folder).oid


def test_a_store_goes_up_and_comes_back_checked(hub, client, world, tmp_path):
    client(hub, tmp_path / "a")
    store = EmbeddingStore.open(world.text_store)
    assert push(world.text_store, "org/captions").kind == "store"
    store.push_to_hub("org/captions", revision="again")
    client(hub, tmp_path / "b")
    back = EmbeddingStore.from_hub("org/captions", revision="again")
    assert back.ids == store.ids and (back[:] == store[:]).all() and back.columns == ["text"]
    with pytest.raises(FileNotFoundError, match="no dataset repo 'org/none'"):
        EmbeddingStore.from_hub("org/none")


def test_what_is_nothing_of_ours_is_refused_before_anything_is_asked(hub, client, tmp_path):
    client(hub, tmp_path / "a")
    (tmp_path / "x").mkdir()
    save_file({"a": torch.zeros(1)}, tmp_path / "x" / "a.safetensors")
    with pytest.raises(FileNotFoundError, match="holds no embedding store"):
        push(tmp_path / "x", "org/x")
    assert not hub.requests and os.listdir(tmp_path / "x") == ["a.safetensors"]
