"""The HTTP interface of the Hugging Face Hub, as far as making, filling, and reading a repository of a model takes.

What a client sends and expects was read in huggingface_hub 2.4 (`hf_api.py`, `file_download.py`, `lfs.py`,
`_commit_api.py`): repositories with commits, branches and pull requests, small files inside the commit, and large ones
through Git LFS.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml


@dataclass
class Repository:
    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        before = self.commits.get(self.branches.get(branch, ""), {})
        name = hashlib.sha1(f"{branch} {len(self.commits)}".encode()).hexdigest()
        self.commits[name] = {**before, **files}
        self.branches[branch] = name
        return name


@dataclass
class Hub:
    """What the server holds, and what it was asked."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub on a port of this machine."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                chunks = []
                while size := int(self.rfile.readline(), 16):
                    chunks.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(chunks)
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def answer(self, content: object = None, status: int = 200, **headers: str) -> None:
            data = content if isinstance(content, bytes) else json.dumps(content or {}).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def refuse(self, code: str) -> None:
            self.answer({"error": code}, 404, X_Error_Code=code, X_Error_Message=f"no such thing: {code}")

        def files_at(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
            repository = hub.repositories.get(name)
            if repository is None:
                self.refuse("RepoNotFound")
                return None
            commit = repository.branches.get(revision, revision)
            if commit not in repository.commits:
                self.refuse("RevisionNotFound")
                return None
            return commit, repository.commits[commit]

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
                if there := self.files_at(found[1], found[2] or "main"):
                    commit, files = there
                    self.answer({"id": found[1], "sha": commit, "siblings": [{"rfilename": file} for file in files]})
            elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/.*)?", path):
                if there := self.files_at(found[1], found[2]):
                    entries = [
                        {
                            "type": "file",
                            "path": file,
                            "size": len(data),
                            "oid": hashlib.sha1(data).hexdigest(),
                        }
                        for file, data in there[1].items()
                    ]
                    self.answer(json.dumps(entries).encode())
            elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                if there := self.files_at(found[1], found[2]):
                    commit, files = there
                    if found[3] not in files:
                        self.refuse("EntryNotFound")
                        return
                    data = files[found[3]]
                    self.answer(data, ETag=f'"{hashlib.sha256(data).hexdigest()}"', X_Repo_Commit=commit)
            else:
                self.answer({"error": f"unknown request {path}"}, 400)

        do_HEAD = do_GET

        def do_PUT(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"PUT {path}")
            hub.objects[path.rpartition("/")[2]] = self.body()
            self.answer()

        def do_POST(self) -> None:
            path, body = unquote(urlsplit(self.path).path), self.body()
            hub.requests.append(f"POST {path}")
            if path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked.get('organization') or 'me'}/{asked['name']}"
                status = 409 if name in hub.repositories else 200
                if status == 200:
                    hub.repositories[name] = Repository(
                        asked.get("visibility") == "private" or bool(asked.get("private"))
                    )
                    hub.repositories[name].commit("main", {".gitattributes": b""})
                self.answer({"url": f"{hub.url}/{name}", "name": name}, status)
            elif path == "/api/validate-yaml":
                fields = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
                is_valid = isinstance(fields, dict) and {"library_name", "pipeline_tag", "tags"} <= fields.keys()
                self.answer({"errors": [], "warnings": []}, 200 if is_valid else 400)
            elif re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/(.+)", path):
                files = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                        "oid": None,
                    }
                    for file in json.loads(body)["files"]
                ]
                self.answer({"files": files})
            elif path.endswith(".git/info/lfs/objects/batch"):
                objects = [
                    {**one, "actions": {"upload": {"href": f"{hub.url}/objects/{one['oid']}"}}}
                    for one in json.loads(body)["objects"]
                ]
                self.answer({"transfer": "basic", "objects": objects})
            elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
                lines = [json.loads(line) for line in body.decode().splitlines()]
                files = {}
                for line in lines:
                    value = line["value"]
                    if line["key"] == "file":
                        files[value["path"]] = base64.b64decode(value["content"])
                    elif line["key"] == "lfsFile":
                        files[value["path"]] = hub.objects[value["oid"]]
                if found[2] not in hub.repositories[found[1]].branches:
                    self.refuse("RevisionNotFound")
                    return
                commit = hub.repositories[found[1]].commit(found[2], files)
                self.answer(
                    {"success": True, "commitOid": commit, "commitUrl": f"{hub.url}/{found[1]}/commit/{commit}"}
                )
            else:
                self.answer({"error": f"unknown request {path}"}, 400)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
