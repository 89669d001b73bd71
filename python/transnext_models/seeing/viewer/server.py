"""The viewer's page and its answers, for this machine alone.

The server listens on 127.0.0.1 and answers below a random token only. A page of another site, which
a browser would let send requests here, is refused by its origin; a name that someone points at
127.0.0.1 is refused by the ``Host`` header.
"""

from __future__ import annotations

import hmac
import json
import math
import secrets
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from ...images import ImageError, read_image
from .answers import foveal_answer, query_answer, receptive_field_answer
from .session import Session
from .static_page import page_without_data

__all__ = ["LARGEST_IMAGE", "ViewerServer"]

LARGEST_IMAGE = 32 << 20  # bytes of a file that the page sends
_IDLE_SECONDS = 30  # without a byte; then a connection is closed
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_BINARY, _JSON, _HTML = "application/octet-stream", "application/json", "text/html; charset=utf-8"


class _Refused(Exception):
    """A request that is not answered."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class ViewerServer:
    """Serves a session to a browser on this machine.

    Parameters
    ----------
    session : Session
    port : int
        0 for any free one.
    """

    def __init__(self, session: Session, port: int = 0) -> None:
        self.session = session
        self.token = secrets.token_urlsafe(24)
        self._page = page_without_data().encode()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._server.daemon_threads = True
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Where the page is; whoever knows it may look."""
        return f"http://127.0.0.1:{self.port}/{self.token}/"

    def start(self) -> ViewerServer:
        """Answer in a thread of its own, and return at once."""
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def serve_forever(self) -> None:
        """Answer until the process is interrupted."""
        self._server.serve_forever()

    def close(self) -> None:
        """Stop, and free the port."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> ViewerServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- answers, by path -----------------------------------------------------------------------

    def answer(self, path: str, arguments: dict[str, str]) -> tuple[str, bytes]:
        """Return type and body of what is at a path below the token."""
        known: dict[str, Callable[[dict[str, str]], tuple[str, bytes]]] = {
            "": lambda _: (_HTML, self._page),
            "model": self._model,
            "image": lambda got: _json(self.session.about_image(got["image"])),
            "query": lambda got: (
                _BINARY,
                query_answer(self.session.record(got["image"], _whole(got, "model")), _pixel(got)),
            ),
            "foveal": self._foveal,
            "erf": self._receptive_field,
        }
        if path not in known:
            raise _Refused(HTTPStatus.NOT_FOUND, "there is nothing here")
        try:
            return known[path](arguments)
        except KeyError as error:
            raise _Refused(HTTPStatus.NOT_FOUND, f"got no or no known {error}") from None
        except ValueError as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, str(error)) from None

    def take_image(self, name: str, body: bytes) -> tuple[str, bytes]:
        """Take an image file in, and return what the page is told of it."""
        try:
            image = read_image(body)
        except ImageError as error:
            reason = str(error).partition(": ")[2] or str(error)
            raise _Refused(HTTPStatus.UNPROCESSABLE_ENTITY, reason) from None
        key = self.session.add(name, image)
        return _json(self.session.about_image(key))

    def _model(self, _: dict[str, str]) -> tuple[str, bytes]:
        return _json({"models": self.session.about_models(), "images": self.session.about_images()})

    def _foveal(self, got: dict[str, str]) -> tuple[str, bytes]:
        record = self.session.record(got["image"], _whole(got, "model"))
        stage, block = _whole(got, "stage"), _whole(got, "block")
        return _BINARY, foveal_answer(record, stage, block, _pixel(got))

    def _receptive_field(self, got: dict[str, str]) -> tuple[str, bytes]:
        field = self.session.receptive_field(
            got["image"], _whole(got, "model"), _whole(got, "stage"), _pixel(got)
        )
        return _BINARY, receptive_field_answer(field)


def _json(value: Any) -> tuple[str, bytes]:
    return _JSON, json.dumps(value, allow_nan=False).encode()


def _whole(got: dict[str, str], name: str) -> int:
    text = got.get(name, "0") if name == "model" else got[name]
    if not (text.isascii() and text.isdigit() and len(text) < 5):
        raise ValueError(f"{name}: got {text!r}, needs a whole number")
    return int(text)


def _pixel(got: dict[str, str]) -> tuple[float, float]:
    places = []
    for name in ("y", "x"):
        try:
            place = float(got[name])
        except ValueError:
            place = math.nan
        if not abs(place) < 1e6:
            raise ValueError(f"{name}: got {got[name]!r}, needs a pixel")
        places.append(place)
    return places[0], places[1]


def _handler(viewer: ViewerServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "transnext", ""
        protocol_version = "HTTP/1.1"
        timeout = _IDLE_SECONDS
        # Headers and body leave at once; apart, the second would wait 40 ms for an acknowledgement.
        wbufsize = -1
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._respond(lambda path, got: viewer.answer(path, got))

        def do_POST(self) -> None:
            self._respond(self._upload)

        def _upload(self, path: str, got: dict[str, str]) -> tuple[str, bytes]:
            if path != "image":
                raise _Refused(HTTPStatus.NOT_FOUND, "there is nothing here")
            text = self.headers.get("Content-Length", "")
            if not (text.isascii() and text.isdigit()):
                raise _Refused(HTTPStatus.LENGTH_REQUIRED, "needs a Content-Length")
            if int(text) > LARGEST_IMAGE:
                raise _Refused(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                    f"a file of {int(text) >> 20} MiB; at most {LARGEST_IMAGE >> 20} are taken",
                )
            body = self.rfile.read(int(text))
            self._read = True
            return viewer.take_image(got.get("name", "your image")[:200], body)

        def _respond(self, answer: Callable[[str, dict[str, str]], tuple[str, bytes]]) -> None:
            self._read = self.command == "GET"
            try:
                path, got = self._checked()
                kind, body = answer(path, got)
                self._send(HTTPStatus.OK, kind, body)
            except _Refused as refused:
                self._send(refused.status, *_json({"error": str(refused)}))
            except (ConnectionError, TimeoutError):
                self.close_connection = True
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                self._send(HTTPStatus.INTERNAL_SERVER_ERROR, *_json({"error": reason}))

        def _checked(self) -> tuple[str, dict[str, str]]:
            """Return path and arguments of a request from this server's own page."""
            own = {f"127.0.0.1:{viewer.port}", f"localhost:{viewer.port}"}
            if self.headers.get("Host") not in own:
                raise _Refused(HTTPStatus.FORBIDDEN, "a request to another host")
            origin = self.headers.get("Origin")
            if origin is not None and origin not in {f"http://{host}" for host in own}:
                raise _Refused(HTTPStatus.FORBIDDEN, "a request from another page")
            if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
                raise _Refused(HTTPStatus.FORBIDDEN, "a request from another page")
            parts = urlsplit(self.path)
            token, slash, path = unquote(parts.path).lstrip("/").partition("/")
            if not hmac.compare_digest(token.encode(), viewer.token.encode()) or not slash:
                raise _Refused(HTTPStatus.NOT_FOUND, "there is nothing here")
            return path, {name: values[0] for name, values in parse_qs(parts.query).items()}

        def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
            if not self._read:  # what was not read would be taken for the next request
                self.close_connection = True
            self.send_response(status)
            headers = {"Content-Type": kind, "Content-Length": str(len(body)), **_HEADERS}
            for name, value in headers.items():
                self.send_header(name, value)
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass  # a line for every movement of the pointer helps nobody

    return Handler
