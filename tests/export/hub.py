"""A small server of the hub's API on loopback: repositories, commits, large files, downloads.

As the hub's client asks for them: /api/repos/create, preupload, Git LFS' batch, commit, the list of
files and their contents, each at a revision.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """A repository: whether it is private, and its commits: name -> files, the newest last."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes]) -> str:
        content = {**(list(self.commits.values())[-1] if self.commits else {}), **files}
        parts = [str(len(self.commits)), *(f"{n}{len(b)}" for n, b in content.items())]
        name = hashlib.sha1("".join(parts).encode()).hexdigest()
        self.commits[name] = content
        return name

    def named(self, revision: str) -> str | None:
        if revision == "main":
            return list(self.commits)[-1]
        return revision if revision in self.commits else None


@dataclass
class Hub:
    """What the server holds, and what it was asked: the method and the path of each request."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    token: str = "hf_of_the_test"


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None: ...

        def body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def answer(self, content: Any, status: int = 200, **headers: str) -> None:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def refuse(self, code: str, status: int = 404) -> None:
            self.answer({"error": code}, status, X_Error_Code=code)

        def do_POST(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"POST {path}")
            data = self.body()
            if path == "/api/validate-yaml":
                self.answer({"errors": [], "warnings": []})
            elif self.headers.get("Authorization") != f"Bearer {hub.token}":
                self.refuse("Invalid credentials in Authorization header", 401)
            elif path == "/api/repos/create":
                self.create(json.loads(data))
            elif found := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
                files = json.loads(data)["files"]
                kinds = {True: "lfs", False: "regular"}
                self.answer(
                    {
                        "files": [
                            {
                                "path": f["path"],
                                "uploadMode": kinds[f["path"].endswith(".safetensors")],
                                "shouldIgnore": False,
                            }
                            for f in files
                        ]
                    }
                )
            elif path.endswith(".git/info/lfs/objects/batch"):
                wanted = json.loads(data)["objects"]
                upload = {o["oid"]: {"href": f"{hub.address}/large/{o['oid']}"} for o in wanted}
                told = [{**o, "actions": {"upload": upload[o["oid"]]}} for o in wanted]
                self.answer({"transfer": "basic", "objects": told})
            elif found := re.fullmatch(r"/api/models/(.+)/commit/main", path):
                self.commit(found[1], [json.loads(line) for line in data.splitlines()])
            else:
                self.refuse("EntryNotFound")

        def create(self, wanted: dict[str, Any]) -> None:
            repo_id = f"{wanted['organization']}/{wanted['name']}"
            if repo_id in hub.repositories:
                told = {"error": "You already created this model repo"}
                self.answer({**told, "url": f"{hub.address}/{repo_id}"}, 409)
                return
            private = wanted.get("private") or wanted.get("visibility") == "private"
            hub.repositories[repo_id] = Repository(bool(private))
            hub.repositories[repo_id].commit({".gitattributes": b""})
            self.answer({"url": f"{hub.address}/{repo_id}"})

        def commit(self, repo_id: str, lines: list[dict[str, Any]]) -> None:
            files = {}
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.large[value["oid"]]
            name = hub.repositories[repo_id].commit(files)
            url = f"{hub.address}/{repo_id}/commit/{name}"
            self.answer({"success": True, "commitOid": name, "commitUrl": url})

        def do_PUT(self) -> None:
            hub.large[self.path.rpartition("/")[2]] = self.body()
            self.answer({}, ETag='"0"')

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
            file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
            found = api or file
            repository = hub.repositories.get(found[1]) if found else None
            if repository is None:
                self.refuse("RepoNotFound")
                return
            assert found is not None
            commit = repository.named((found[3] if api else found[2]) or "main")
            if commit is None:
                self.refuse("RevisionNotFound")
                return
            files = repository.commits[commit]
            if api and api[2] == "tree":
                self.answer([
                    {"type": "file", "path": n, "size": len(b), "oid": hashlib.sha1(b).hexdigest()}
                    for n, b in files.items()
                ])  # fmt: skip
            elif api:
                siblings = [{"rfilename": name} for name in files]
                self.answer(
                    {"id": found[1], "modelId": found[1], "sha": commit, "tags": [],
                     "private": repository.private, "siblings": siblings}
                )  # fmt: skip
            elif found[3] not in files:
                self.refuse("EntryNotFound")
            else:
                tag = f'"{hashlib.sha1(files[found[3]]).hexdigest()}"'
                self.answer(files[found[3]], ETag=tag, X_Repo_Commit=commit)

    return Handler


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub while the block runs."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
