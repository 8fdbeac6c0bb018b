"""A stand-in for the Hugging Face hub: the endpoints that making, pushing and downloading a model need.

It keeps the bytes that it received, and the requests, so that a test can compare them with the files.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "t" * 34
LFS = ".safetensors"
COMMIT = "c" * 40


class Hub:
    """State of the stand-in: repositories, their branches and files, what was uploaded, what it should refuse."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: dict[str, Any] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.refuse: dict[str, int] = {}  # word in a path -> status
        self.url = ""


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of huggingface_hub."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None: ...

    def do_GET(self) -> None:
        path = self._begin()
        if path is None:
            return
        if "/resolve/" in path:
            repository, _, rest = path.strip("/").partition("/resolve/")
            branch, _, name = rest.partition("/")
            return self._send_file(self._branch(repository, branch).get(name))
        repository, part, rest = self._split(path)
        branch = rest.partition("/")[0] if rest else "main"
        if repository not in self.hub.repositories or branch not in (
            *self.hub.repositories[repository],
            COMMIT,
        ):
            return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        files = self._branch(repository, branch)
        if part == "tree":
            return self._answer(200, [_describe(name, data) for name, data in sorted(files.items())])
        siblings = [{"rfilename": name} for name in files]
        private = self.hub.private.get(repository) in ("private", True)
        fields = {"id": repository, "sha": COMMIT, "siblings": siblings, "tags": [], "private": private}
        return self._answer(200, fields)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self._begin()
        if path is None:
            return
        if path == "/api/validate-yaml":
            return self._answer(200, {"warnings": [], "errors": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.endswith("/info/lfs/objects/batch"):
            return self._answer(
                200, {"transfer": "basic", "objects": list(map(self._lfs, json.loads(body)["objects"]))}
            )
        repository, part, rest = self._split(path)
        if part == "branch":
            branches = self.hub.repositories[repository]
            if rest in branches:
                return self._answer(409, {"error": "Reference already exists"})
            branches[rest] = dict(branches["main"])
            return self._answer(200, {})
        if part == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [
                {
                    "path": name,
                    "uploadMode": "lfs" if name.endswith(LFS) else "regular",
                    "shouldIgnore": False,
                }
                for name in names
            ]
            return self._answer(200, {"files": modes})
        for line in body.splitlines():
            self._apply(repository, rest, **json.loads(line))
        url = f"{self.hub.url}/{repository}/commit/{COMMIT}"
        return self._answer(200, {"commitUrl": url, "commitOid": COMMIT})

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        path = self._begin()
        if path is not None:
            self.hub.objects[path.rpartition("/")[2]] = data
            self._answer(200, {})

    def _begin(self) -> str | None:
        """Notes the request; answers it if it is to be refused, or has no token."""
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, str(self.headers.get("Authorization"))))
        status = next((status for word, status in self.hub.refuse.items() if word in path), None)
        if (
            status is None
            and "/lfs-store/" not in path
            and self.headers.get("Authorization") != f"Bearer {TOKEN}"
        ):
            status = 401
        if status is not None:
            self._answer(status, {"error": "refused"})
            return None
        return path

    def _split(self, path: str) -> tuple[str, str, str]:
        """Repository, the word after it, and the rest."""
        parts = path.removeprefix("/api/models/").split("/", 3)
        return "/".join(parts[:2]), *([*parts[2:], "", ""][:2])  # type: ignore[return-value]

    def _branch(self, repository: str, branch: str) -> dict[str, bytes]:
        branches = self.hub.repositories[repository]
        return branches.get(branch, branches["main"])

    def _create(self, fields: dict[str, Any]) -> None:
        name = f"{fields['organization']}/{fields['name']}"
        if name in self.hub.repositories:
            return self._answer(409, {"error": "You already created this model repo"})
        self.hub.repositories[name] = {"main": {".gitattributes": b"*.safetensors filter=lfs\n"}}
        self.hub.private[name] = fields.get("visibility", fields.get("private"))
        return self._answer(200, {"url": f"{self.hub.url}/{name}"})

    def _lfs(self, entry: dict[str, Any]) -> dict[str, Any]:
        href = f"{self.hub.url}/lfs-store/{entry['oid']}"
        return {**entry, "actions": {"upload": {"href": href, "header": {}}}}

    def _apply(self, repository: str, branch: str, key: str, value: dict[str, Any]) -> None:
        files = self.hub.repositories[repository][branch]
        if key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            files[value["path"]] = self.hub.objects[value["oid"]]
        elif key == "deletedFile":
            del files[value["path"]]

    def _send_file(self, data: bytes | None) -> None:
        if data is None:
            return self._answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        digest = hashlib.sha256(data).hexdigest()
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT, "X-Linked-Size": str(len(data))}
        return self._write(200, data, headers)

    def _answer(self, status: int, fields: Any, headers: dict[str, str] | None = None) -> None:
        self._write(
            status, json.dumps(fields).encode(), {"Content-Type": "application/json", **(headers or {})}
        )

    def _write(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _describe(name: str, data: bytes) -> dict[str, Any]:
    """An entry of a tree."""
    entry: dict[str, Any] = {
        "type": "file",
        "path": name,
        "size": len(data),
        "oid": hashlib.sha1(data).hexdigest(),
    }
    if name.endswith(LFS):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry


@contextmanager
def serving() -> Iterator[Hub]:
    """Runs the stand-in on a free port."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OwnHandler", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
