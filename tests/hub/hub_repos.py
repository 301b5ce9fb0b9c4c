"""Storage of a test Hub: bare git repositories with LFS pointers, and LFS objects by their sha256."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (\d+)\n")
IDENTITY = ("-c", "user.name=hub", "-c", "user.email=hub@localhost")
DATE = "--date=format-local:%Y-%m-%dT%H:%M:%S.000Z"
GIT_ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
KINDS = ("model", "dataset", "space")


class HubError(Exception):
    """An answer other than success: status, message and the code that the client reads from X-Error-Code."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers


@dataclass(frozen=True)
class Blob:
    """A file of a commit; `etag` is the sha256 of an LFS file and git's id of any other, as on the Hub."""

    etag: str
    size: int
    lfs: bool


class Storage:
    """All repositories and LFS objects under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.private: set[tuple[str, str]] = set()
        self.moved: dict[tuple[str, str], str] = {}
        self._locks: dict[str, threading.Lock] = {}

    def object(self, oid: str) -> Path:
        """Where the LFS object of this sha256 is, or would be."""
        if not re.fullmatch(r"[0-9a-f]{64}", oid):
            raise HubError(400, f"{oid!r} is not a sha256")
        return self.root / "lfs" / oid[:2] / oid

    def repo(self, kind: str, repo_id: str) -> Repo:
        """A repository that exists."""
        found = self.place(kind, repo_id)
        if not found.folder.exists():
            raise HubError(404, "Repository not found", "RepoNotFound")
        return found

    def place(self, kind: str, repo_id: str) -> Repo:
        """A repository that may not exist yet."""
        folder = self.root / f"{kind}s" / f"{repo_id}.git"
        return Repo(self, kind, repo_id, folder, self._locks.setdefault(str(folder), threading.Lock()))

    def create(self, kind: str, repo_id: str, private: bool) -> None:
        """Make a repository with one commit."""
        self.place(kind, repo_id).create()
        if private:
            self.private.add((kind, repo_id))

    def delete(self, kind: str, repo_id: str) -> None:
        """Remove a repository."""
        shutil.rmtree(self.repo(kind, repo_id).folder)
        self.private.discard((kind, repo_id))

    def move(self, kind: str, repo_id: str, new_id: str) -> None:
        """Rename a repository; its old name redirects."""
        target = self.place(kind, new_id).folder
        target.parent.mkdir(parents=True, exist_ok=True)
        self.repo(kind, repo_id).folder.rename(target)
        self.moved[kind, repo_id] = new_id


@dataclass(frozen=True)
class Repo:
    """One bare repository."""

    storage: Storage
    kind: str
    id: str
    folder: Path
    lock: threading.Lock

    def git(self, *arguments: str, given: bytes | None = None) -> bytes:
        """Run git in the repository."""
        command = ["git", *IDENTITY, "-C", str(self.folder), *arguments]
        done = subprocess.run(command, input=given, capture_output=True, env={**os.environ, "TZ": "UTC"})
        if done.returncode:
            raise HubError(400, done.stderr.decode())
        return done.stdout

    def create(self) -> None:
        """Initialise it, with the first commit that the Hub makes."""
        if self.folder.exists():
            raise HubError(409, "You already created this repo")
        self.folder.mkdir(parents=True)
        self.git("init", "-q", "--bare", "-b", "main")
        content = base64.b64encode(GIT_ATTRIBUTES).decode()
        file = {"path": ".gitattributes", "encoding": "base64", "content": content}
        self.commit("main", [{"key": "header", "value": {"summary": "initial commit"}}, {"key": "file", "value": file}])

    def sha(self, revision: str) -> str:
        """Commit id of a branch, tag or commit."""
        try:
            return self.git("rev-parse", "--verify", "-q", f"{revision}^{{commit}}").decode().strip()
        except HubError:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound") from None

    def refs(self, prefix: str) -> list[dict[str, str]]:
        """Branches (`refs/heads/`) or tags (`refs/tags/`)."""
        lines = self.git("for-each-ref", "--format=%(refname) %(objectname)", prefix).decode().splitlines()
        return [
            {"name": name.removeprefix(prefix), "ref": name, "targetCommit": sha} for name, sha in map(str.split, lines)
        ]

    def log(self, sha: str) -> list[dict[str, Any]]:
        """Commits, newest first."""
        form = "--format=%H%x1f%s%x1f%b%x1f%cd%x1e"
        rows = [r.strip().split("\x1f") for r in self.git("log", form, DATE, sha).decode().split("\x1e") if r.strip()]
        return [
            {"id": i, "title": title, "message": body, "date": date, "authors": [{"user": "hub"}]}
            for i, title, body, date in rows
        ]

    def date(self, sha: str) -> str:
        """Date of a commit as the Hub writes it."""
        return self.git("log", "-1", "--format=%cd", DATE, sha).decode().strip()

    def tree(self, sha: str, folder: str = "", recursive: bool = True) -> list[dict[str, Any]]:
        """Entries of a folder as the Hub's tree endpoint lists them."""
        prefix = folder.rstrip("/") + "/" if folder else ""
        flags = ["-r", "-t"] if recursive else []
        listed = self.git("ls-tree", "-l", "-z", *flags, sha, "--", *([prefix] if prefix else [])).decode()
        entries: list[dict[str, Any]] = []
        for line in listed.split("\0")[:-1]:
            meta, name = line.split("\t", 1)
            _, kind, oid, size = meta.split()
            if not name.startswith(prefix):
                continue
            if kind == "tree":
                entries.append({"type": "directory", "path": name, "oid": oid, "size": 0})
                continue
            entry: dict[str, Any] = {"type": "file", "path": name, "oid": oid, "size": int(size)}
            if int(size) < 200 and (pointer := POINTER.fullmatch(self.git("cat-file", "blob", oid))):
                entry["lfs"] = {"oid": pointer[1].decode(), "size": int(pointer[2]), "pointerSize": int(size)}
                entry["size"] = int(pointer[2])
            entries.append(entry)
        return entries

    def file(self, sha: str, path: str) -> tuple[Blob, bytes | None]:
        """Find a file; the bytes are those of one that is not in LFS."""
        line = self.git("ls-tree", sha, "--", path).decode()
        if not line or line.split()[1] != "blob":
            # the client remembers "no such file" for the commit that this header names
            raise HubError(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": sha})
        oid = line.split()[2]
        data = self.git("cat-file", "blob", oid)
        if pointer := POINTER.fullmatch(data):
            return Blob(pointer[1].decode(), int(pointer[2]), lfs=True), None
        return Blob(oid, len(data), lfs=False), data

    def commit(self, branch: str, items: list[dict[str, Any]]) -> str:
        """Commit what the client's NDJSON says; nothing changes if any part of it is wrong."""
        with self.lock:
            header = next((item["value"] for item in items if item["key"] == "header"), {})
            changes = [self._change(item) for item in items if item["key"] != "header"]
            ref = f"refs/heads/{branch}"
            first = branch == "main" and not self.git("for-each-ref", ref)
            parent = None if first else self.sha(ref)
            if header.get("parentCommit") and parent and not parent.startswith(header["parentCommit"]):
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            text = header.get("summary", "") + ("\n\n" + header["description"] if header.get("description") else "")
            message = text.encode()
            stream = [
                f"commit {ref}\ncommitter hub <hub@localhost> now\ndata {len(message)}\n".encode(),
                message,
                b"\n",
            ]
            stream += [f"from {parent}\n".encode()] if parent else []
            for path, data in changes:
                name = json.dumps(path, ensure_ascii=False).encode()
                if data is None:
                    stream += [b"D ", name, b"\n"]
                else:
                    stream += [b"M 100644 inline ", name, b"\ndata %d\n" % len(data), data, b"\n"]
            self.git("fast-import", "--quiet", "--force", "--date-format=now", given=b"".join(stream))
            return self.sha(ref)

    def _change(self, item: dict[str, Any]) -> tuple[str, bytes | None]:
        """Turn one operation into a path and its new content, None to delete it."""
        value = item["value"]
        path = value["path"]
        if path.startswith("/") or "\n" in path or {"..", ".git"} & set(path.split("/")):
            raise HubError(400, f"bad path {path!r}")
        if item["key"] == "file":
            return path, base64.b64decode(value["content"])
        if item["key"] == "lfsFile":
            blob = self.storage.object(value["oid"])
            if not blob.exists():
                raise HubError(400, f"LFS object {value['oid']} was never uploaded")
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{value['oid']}\nsize "
            return path, f"{pointer}{blob.stat().st_size}\n".encode()
        if item["key"] in ("deletedFile", "deletedFolder"):
            return path.rstrip("/"), None
        raise HubError(400, f"unknown operation {item['key']!r}")
