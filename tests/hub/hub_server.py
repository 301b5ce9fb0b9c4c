"""A Hub on loopback for the unchanged huggingface_hub client, with faults that a test can order.

Run alone: `python tests/hub/hub_server.py FOLDER PORT`. Not there: pull requests, LFS multipart, Xet, gating.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub_repos import HubError, Repo, Storage

PREFIXES = {"": "model", "datasets/": "dataset", "spaces/": "space"}
LFS_SUFFIXES = (".safetensors", ".bin", ".npy", ".parquet", ".gguf")
LFS_SIZE = 1 << 20
CHUNK = 1 << 14


@dataclass
class Fault:
    """What goes wrong with the next `times` transfers that match.

    Args:
        kind: "upload" or "download".
        after: Bytes that still pass.
        times: How many transfers it strikes.
        stall: Whether to hold the connection open and silent, rather than to cut it.
    """

    kind: str
    after: int
    times: int = 1
    stall: bool = False
    struck: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)


class HubServer(ThreadingHTTPServer):
    """The server; `url` is what HF_ENDPOINT has to be.

    Args:
        root: Folder of the repositories.
        port: 0 for any free one.
        tokens: User by access token; each user may write everywhere.
    """

    daemon_threads = True

    def __init__(self, root: Path, port: int = 0, tokens: dict[str, str] | None = None) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.storage = Storage(Path(root))
        self.tokens = {"hf_test": "tester"} if tokens is None else tokens
        self.requests: list[tuple[str, str]] = []
        self.bytes_sent = 0  # bodies of all answers
        self.faults: list[Fault] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def start(self) -> HubServer:
        """Serve in a thread of its own."""
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def stop(self) -> None:
        """Stop serving, and let stalled connections go."""
        for fault in self.faults:
            fault.over.set()
        self.shutdown()
        self.server_close()

    def order(self, kind: str, after: int, times: int = 1, stall: bool = False) -> Fault:
        """Order a fault for the next transfers of LFS objects."""
        fault = Fault(kind, after, times, stall)
        self.faults.append(fault)
        return fault

    def fault(self, kind: str) -> Fault | None:
        """The fault that strikes the transfer that begins now."""
        for fault in self.faults:
            if fault.kind == kind and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that tests kill are no news."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Cut(Exception):
    """The connection is dropped without an answer."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""

    def answer_any(self) -> None:
        """Answer a request of any method."""
        url = urlsplit(self.path)
        self.base, self.query = f"http://{self.headers['Host']}", parse_qs(url.query)
        # another host than the Hub's, as on the Hub: the client reads headers of redirects to other hosts only
        self.elsewhere = f"http://localhost:{self.server.server_port}"
        self.server.requests.append((self.command, url.path))
        self.body_read = False
        try:
            self.route(url.path)
        except HubError as error:
            headers = {"X-Error-Message": str(error).replace("\n", " ")[:200], **error.headers}
            if error.code:
                headers["X-Error-Code"] = error.code
            self.send({"error": str(error)}, error.status, **headers)
        except Cut:
            self.close_connection = True
        if not self.body_read and not self.close_connection:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))  # it would be taken for the next request

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer_any

    def route(self, path: str) -> None:
        """Find who answers."""
        routes: list[tuple[str, Callable[..., None]]] = [
            (r"/api/whoami-v2", self.whoami),
            (r"/api/validate-yaml", lambda: self.send({"errors": [], "warnings": []})),
            (r"/api/repos/(create|delete|move)", self.manage),
            (r"/_lfs/([0-9a-f]{64})(/verify)?", self.lfs_object),
            (r"/(datasets/|spaces/|)([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.lfs_batch),
            (r"/(datasets/|spaces/|)([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.resolve),
            (r"/api/(models|datasets|spaces)/([^/]+/[^/]+)(?:/([^/]+))?(?:/(.+))?", self.repo_api),
        ]
        for pattern, answer in routes:
            if match := re.fullmatch(pattern, path):
                return answer(*match.groups())
        raise HubError(404, f"no route {path}")

    # ---- who asks -----------------------------------------------------------------------------------------

    def user(self) -> str | None:
        """Name of who asks; None without a token."""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.server.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.server.tokens.get(token)

    def writer(self) -> str:
        """Name of who asks; a token is needed."""
        user = self.user()
        if user is None:
            raise HubError(401, "Invalid username or password.")
        return user

    def repo(self, kind: str, repo_id: str) -> Repo:
        """The repository asked for; a private one does not exist for those who may not see it."""
        user = self.user()
        if new := self.server.storage.moved.get((kind, repo_id)):
            location = self.path.replace(repo_id, new, 1)
            raise HubError(307, f"moved to {new}", Location=location)
        if user is None and (kind, repo_id) in self.server.storage.private:
            # the Hub's 401; the code is for clients that talk to it by http, where they do not look at the address
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        return self.server.storage.repo(kind, repo_id)

    def whoami(self) -> None:
        access = {"role": "write", "displayName": "test"}
        self.send({"type": "user", "name": self.writer(), "auth": {"accessToken": access}, "orgs": []})

    # ---- repositories -------------------------------------------------------------------------------------

    def manage(self, verb: str) -> None:
        """Create, delete or move a repository."""
        user, asked, storage = self.writer(), json.loads(self.body()), self.server.storage
        kind = asked.get("type") or "model"
        if verb == "move":
            storage.move(kind, asked["fromRepo"], asked["toRepo"])
            return self.send({})
        repo_id = f"{asked.get('organization') or user}/{asked['name']}"
        if verb == "delete":
            storage.delete(kind, repo_id)
            return self.send({})
        prefix = next(p for p, k in PREFIXES.items() if k == kind)
        answer = {"url": f"{self.base}/{prefix}{repo_id}", "name": repo_id}
        if storage.place(kind, repo_id).folder.exists():
            # the client reads "url" from this answer too
            return self.send({"error": "You already created this repo", **answer}, 409)
        private = bool(asked.get("private") or asked.get("visibility") == "private")
        storage.create(kind, repo_id, private)
        return self.send(answer)

    def repo_api(self, kind: str, repo_id: str, verb: str | None, rest: str | None) -> None:
        """Answer about, or change, one repository."""
        repo = self.repo(kind[:-1], repo_id)
        first, _, sub = (rest or "").partition("/")
        revision, sub = unquote(first) or "main", unquote(sub)
        if verb in (None, "revision"):
            return self.send(self.info(repo, repo.sha(revision)))
        if verb == "tree":
            recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
            entries = repo.tree(repo.sha(revision), sub, recursive)
            if sub and not entries:
                raise HubError(404, f"{sub} does not exist", "EntryNotFound")
            return self.send(entries)
        if verb == "paths-info":
            text = self.body().decode()
            is_json = "json" in (self.headers.get("Content-Type") or "")
            paths = json.loads(text)["paths"] if is_json else parse_qs(text)["paths"]
            wanted = {p.rstrip("/") for p in ([paths] if isinstance(paths, str) else paths)}
            return self.send([entry for entry in repo.tree(repo.sha(revision)) if entry["path"] in wanted])
        if verb == "refs":
            return self.send({"branches": repo.refs("refs/heads/"), "tags": repo.refs("refs/tags/"), "converts": []})
        if verb == "commits":
            return self.send(repo.log(repo.sha(revision)))
        self.writer()
        if verb == "preupload":
            return self.preupload(repo, revision)
        if verb == "commit":
            if self.query.get("create_pr"):
                raise HubError(501, "pull requests are not implemented")
            lines = [json.loads(line) for line in self.body().splitlines() if line.strip()]
            sha = repo.commit(revision, lines)
            answer = {"commitUrl": f"{self.base}/{repo.id}/commit/{sha}", "commitOid": sha, "hookOutput": ""}
            return self.send({**answer, "success": True})
        if verb in ("branch", "tag"):
            return self.change_ref(repo, verb, unquote(rest or ""))
        raise HubError(404, f"no route {self.path}")

    def info(self, repo: Repo, sha: str) -> dict[str, Any]:
        """Describe a repository."""
        files = []
        for entry in (e for e in repo.tree(sha) if e["type"] == "file"):
            lfs = {"lfs": {**entry["lfs"], "sha256": entry["lfs"]["oid"]}} if "lfs" in entry else {}
            files.append({"rfilename": entry["path"], "size": entry["size"], "blobId": entry["oid"], **lfs})
        private = (repo.kind, repo.id) in self.server.storage.private
        state = {"private": private, "gated": False, "disabled": False, "tags": [], "downloads": 0, "likes": 0}
        dates = dict.fromkeys(("lastModified", "createdAt"), repo.date(sha))
        names = {"_id": repo.id, "id": repo.id, "modelId": repo.id, "author": repo.id.split("/")[0]}
        return {**names, "sha": sha, **state, **dates, "siblings": files}

    def preupload(self, repo: Repo, revision: str) -> None:
        """Say which files go to LFS, and which are there already."""
        there = {e["path"]: e.get("lfs", e)["oid"] for e in repo.tree(repo.sha(revision)) if e["type"] == "file"}
        files = []
        for file in json.loads(self.body())["files"]:
            large = file["size"] > LFS_SIZE or file["path"].endswith(LFS_SUFFIXES)
            mode = "lfs" if large else "regular"
            known = there.get(file["path"])
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": known})
        self.send({"files": files})

    def change_ref(self, repo: Repo, verb: str, name: str) -> None:
        """Create or delete a branch or tag."""
        asked = json.loads(self.body() or b"{}")
        folder = "refs/heads/" if verb == "branch" else "refs/tags/"
        if self.command == "DELETE":
            if not repo.refs(folder + name):
                raise HubError(404, f"Invalid rev id: {name}", "RevisionNotFound")
            repo.git("update-ref", "-d", folder + name)
            return self.send({})
        new, start = (name, asked.get("startingPoint") or "main") if verb == "branch" else (asked["tag"], name)
        if repo.refs(folder + new):
            raise HubError(409, "Reference already exists")
        repo.git("update-ref", folder + new, repo.sha(start))
        self.send({})

    # ---- files --------------------------------------------------------------------------------------------

    def lfs_batch(self, prefix: str, repo_id: str) -> None:
        """Say where to upload the objects that are not there yet."""
        self.writer()
        self.repo(PREFIXES[prefix], repo_id)
        objects = []
        for asked in json.loads(self.body())["objects"]:
            address = f"{self.base}/_lfs/{asked['oid']}"
            there = self.server.storage.object(asked["oid"]).exists()
            actions = {"upload": {"href": address}, "verify": {"href": f"{address}/verify"}}
            objects.append(asked if there else {**asked, "actions": actions})
        self.send({"transfer": "basic", "objects": objects}, content_type="application/vnd.git-lfs+json")

    def lfs_object(self, oid: str, verify: str | None) -> None:
        """Take, confirm or give an LFS object."""
        path = self.server.storage.object(oid)
        if self.command == "PUT":
            data = self.body(self.server.fault("upload"))
            if hashlib.sha256(data).hexdigest() != oid:
                raise HubError(400, f"the content does not have the sha256 {oid}")
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{threading.get_ident()}")
            part.write_bytes(data)
            os.replace(part, path)
            return self.send()
        if verify:
            asked = json.loads(self.body())
            if not path.exists() or path.stat().st_size != asked["size"]:
                raise HubError(404, f"there is no object {oid} of {asked['size']} bytes")
            return self.send({})
        if not path.exists():
            raise HubError(404, f"there is no object {oid}")
        self.send_file(path.read_bytes(), {"ETag": f'"{oid}"'}, self.server.fault("download"))

    def resolve(self, prefix: str, repo_id: str, revision: str, name: str) -> None:
        """Give a file; one in LFS lies at another address, as on the Hub."""
        repo = self.repo(PREFIXES[prefix], repo_id)
        sha = repo.sha(unquote(revision))
        blob, data = repo.file(sha, unquote(name))
        headers = {"ETag": f'"{blob.etag}"', "X-Repo-Commit": sha}
        if data is not None:
            return self.send_file(data, headers)
        headers |= {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(blob.size)}
        self.send(b"", 302, Location=f"{self.elsewhere}/_lfs/{blob.etag}", **headers)

    # ---- bytes --------------------------------------------------------------------------------------------

    def body(self, fault: Fault | None = None) -> bytes:
        """Read the body of the request."""
        left, parts = int(self.headers.get("Content-Length") or 0), []
        while left:
            if fault and sum(map(len, parts)) >= fault.after:
                self.strike(fault)
            part = self.rfile.read(min(left, CHUNK))
            if not part:
                raise Cut
            parts.append(part)
            left -= len(part)
        self.body_read = True
        return b"".join(parts)

    def strike(self, fault: Fault) -> None:
        """Cut the connection, after a silence if that is ordered."""
        fault.struck.set()
        if fault.stall:
            fault.over.wait(60)
        raise Cut

    def send(self, body: Any = b"", status: int = 200, content_type: str = "application/json", **headers: str) -> None:
        """Answer with bytes or JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.begin(status, content_type, len(data), headers)
        if self.command != "HEAD":
            self.wfile.write(data)
            self.server.bytes_sent += len(data)

    def send_file(self, data: bytes, headers: dict[str, str], fault: Fault | None = None) -> None:
        """Answer with a file, or the range of it that is asked for."""
        size, status = len(data), 200
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(match[1]), min(int(match[2] or size - 1), size - 1)
            if first >= size:
                raise HubError(416, "the range begins after the end", **{"Content-Range": f"bytes */{size}"})
            headers = {**headers, "Content-Range": f"bytes {first}-{last}/{size}"}
            data, status = data[first : last + 1], 206
        self.begin(status, "application/octet-stream", len(data), {**headers, "Accept-Ranges": "bytes"})
        if self.command == "HEAD":
            return
        for start in range(0, len(data), CHUNK):
            if fault and start >= fault.after:
                self.wfile.flush()
                self.strike(fault)
            part = data[start : start + CHUNK]
            with suppress(ConnectionError):
                self.wfile.write(part)
            self.server.bytes_sent += len(part)

    def begin(self, status: int, content_type: str, length: int, headers: dict[str, str]) -> None:
        """Send status and headers."""
        self.send_response(status)
        for key, value in {"Content-Type": content_type, "Content-Length": str(length), **headers}.items():
            self.send_header(key, value)
        self.end_headers()


if __name__ == "__main__":
    print(HubServer(Path(sys.argv[1]), int(sys.argv[2])).start().url, flush=True)
    threading.Event().wait()
