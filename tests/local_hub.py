"""A model hub on 127.0.0.1: the routes that huggingface_hub's client calls, with repositories in a dict."""

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

TOKEN = "hf_local"
Files = dict[str, bytes]


class Answer(Exception):
    """Ends a request with a status, a hub's error code and message."""

    def __init__(self, status: int, code: str = "", message: str = ""):
        self.status, self.code, self.message = status, code, message


class LocalHub:
    """Repositories and their commits. Requests in `failures` (method, part of the path) get another answer."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, Files]] = {}  # repository -> commit or branch -> its files
        self.blobs: dict[str, bytes] = {}  # large files by sha256, uploaded before the commit that names them
        self.commits: list[str] = []  # "repository message", one per commit
        self.failures: dict[tuple[str, str], Answer] = {}
        self.requests: list[tuple[str, str]] = []
        self.private: set[str] = set()
        self.url = ""

    def commit(self, repo: str, branch: str, files: Files) -> str:
        """Commit `files` as the content of a branch; return the commit's id."""
        text = "".join(f"{name} {hashlib.sha256(body).hexdigest()}\n" for name, body in sorted(files.items()))
        oid = hashlib.sha1(text.encode()).hexdigest()
        self.repos.setdefault(repo, {})
        self.repos[repo][oid] = self.repos[repo][branch] = files
        return oid

    def oid(self, repo: str, revision: str) -> str:
        files = self.repos[repo][revision]
        if len(revision) == 40:  # a commit's own id
            return revision
        return next((key for key, value in self.repos[repo].items() if value is files and len(key) == 40), "0" * 40)


