"""A model hub on this machine: the part of the Hub's HTTP API that downloading and publishing a folder needs."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE_SUFFIXES = (".safetensors", ".bin", ".pth")


class HubError(Exception):
    """An answer other than 200, with the code by which the client tells them apart."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code


class LocalHub:
    """Repositories in memory behind a server thread; use as a context manager.

    Attributes:
        commits: by repository, the files of each commit, the newest last.
        branches: by repository, the commit of each branch.
        requests: "METHOD path" of everything that was asked.
        user_agents: what the clients said that they are.
    """

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.private: dict[str, bool] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.user_agents: set[str] = set()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (HubHandler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> LocalHub:
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def add(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Commits ``files`` as the whole content of a branch; returns the commit."""
        commits = self.commits.setdefault(repo, {})
        described = json.dumps([repo, branch, len(commits), sorted(files)])
        commit = hashlib.sha1(described.encode()).hexdigest()
        commits[commit] = dict(files)
        self.branches.setdefault(repo, {})[branch] = commit
        return commit

    def find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]]:
        if repo not in self.commits:
            raise HubError(404, "RepoNotFound")
        commit = self.branches[repo].get(revision, revision)
        if commit not in self.commits[repo]:
            raise HubError(404, "RevisionNotFound")
        return commit, self.commits[repo][commit]


class HubHandler(BaseHTTPRequestHandler):
    """Routes requests to the methods below; each route is a pattern whose groups are the arguments."""

    hub: LocalHub
    protocol_version = "HTTP/1.1"
    routes = (
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/revision/(?P<revision>[^/]+))?", "model_info"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)", "tree"),
        ("HEAD", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "file"),
        ("GET", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "file"),
        ("POST", r"/api/repos/create", "create_repo"),
        ("POST", r"/api/validate-yaml", "validate_card"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "large_batch"),
        ("PUT", r"/large/(?P<oid>\w+)", "upload_large"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<revision>[^/]+)", "commit"),
    )

    def log_message(self, *args: object) -> None:
        """Keeps the test output quiet."""

    def handle_request(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append(f"{self.command} {path}")
        self.hub.user_agents.add(self.headers.get("User-Agent", ""))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            for method, pattern, name in self.routes:
                match = re.fullmatch(pattern, path)
                if method == self.command and match:
                    arguments = {key: unquote(value) for key, value in match.groupdict().items() if value}
                    if method in ("POST", "PUT"):
                        if name != "upload_large" and self.headers.get("Authorization") != "Bearer writer":
                            raise HubError(401, "Unauthorized")
                        arguments["body"] = body
                    getattr(self, name)(**arguments)
                    return
            raise HubError(404, "EntryNotFound")
        except HubError as error:
            self.answer(error.status, b"{}", {"X-Error-Code": error.code, "X-Error-Message": error.code})

    do_GET = do_HEAD = do_POST = do_PUT = handle_request  # noqa: N815 - the base class's names

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def answer_json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def model_info(self, repo: str, revision: str = "main") -> None:
        commit, files = self.hub.find(repo, revision)
        siblings = [{"rfilename": path} for path in files]
        self.answer_json({"id": repo, "modelId": repo, "sha": commit, "siblings": siblings, "tags": []})

    def tree(self, repo: str, revision: str) -> None:
        entries = []
        for path, content in self.hub.find(repo, revision)[1].items():
            entry = {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            if path.endswith(LARGE_SUFFIXES):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
            entries.append(entry)
        self.answer_json(entries)

    def file(self, repo: str, revision: str, path: str) -> None:
        commit, files = self.hub.find(repo, revision)
        if path not in files:
            raise HubError(404, "EntryNotFound")
        content = files[path]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        if path.endswith(LARGE_SUFFIXES):
            headers["X-Linked-Size"] = str(len(content))
            headers["X-Linked-ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
        self.answer(200, content, headers)

    def create_repo(self, body: bytes) -> None:
        wanted = json.loads(body)
        repo = f"{wanted['organization']}/{wanted['name']}"
        if repo in self.hub.commits:
            self.answer(409, json.dumps({"url": f"{self.hub.endpoint}/{repo}"}).encode())
            return
        self.hub.private[repo] = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.hub.add(repo, {".gitattributes": b"*.safetensors filter=lfs\n"})
        self.answer_json({"url": f"{self.hub.endpoint}/{repo}", "name": repo})

    def validate_card(self, body: bytes) -> None:
        starts_with_metadata = json.loads(body)["content"].startswith("---\n")
        warnings = [] if starts_with_metadata else [{"message": "empty metadata"}]
        self.answer_json({"errors": [], "warnings": warnings})

    def preupload(self, repo: str, revision: str, body: bytes) -> None:
        self.hub.find(repo, revision)
        self.answer_json(
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(LARGE_SUFFIXES) else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(body)["files"]
                ]
            }
        )

    def large_batch(self, repo: str, body: bytes) -> None:
        objects = []
        for wanted in json.loads(body)["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.large:
                href = f"{self.hub.endpoint}/large/{wanted['oid']}"
                answer["actions"] = {"upload": {"href": href, "header": {}}}
            objects.append(answer)
        self.answer_json({"transfer": "basic", "objects": objects})

    def upload_large(self, oid: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise HubError(400, "WrongDigest")
        self.hub.large[oid] = body
        self.answer(200, b"")

    def commit(self, repo: str, revision: str, body: bytes) -> None:
        files = dict(self.hub.find(repo, revision)[1])
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        commit = self.hub.add(repo, files, revision)
        self.answer_json({"commitUrl": f"{self.hub.endpoint}/{repo}/commit/{commit}", "commitOid": commit})
