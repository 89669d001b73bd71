"""A web server of one folder that drops connections, and answers otherwise than it should."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class FaultyServer:
    """What goes wrong, and what was asked for.

    Attributes
    ----------
    ranges : bool
        Whether it serves parts of a file, as stores do; else whole files only.
    drops : list[int]
        Bytes after which each of the next answers breaks off.
    statuses : list[int]
        Of the next answers, before it serves any.
    requests : list[str]
        The Range of each GET, "" without.
    """

    folder: Path
    ranges: bool = True
    drops: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler, with_body: bool) -> None:
        """Answer a request."""
        path = self.folder / handler.path.lstrip("/")
        asked = handler.headers.get("Range", "") if with_body else ""
        if with_body:
            self.requests.append(asked)
        if with_body and self.statuses:
            handler.send_error(self.statuses.pop(0))
            return
        if not path.is_file():
            handler.send_error(404)
            return
        content = path.read_bytes()
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", asked) if self.ranges else None
        first, last = (int(found[1]), int(found[2])) if found else (0, len(content) - 1)
        part = content[first : last + 1]
        handler.send_response(206 if found else 200)
        if self.ranges:
            handler.send_header("Accept-Ranges", "bytes")
        if found:
            handler.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        handler.send_header("Content-Length", str(len(part)))
        handler.end_headers()
        if with_body:
            handler.wfile.write(part[: self.drops.pop(0)] if self.drops else part)
        handler.close_connection = True


@contextmanager
def serving(folder: Path, ranges: bool = True) -> Iterator[FaultyServer]:
    """Serve a folder on a free port."""
    faulty = FaultyServer(folder, ranges)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            faulty.answer(self, with_body=True)

        def do_HEAD(self) -> None:
            faulty.answer(self, with_body=False)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    faulty.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield faulty
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
