"""A server on this machine that answers as the Hugging Face Hub when files come and go."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants, file_download

from transnext_models.checkpoints.hub import DownloadError, cache_folder, resolve_weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO, FILE = "DaiShiResearch/transnext-tiny-224-1k", "transnext_tiny_224_1k.pth"


@dataclass
class StandInHub:
    """What the server has, and what it was asked.

    Attributes
    ----------
    url
        Its address, as for ``HF_ENDPOINT``.
    files
        Content by ``owner/repo/file``; `revisions` are those that exist.
    requests
        ``(method, path)`` in order.
    status
        Answer every request with this HTTP status, if set.
    corrupt, stop_after
        Send other bytes of the same number; close the connection after so many.
    stall
        Go silent: before any answer (``HEAD``), before a file (``GET``), in the middle of one
        (``middle``), or send a byte now and then (``drip``).
    offers_xet
        Say that files are to be had by the other protocol, too.
    pace
        Seconds between pieces of 50 kB; None sends a file at once.
    token
        Uploads need it, if set.
    commit
        Of the last upload.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    revisions: tuple[str, ...] = ("main",)
    requests: list[tuple[str, str]] = field(default_factory=list)
    status: int | None = None
    corrupt: bool = False
    stop_after: int | None = None
    stall: str | None = None
    offers_xet: bool = False
    pace: float | None = None
    token: str | None = None
    commit: str = COMMIT
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def downloads(self) -> int:
        """How many times a file's content was asked for."""
        return sum(method == "GET" for method, _ in self.requests)

    def take(self, path: str, body: bytes) -> dict[str, Any] | None:
        """Answer a POST to the Hub's interface; None for what it does not have."""
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            about = json.loads(body)
            return {"url": f"{self.url}/{about.get('organization', 'me')}/{about['name']}"}
        if branch := re.fullmatch(r"/api/models/[^/]+/[^/]+/branch/(.+)", path):
            self.revisions = (*self.revisions, unquote(branch[1]))
            return {}
        asked = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/(.+)", path)
        if asked is None or unquote(asked[3]) not in self.revisions:
            return None
        if asked[2] == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            mode = {"uploadMode": "regular", "shouldIgnore": False}
            return {"files": [{"path": name, **mode} for name in names]}
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                value = entry["value"]
                self.files[f"{asked[1]}/{value['path']}"] = base64.b64decode(value["content"])
        self.commit = hashlib.sha1(body).hexdigest()
        url = f"{self.url}/{asked[1]}/commit/{self.commit}"
        return {"success": True, "commitOid": self.commit, "commitUrl": url}


def use_endpoint(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Have `huggingface_hub` ask at `url`; what ``HF_ENDPOINT`` does before it is imported."""
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    for module in (constants, file_download):  # older versions keep a copy in the second
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


@contextmanager
def stand_in_hub() -> Iterator[StandInHub]:
    """Run the server while the block runs."""
    hub = StandInHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(with_content=False)

        def do_GET(self) -> None:
            self.answer(with_content=True)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = urlsplit(self.path).path
            hub.requests.append(("POST", path))
            if hub.status is not None:
                self.refuse(hub.status, "")
            elif hub.token is not None and hub.token not in self.headers.get("Authorization", ""):
                self.refuse(401, "")
            elif (answer := hub.take(path, body)) is None:
                self.refuse(404, "")
            else:
                content = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def answer(self, with_content: bool) -> None:
            if "/resolve/" not in self.path:  # of no file
                self.refuse(404, "RepoNotFound" if self.path.startswith("/api/models/") else "")
                return
            hub.requests.append((self.command, self.path))
            if hub.stall == self.command:
                self.wait()
                return
            if hub.status is not None:
                self.refuse(hub.status, "")
                return
            repo, _, rest = self.path.lstrip("/").partition("/resolve/")
            revision, _, name = rest.partition("/")
            if not any(known.startswith(f"{repo}/") for known in hub.files):
                self.refuse(401, "RepoNotFound")
            elif revision not in (*hub.revisions, hub.commit):
                self.refuse(404, "RevisionNotFound")
            elif f"{repo}/{name}" not in hub.files:
                self.refuse(404, "EntryNotFound")
            else:
                self.send_file(hub.files[f"{repo}/{name}"], with_content)

        def wait(self) -> None:
            """Neither answer nor hang up, until the server ends."""
            self.close_connection = True
            hub.closing.wait()

        def send_file(self, content: bytes, with_content: bool) -> None:
            first = 0
            wanted = self.headers.get("Range", "")
            if wanted.startswith("bytes="):
                first = int(wanted.removeprefix("bytes=").partition("-")[0])
            self.send_response(206 if first else 200)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", hub.commit)
            if hub.offers_xet:
                self.send_header("X-Xet-Hash", "a" * 64)
                self.send_header("X-Xet-Refresh-Route", "/api/models/x/xet-read-token/main")
            self.send_header("Content-Length", str(len(content) - first))
            if first:
                self.send_header(
                    "Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}"
                )
            self.end_headers()
            if not with_content:
                return
            if hub.corrupt:
                content = bytes(len(content))
            if hub.stall in ("middle", "drip"):
                self.wfile.write(content[first : first + 1000])
                while not hub.closing.wait(0.1) and hub.stall == "drip":
                    self.wfile.write(b"x")
                self.wait()
                return
            if hub.pace is not None:
                for at in range(first, len(content), 50_000):
                    self.wfile.write(content[at : at + 50_000])
                    hub.closing.wait(hub.pace)
                return
            self.wfile.write(content[first : hub.stop_after])
            if hub.stop_after is not None:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def refused(name: str, *parts: str) -> str:
    """Assert that `name` cannot be downloaded, soon and with advice; return the message."""
    started = time.perf_counter()
    with pytest.raises(DownloadError) as error:
        resolve_weights(name)
    assert time.perf_counter() - started < 10, "a failure must not keep anyone waiting"
    message = str(error.value)
    for part in (*parts, str(cache_folder()), "--weights FILE", 'weights="FILE"'):
        assert part in message
    return message
