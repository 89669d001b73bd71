"""The viewer's server: Python's numbers, for its own page alone."""

from __future__ import annotations

import http.client
import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from seeing.viewer_sessions import demonstrator, unpacked
from transnext_models.seeing import effective_receptive_field
from transnext_models.seeing.viewer import ViewerServer
from transnext_models.seeing.viewer import server as server_module


@pytest.fixture(scope="module")
def server() -> Iterator[ViewerServer]:
    with ViewerServer(demonstrator()) as running:
        yield running


def ask(
    server: ViewerServer,
    path: str,
    *,
    method: str = "GET",
    body: bytes | None = None,
    token: str | None = None,
    **headers: str,
) -> tuple[int, bytes, http.client.HTTPMessage]:
    """Return status, body and headers of a request below the token."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    token = server.token if token is None else token
    connection.request(method, f"/{token}/{path}", body, sent)
    response = connection.getresponse()
    status, content = response.status, response.read()
    connection.close()
    return status, content, response.headers


def png(size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def test_the_page_is_html_that_loads_nothing(server: ViewerServer) -> None:
    status, body, headers = ask(server, "")
    page = body.decode()
    assert status == 200
    assert headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in page
    assert "http://" not in page
    assert "https://" not in page
    assert len(page.splitlines()) <= 1250


def test_models_and_images_are_told() -> None:
    with ViewerServer(demonstrator()) as fresh:  # other tests give theirs images
        about = json.loads(ask(fresh, "model")[1])
        top = json.loads(ask(fresh, "image?image=1")[1])["models"][0]["top"]
    blocks = about["models"][0]["blocks"]
    assert [(block["stage"], block["block"]) for block in blocks] == [
        (1, 0), (2, 0), (3, 0), (3, 1), (4, 0),
    ]  # fmt: skip
    assert [block["stride"] for block in blocks] == [4, 8, 16, 16, 32]
    assert [image["name"] for image in about["images"]] == ["digit 0", "digit 1", "digit 2"]
    assert top[0][0] == "1"
    assert len(top) == 5


@pytest.mark.parametrize("pixel", [(0, 0), (28, 32), (63, 63), (17.4, 50)])
def test_queries_are_those_of_python(server: ViewerServer, pixel: tuple[float, float]) -> None:
    status, body, _ = ask(server, f"query?image=0&y={pixel[0]}&x={pixel[1]}")
    header, numbers = unpacked(body)
    record = server.session.record("0")
    at = 0
    assert status == 200
    assert len(header["blocks"]) == len(record.blocks)
    for info, block in zip(record.blocks, header["blocks"], strict=True):
        query = record.query(info.stage, info.block, pixel=pixel)
        assert block["position"] == list(query.position)
        for part in (query.window, query.pooled, query.positional):
            got = numbers[at : at + part.numel()]
            np.testing.assert_array_equal(got, part.flatten().numpy())
            at += part.numel()
    assert at == len(numbers)


def test_maps_of_the_fovea_are_those_of_python(server: ViewerServer) -> None:
    header, numbers = unpacked(ask(server, "foveal?image=0&stage=3&block=1&y=20&x=33")[1])
    record = server.session.record("0")
    expected = record.foveal(3, 1, record.position(3, (20, 33)))
    assert header["shape"] == list(expected.shape)
    np.testing.assert_array_equal(numbers, expected.flatten().numpy())


def test_receptive_fields_are_those_of_python(server: ViewerServer) -> None:
    header, numbers = unpacked(ask(server, "erf?image=0&stage=3&y=32&x=32")[1])
    session = server.session
    record = session.record("0")
    model = session.subjects[0].classifier.model
    field = effective_receptive_field(model, [record.image], 3, record.position(3, (32, 32)))
    assert header["sum"] == pytest.approx(field.total)
    torch.testing.assert_close(
        torch.from_numpy(numbers.copy()).reshape(header["shape"]).double(),
        field.map / field.largest,
        rtol=1e-5,
        atol=1e-7,
    )


def test_an_image_is_taken_in(server: ViewerServer) -> None:
    status, body, _ = ask(server, "image?name=noise.png", method="POST", body=png())
    about = json.loads(body)
    assert (status, about["name"]) == (200, "noise.png")
    assert about["models"][0]["picture"].startswith("data:image/png;base64,")
    assert ask(server, f"query?image={about['id']}&y=1&x=1")[0] == 200


def test_old_uploads_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    from transnext_models.seeing.viewer import session as session_module

    monkeypatch.setattr(session_module, "_IMAGES", 2)
    session = demonstrator()
    added = [session.add("more", Image.new("RGB", (32, 32))) for _ in range(4)]
    assert session.images == ["0", "1", "2", *added[-2:]]


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "model", "query?image=0&y=1&x=1"])
@pytest.mark.parametrize("token", ["", "x", "x" * 32, "%C3%A9"])
def test_without_the_token_there_is_nothing(server: ViewerServer, path: str, token: str) -> None:
    assert ask(server, path, token=token)[0] == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "example.org"},
        {"Host": "127.0.0.1"},
        {"Origin": "http://example.org"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_pages_and_hosts_are_refused(
    server: ViewerServer, method: str, headers: dict[str, str]
) -> None:
    body = png() if method == "POST" else None
    assert ask(server, "image?image=0", method=method, body=body, **headers)[0] == 403


def test_its_own_origin_is_not_refused(server: ViewerServer) -> None:
    origin = f"http://127.0.0.1:{server.port}"
    assert ask(server, "model", Origin=origin, Sec_Fetch_Site="same-origin")[0] == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("favicon.ico", 404),
        ("../pyproject.toml", 404),
        ("viewer.html", 404),
        ("query", 404),
        ("query?image=99&y=1&x=1", 404),
        ("query?image=0&y=1", 404),
        ("query?image=0&y=one&x=1", 400),
        ("query?image=0&y=nan&x=1", 400),
        ("query?image=0&y=1e99&x=1", 400),
        ("query?image=0&model=1&y=1&x=1", 404),
        ("query?image=0&model=-1&y=1&x=1", 400),
        ("foveal?image=0&stage=9&block=0&y=1&x=1", 400),
        ("foveal?image=0&stage=3&block=7&y=1&x=1", 400),
        ("erf?image=0&stage=3", 404),
        ("erf?image=0&stage=0&y=1&x=1", 400),
    ],
)
def test_wrong_requests_are_told_so(server: ViewerServer, path: str, status: int) -> None:
    got, body, _ = ask(server, path)
    assert got == status
    assert json.loads(body)["error"]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_refused(server: ViewerServer, method: str) -> None:
    assert ask(server, "image?image=0", method=method)[0] == 501


def test_files_that_are_no_images_are_told_so(server: ViewerServer) -> None:
    for body in (b"", b"not an image", png()[:200]):
        status, content, _ = ask(server, "image", method="POST", body=body)
        assert status == 422
        assert json.loads(content)["error"]


def test_large_files_are_refused_unread(
    server: ViewerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "LARGEST_IMAGE", 100)
    status, _, headers = ask(server, "image", method="POST", body=png())
    assert status == 413
    assert headers["Connection"] == "close"
    assert ask(server, "image", method="POST", Transfer_Encoding="chunked")[0] == 411


def test_many_threads_get_the_same_answer(server: ViewerServer) -> None:
    answers: list[Any] = []

    def run() -> None:
        answers.append(ask(server, "query?image=2&y=30&x=30")[1])

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert len(set(answers)) == 1


def test_it_listens_on_this_machine_alone(server: ViewerServer) -> None:
    assert server._server.server_address[0] == "127.0.0.1"