class Handler(http.server.BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        self._answer()

    do_GET = do_HEAD = do_PUT = do_POST

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            for (method, part), answer in self.hub.failures.items():
                if self.command == method and part in path:
                    raise answer
            for pattern, route in ROUTES.items():
                if match := re.fullmatch(pattern, f"{self.command} {path}"):
                    return self._send(200, *route(self, body, *match.groups()))
            raise Answer(404, "RepoNotFound")
        except Answer as answer:
            headers = {"X-Error-Code": answer.code} if answer.code else {}
            self._send(answer.status, {"error": answer.message}, headers)

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    # --- Routes: (body, *groups) -> (answer, headers) ---

    def _logged_in(self, code: str = "") -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Answer(401, code)

    def _files(self, repo: str, revision: str) -> Files:
        if repo in self.hub.private:
            self._logged_in("RepoNotFound")  # without the token, as if it did not exist
        if repo not in self.hub.repos:
            raise Answer(404, "RepoNotFound")
        if revision not in self.hub.repos[repo]:
            raise Answer(404, "RevisionNotFound")
        return self.hub.repos[repo][revision]

    def create(self, body: bytes):
        self._logged_in()
        wanted = json.loads(body)
        repo = f"{wanted['organization'] or 'me'}/{wanted['name']}"
        if wanted.get("visibility") == "private":
            self.hub.private.add(repo)
        self.hub.repos.setdefault(repo, {"main": {}})
        return ({"url": f"{self.hub.url}/{repo}"},)

    def branch(self, body: bytes, repo: str, name: str):
        self._logged_in()
        self.hub.repos[repo].setdefault(name, self.hub.repos[repo]["main"])
        return ({},)

    def preupload(self, body: bytes, repo: str, revision: str):
        self._logged_in()
        self._files(repo, revision)
        files = [{"path": file["path"], "shouldIgnore": False} for file in json.loads(body)["files"]]
        for file in files:
            file["uploadMode"] = "lfs" if file["path"].endswith(".safetensors") else "regular"
        return ({"files": files},)

    def batch(self, body: bytes, repo: str):
        self._logged_in()
        objects = json.loads(body)["objects"]
        for item in objects:
            item["actions"] = {"upload": {"href": f"{self.hub.url}/storage/{item['oid']}"}}
        return ({"transfer": "basic", "objects": objects},)

    def put(self, body: bytes, oid: str):
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.blobs[oid] = body
        return ({},)

    def commit(self, body: bytes, repo: str, revision: str):
        self._logged_in()
        files, message = dict(self._files(repo, revision)), ""
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                assert item["key"] == "lfsFile"
                files[value["path"]] = self.hub.blobs[value["oid"]]
        oid = self.hub.commit(repo, revision, files)
        self.hub.commits.append(f"{repo}@{revision} {message}")
        return ({"commitUrl": f"{self.hub.url}/{repo}/commit/{oid}", "commitOid": oid},)

    def info(self, body: bytes, repo: str, revision: str | None = None):
        self._files(repo, revision or "main")
        return ({"id": repo, "sha": self.hub.oid(repo, revision or "main"), "siblings": []},)

    def tree(self, body: bytes, repo: str, revision: str, folder: str | None = None):
        files, start = self._files(repo, revision), f"{folder}/" if folder else ""
        below = [name for name in files if name.startswith(start)]
        if "recursive=False" in self.path or "recursive=false" in self.path:
            names = dict.fromkeys(start + name.removeprefix(start).partition("/")[0] for name in below)
        else:
            parts = [name.split("/") for name in below]
            names = dict.fromkeys("/".join(part[: n + 1]) for part in parts for n in range(len(part)))
            names = [name for name in names if name.startswith(start)]
        return ([self._entry(files, name) for name in names],)

    def paths_info(self, body: bytes, repo: str, revision: str):
        files = self._files(repo, revision)
        names = [unquote(name) for key, name in parse_qsl(body.decode()) if key == "paths"]
        known = [name for name in names if name in files or any(file.startswith(f"{name}/") for file in files)]
        return ([self._entry(files, name) for name in known],)

    def _entry(self, files: Files, name: str) -> dict[str, Any]:
        kind = {"type": "file", "size": len(files[name])} if name in files else {"type": "directory"}
        return {**kind, "path": name, "oid": "0" * 40}

    def resolve(self, body: bytes, repo: str, revision: str, name: str):
        files = self._files(repo, revision)
        if name not in files:
            raise Answer(404, "EntryNotFound")
        headers = {"ETag": f'"{_etag(files[name])}"', "X-Repo-Commit": self.hub.oid(repo, revision)}
        if match := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            return files[name][int(match[1]) : int(match[2]) + 1], headers
        return files[name], headers


def _etag(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


REPO, REVISION = r"([^/]+/[^/]+)", r"([^/]+)"
ROUTES: dict[str, Callable] = {
    r"POST /api/repos/create": Handler.create,
    r"POST /api/validate-yaml": lambda handler, body: ({},),
    rf"POST /api/models/{REPO}/branch/{REVISION}": Handler.branch,
    rf"POST /api/models/{REPO}/preupload/{REVISION}": Handler.preupload,
    rf"POST /{REPO}\.git/info/lfs/objects/batch": Handler.batch,
    r"PUT /storage/([0-9a-f]{64})": Handler.put,
    rf"POST /api/models/{REPO}/commit/{REVISION}": Handler.commit,
    rf"GET /api/models/{REPO}": Handler.info,
    rf"GET /api/models/{REPO}/revision/{REVISION}": Handler.info,
    rf"GET /api/models/{REPO}/tree/{REVISION}": Handler.tree,
    rf"(?:GET|HEAD) (?:/datasets)?/{REPO}/resolve/{REVISION}/(.+)": Handler.resolve,
    rf"GET /api/datasets/{REPO}": Handler.info,
    rf"GET /api/datasets/{REPO}/revision/{REVISION}": Handler.info,
    rf"GET /api/datasets/{REPO}/tree/{REVISION}(?:/(.+))?": Handler.tree,
    rf"POST /api/datasets/{REPO}/paths-info/{REVISION}": Handler.paths_info,
}


@contextmanager
def serving() -> Iterator[LocalHub]:
    """Yield an empty hub, served at its `url` while the block runs."""
    hub = LocalHub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
