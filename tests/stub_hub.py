"""A Hugging Face Hub of a few small repositories on loopback: real clients talk to it over HTTP.

It serves what `huggingface_hub` and `datasets` ask of the real one: api/models and api/datasets (a repository's state,
its tree, paths-info) and resolve (HEAD and GET with ETag, X-Repo-Commit, ranges). Each repository can misbehave.
The owner `stub` may write with the token TOKEN (READER may only read): api/whoami-v2, repos/create, validate-yaml,
preupload, the large-file storage by git-lfs's basic transfer (safetensors go there, as on the real one), commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

API = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<id>[^/]+/[^/]+)(/(?P<verb>revision|tree|paths-info|preupload|commit)/(?P<rest>.+))?"
)
RESOLVE = re.compile(r"/(?P<kind>datasets/)?(?P<id>[^/]+/[^/]+)/resolve/(?P<rest>.+)")
LFS = re.compile(r"/(?P<id>[^/]+/[^/]+)\.git/info/lfs/objects/(?P<rest>batch|[0-9a-f]{64})")
TOKEN, READER = "hf_stub", "hf_reader"
STATUS = {
    "unauthorized": 401,
    "bad-token": 401,
    "forbidden": 403,
    "gated": 403,
    "missing": 404,
    "limited": 429,
    "fault": 503,
}
CODES = {"gated": "GatedRepo", "missing": "RepoNotFound"}


@dataclass
class Repo:
    """Files by path at one commit, on main and other branches; `scenario` says how the hub answers."""

    files: dict[str, bytes]
    scenario: str = "ok"  # ok, slow, cut, or a key of STATUS
    branches: dict[str, Repo] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        digest = hashlib.sha1()
        for name, content in sorted(self.files.items()):
            digest.update(name.encode() + content)
        return digest.hexdigest()

    def at(self, revision: str) -> Repo | None:
        """What a branch or a commit holds."""
        if revision in ("main", self.commit):
            return self
        return next((repo for name, repo in self.branches.items() if revision in (name, repo.commit)), None)

    @classmethod
    def of(cls, folder: Path) -> Repo:
        paths = [path for path in folder.rglob("*") if path.is_file()]
        return cls({path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})


@dataclass
class StubHub:
    """`repos` by (kind, id), kind models or datasets; `asked` is every request so far."""

    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    private: set[str] = field(default_factory=set)  # repositories that are so
    stored: dict[str, bytes] = field(default_factory=dict)  # the large-file storage, by sha256
    full: bool = False  # whether that storage refuses
    card_errors: list[str] = field(default_factory=list)  # what the check of a card finds
    card_warnings: list[str] = field(default_factory=list)
    cards: list[str] = field(default_factory=list)  # that it was given
    server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        assert self.server
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> StubHub:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.server
        self.server.shutdown()
        self.server.server_close()


def _handler(hub: StubHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer()

        def do_PUT(self) -> None:
            self.answer()

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.asked.append(f"{self.command} {self.path}")
            path = urlsplit(self.path).path
            if path == "/api/repos/create":
                return self.create(json.loads(body))
            if path == "/api/whoami-v2":
                return self.whoami()
            if path == "/api/validate-yaml":
                return self.check_card(json.loads(body))
            if large := LFS.fullmatch(path):
                return self.store(large["id"], large["rest"], body)
            api, resolve = API.fullmatch(path), RESOLVE.fullmatch(path)
            found = api or resolve
            if not found:
                return self.refuse(404, "RepoNotFound")
            kind = found["kind"] if api else "datasets" if found["kind"] else "models"
            repo = hub.repos.get((kind, found["id"]))
            if repo is None:
                return self.refuse(404, "RepoNotFound")
            if repo.scenario in STATUS:
                message = "Invalid credentials in Authorization header" if repo.scenario == "bad-token" else ""
                return self.refuse(STATUS[repo.scenario], CODES.get(repo.scenario, ""), message)
            if repo.scenario == "slow":
                time.sleep(0.3)
            revision, rest = map(unquote, (found["rest"] or "main").partition("/")[::2])
            repo = repo.at(revision)
            if repo is None:
                return self.refuse(404, "RevisionNotFound")
            if not api:
                return self.file(repo, rest)
            if found["verb"] == "preupload":
                names = [file["path"] for file in json.loads(body)["files"]]
                modes = ["lfs" if name.endswith(".safetensors") else "regular" for name in names]
                found = zip(names, modes, strict=True)
                return self.json(
                    {"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in found]}
                )
            if found["verb"] == "commit":
                return self.commit(found["id"], repo, body)
            if found["verb"] == "tree":
                return self.json(_tree(repo, rest, "recursive" in dict(parse_qsl(urlsplit(self.path).query))))
            if found["verb"] == "paths-info":
                return self.json([_entry(repo, name) for name in _paths(body) if name in repo.files])
            siblings = [{"rfilename": name} for name in repo.files]
            state = {
                "private": found["id"] in hub.private,
                "gated": False,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
            }
            return self.json({"id": found["id"], "sha": repo.commit, "siblings": siblings, **state})

        def whoami(self) -> None:
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            if token not in (TOKEN, READER):
                return self.refuse(401, "", "Invalid credentials in Authorization header")
            role = "write" if token == TOKEN else "read"
            return self.json({"name": "stub", "auth": {"accessToken": {"role": role}}})

        def check_card(self, given: dict[str, Any]) -> None:
            """`content` holds the card, metadata and all: the real one answers with what it finds, 400 on errors."""
            hub.cards.append(given["content"])
            found = {"errors": hub.card_errors, "warnings": hub.card_warnings}
            answer = {key: [{"message": message} for message in messages] for key, messages in found.items()}
            headers = {"Content-Type": "application/json"}
            return self.content(json.dumps(answer).encode(), headers, status=400 if hub.card_errors else 200)

        def store(self, id: str, what: str, body: bytes) -> None:
            """What git-lfs asks: where to put files, and then each of them."""
            if what != "batch":
                if hub.full:
                    return self.refuse(403, "")
                hub.stored[what] = body
                return self.content(b"", {})
            place = f"{hub.url}/{id}.git/info/lfs/objects"
            objects = [
                one | {"actions": {"upload": {"href": f"{place}/{one['oid']}"}}} for one in json.loads(body)["objects"]
            ]
            return self.json({"transfer": "basic", "objects": objects})

        def create(self, wanted: dict[str, Any]) -> None:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.refuse(401, "", "Invalid credentials in Authorization header")
            if wanted["organization"] != "stub":
                return self.refuse(403, "", "You don't have the rights to create a model under this namespace")
            id = f"stub/{wanted['name']}"
            if ("models", id) in hub.repos:
                return self.content(json.dumps({"url": f"{hub.url}/{id}"}).encode(), {}, status=409)
            hub.repos["models", id] = Repo({})
            if wanted.get("visibility") == "private" or wanted.get("private"):
                hub.private.add(id)
            return self.json({"url": f"{hub.url}/{id}"})

        def commit(self, id: str, repo: Repo, body: bytes) -> None:
            lines = [json.loads(line) for line in body.splitlines() if line]
            files = {line["value"]["path"]: line["value"]["content"] for line in lines if line["key"] == "file"}
            large = {line["value"]["path"]: line["value"]["oid"] for line in lines if line["key"] == "lfsFile"}
            repo.files |= {name: base64.b64decode(content) for name, content in files.items()}
            repo.files |= {name: hub.stored[oid] for name, oid in large.items()}  # one that wasn't stored: our fault
            self.json({"commitUrl": f"{hub.url}/{id}/commit/{repo.commit}", "commitOid": repo.commit})

        def refuse(self, status: int, code: str, message: str = "") -> None:
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            if message:
                self.send_header("X-Error-Message", message)
            if status == 429:
                self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def json(self, value: Any) -> None:
            self.content(json.dumps(value).encode(), {"Content-Type": "application/json"})

        def file(self, repo: Repo, name: str) -> None:
            if name not in repo.files:
                return self.refuse(404, "EntryNotFound")
            content = repo.files[name]
            etag = hashlib.sha1(content).hexdigest()
            cut = repo.scenario == "cut" and len(content) > 2000
            self.content(
                content, {"ETag": f'"{etag}"', "X-Repo-Commit": repo.commit, "Accept-Ranges": "bytes"}, cut=cut
            )
            return None

        def content(self, content: bytes, headers: dict[str, str], *, cut: bool = False, status: int = 200) -> None:
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            self.send_response(206 if wanted else status)
            if wanted:
                start, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
                headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
                content = content[start : end + 1]
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[: len(content) // 2] if cut else content)
            self.close_connection = cut

    return Handler


def _entry(repo: Repo, name: str) -> dict[str, Any]:
    return {
        "type": "file",
        "path": name,
        "size": len(repo.files[name]),
        "oid": hashlib.sha1(repo.files[name]).hexdigest(),
    }


def _tree(repo: Repo, under: str, recursive: bool) -> list[dict[str, Any]]:
    prefix = f"{under}/" if under else ""
    inside = [name for name in repo.files if name.startswith(prefix)]
    folders = {
        f"{prefix}{name.removeprefix(prefix).split('/')[0]}" for name in inside if "/" in name.removeprefix(prefix)
    }
    shown = inside if recursive else [name for name in inside if "/" not in name.removeprefix(prefix)]
    return [{"type": "directory", "path": f, "size": 0, "oid": "0" * 40} for f in sorted(folders)] + [
        _entry(repo, name) for name in shown
    ]


def _paths(body: bytes) -> list[str]:
    """Form fields or JSON, by the client's version."""
    text = body.decode()
    if text.startswith("{"):
        given = json.loads(text)["paths"]
        return [given] if isinstance(given, str) else given
    return [value for key, value in parse_qsl(text) if key == "paths"]
