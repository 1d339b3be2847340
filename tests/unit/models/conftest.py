"""A model hub on loopback that speaks as Hugging Face and as ModelScope do, and can be told to fail."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest


@dataclass
class Repository:
    """Commits, and the branches and tags that name them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], *names: str) -> str:
        """Add a commit, point names at it, and return its hash."""
        text = json.dumps({path: hashlib.sha256(data).hexdigest() for path, data in sorted(files.items())})
        commit = hashlib.sha1(text.encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.names |= dict.fromkeys(names, commit)
        return commit


@dataclass
class Hub:
    """What the server holds, how it shall misbehave, and what it was asked."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    """File -> for each coming download of it, the number of bytes after which the connection breaks."""
    damaged: set[str] = field(default_factory=set)
    """Files that are sent with one bit changed."""
    down: bool = False
    tells_commit: bool = True
    """ModelScope leaves the commit out of some answers."""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and Range of each request."""

    def repository(self, name: str) -> Repository:
        """Return a repository, made empty where it isn't there yet."""
        return self.repositories.setdefault(name, Repository())

    def downloads(self, name: str) -> list[str]:
        """Return the Range of each download of a file so far, empty for a whole one."""
        return [
            given
            for method, path, given in self.asked
            if method == "GET" and path.endswith(f"/{name}") and "/resolve/" in path
        ]


class Handler(BaseHTTPRequestHandler):
    """Answers for a Hub."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        """Answer without a body."""
        self.answer()

    def do_GET(self) -> None:
        """Answer with a body."""
        self.answer()

    def answer(self) -> None:
        """Find what is asked for in the shapes of both hubs."""
        address = urlsplit(self.path)
        parts = [unquote(part) for part in address.path.strip("/").split("/")]
        query = {key: values[0] for key, values in parse_qs(address.query).items()}
        self.hub.asked.append((self.command, address.path, self.headers.get("Range", "")))
        if self.hub.down:
            self.send(503, b"down")
        elif parts[:3] == ["api", "v1", "models"]:
            self.modelscope_listing("/".join(parts[3:5]), query.get("Revision", "master"))
        elif parts[:2] == ["api", "models"]:
            self.huggingface_listing("/".join(parts[2:4]), parts[4:])
        elif "resolve" in parts:
            at = parts.index("resolve")
            self.file("/".join(parts[at - 2 : at]), parts[at + 1], "/".join(parts[at + 2 :]))
        else:
            self.send(404, b"{}")

    def find(self, name: str, revision: str) -> tuple[str, dict[str, bytes] | None]:
        """Return a commit and its files."""
        repository = self.hub.repositories.get(name, Repository())
        commit = repository.names.get(revision, revision)
        return commit, repository.commits.get(commit)

    def huggingface_listing(self, name: str, rest: list[str]) -> None:
        """Answer /api/models/NAME/revision/REVISION and /api/models/NAME/tree/COMMIT."""
        if name not in self.hub.repositories:
            self.send(401, b'{"error":"Repository not found"}', {"X-Error-Code": "RepoNotFound"})
            return
        commit, files = self.find(name, rest[1] if len(rest) > 1 else "main")
        if files is None:
            self.send(404, b'{"error":"Invalid rev id"}', {"X-Error-Code": "RevisionNotFound"})
            return
        tree = []
        for path, data in files.items():
            entry: dict[str, object] = {"type": "file", "path": path, "rfilename": path, "size": len(data)}
            entry["oid"] = entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            if path.endswith((".safetensors", ".bin")):
                digest = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"oid": digest, "sha256": digest, "size": len(data), "pointerSize": 100}
            tree.append(entry)
        value = tree if rest and rest[0] == "tree" else {"id": name, "sha": commit, "siblings": tree}
        self.send(200, json.dumps(value).encode(), {"X-Repo-Commit": commit})

    def modelscope_listing(self, name: str, revision: str) -> None:
        """Answer /api/v1/models/NAME/repo/files."""
        commit, files = self.find(name, revision)
        if files is None:
            self.send(404, b'{"Code":10010205001,"Success":false,"Message":"not found"}')
            return
        entries = [
            {"Path": path, "Name": path, "Type": "blob", "Size": len(data), "Sha256": hashlib.sha256(data).hexdigest()}
            for path, data in files.items()
        ]
        committer = {"Id": commit if self.hub.tells_commit else ""}
        folder = {"Path": "1_Pooling", "Name": "1_Pooling", "Type": "tree", "Size": 0, "Sha256": ""}
        value = {"Code": 200, "Success": True, "Data": {"Files": [*entries, folder], "LatestCommitter": committer}}
        self.send(200, json.dumps(value).encode())

    def file(self, name: str, revision: str, path: str) -> None:
        """Answer /NAME/resolve/REVISION/PATH, whole or from the byte asked for."""
        commit, files = self.find(name, revision)
        if files is None or path not in files:
            self.send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        data = files[path]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        if path in self.hub.damaged:
            data = data[:-1] + bytes([data[-1] ^ 1])
        wanted = self.headers.get("Range", "")
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        cuts = self.hub.cuts.get(path, [])
        cut = cuts.pop(0) if cuts and self.command == "GET" else None
        self.send(206 if start else 200, data[start:], headers, cut)

    def send(self, code: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        """Send an answer, or its beginning and then nothing more."""
        self.send_response(code)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Return a running hub that both clients are pointed at, with empty caches."""
    from huggingface_hub import constants

    held = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HandlerOfHub", (Handler,), {"hub": held}))
    held.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", held.address)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", held.address)
    monkeypatch.setenv("LUBAN_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 25_000)  # it resumes whole chunks, 10 MB each otherwise
    for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    yield held
    server.shutdown()
    server.server_close()
    thread.join()
