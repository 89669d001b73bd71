"""The example's server: the same answers as the classifier's, in batches, within its limits."""

from __future__ import annotations

import asyncio
import io
import re
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from transnext_models.classifier import Classifier

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")
SERVER = Path(__file__).resolve().parents[2] / "examples" / "server"


@pytest.fixture(scope="module")
def example():
    """The modules of the example."""
    sys.path.insert(0, str(SERVER))
    try:
        import app
        import batching

        yield app, batching
    finally:
        sys.path.remove(str(SERVER))
        for name in ("app", "batching"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier.load(device="cpu")


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    draws = np.random.default_rng(0)
    written = []
    for _ in range(12):
        file = io.BytesIO()
        Image.fromarray(draws.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(file, "PNG")
        written.append(file.getvalue())
    return written


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[Any]:
    """Run the application, without a network, and a client of it."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://server") as client,
    ):
        yield client


def answered(app: Any, ask: Callable[[Any], Awaitable[Any]]) -> Any:
    """Return what `ask` gets of a client."""

    async def run() -> Any:
        async with served(app) as client:
            return await asyncio.wait_for(ask(client), 60)

    return asyncio.run(run())


def test_answers_are_the_classifiers(example, classifier, images):
    app, _ = example

    async def ask(client: Any) -> Any:
        posts = (client.post("/classify", content=image) for image in images)
        return await asyncio.gather(*posts), await client.get("/health")

    limits = app.Limits(max_batch=4, max_wait=5)
    answers, health = answered(app.create_app(classifier, limits), ask)
    for answer, wanted in zip(answers, classifier.classify(images), strict=True):
        assert answer.status_code == 200
        rows = answer.json()["predictions"]
        assert [row["class"] for row in rows] == [p.index for p in wanted.predictions]
        assert [row["label"] for row in rows] == [p.label for p in wanted.predictions]
        assert [row["p"] for row in rows] == pytest.approx(
            [p.probability for p in wanted.predictions], abs=1e-5
        )
    about = health.json()
    assert (about["status"], about["classes"], about["answered"]) == ("ok", 10, 12)
    assert (about["batches"], about["largest_batch"], about["in_flight"]) == (3, 4, 0)


def test_one_image_does_not_wait_for_a_full_batch(example, classifier, images):
    app, _ = example
    made = app.create_app(classifier, app.Limits(max_batch=64, max_wait=0.01))
    assert answered(made, lambda client: client.post("/classify", content=images[0])).is_success


def bomb() -> bytes:
    """A PNG of 60 KB that claims 400 million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(20_001 * 20), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def large() -> bytes:
    file = io.BytesIO()
    Image.new("L", (3000, 3000)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 422, "the body is empty, needs an image file"),
        (b"no image", 422, "not an image of a known format"),
        (b"x" * 200_001, 413, "the body has more than 200,000 bytes"),
        (bomb(), 422, "more than 178 million pixels"),
        (large(), 422, "more than the image memory of 8 MiB"),
    ],
    ids=["empty", "text", "too long", "bomb", "too many pixels"],
)
def test_what_is_refused(example, classifier, body, status, message):
    app, _ = example
    limits = app.Limits(body_bytes=200_000, decoding_bytes=8 << 20)
    answer = answered(
        app.create_app(classifier, limits), lambda client: client.post("/classify", content=body)
    )
    assert answer.status_code == status
    assert message in answer.json()["detail"]


def test_a_body_of_unknown_length_is_cut_off(example, classifier):
    """Not more of it is asked for than is allowed."""
    app, _ = example
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield bytes(1000)

    # httpx's transport hands pieces over as they are asked for.
    made = app.create_app(classifier, app.Limits(body_bytes=10_000))
    answer = answered(made, lambda client: client.post("/classify", content=endless()))
    assert answer.status_code == 413
    assert sent <= 12


def test_too_many_requests_are_told_to_come_back(example, classifier, images, monkeypatch):
    app, _ = example
    held = threading.Event()
    predict = classifier.predict

    def waiting(batch: Any) -> Any:
        held.wait(30)
        return predict(batch)

    monkeypatch.setattr(classifier, "predict", waiting)

    async def ask(client: Any) -> Any:
        first = [asyncio.create_task(client.post("/classify", content=i)) for i in images[:2]]
        while (await client.get("/health")).json()["in_flight"] < 2:
            await asyncio.sleep(0.01)
        refused = await client.post("/classify", content=images[2])
        held.set()
        return [
            *await asyncio.gather(*first),
            refused,
            await client.post("/classify", content=images[2]),
        ]

    answers = answered(app.create_app(classifier, app.Limits(requests=2)), ask)
    assert [answer.status_code for answer in answers] == [200, 200, 503, 200]


def test_an_error_of_the_model_ends_its_batch_alone(example, classifier, images, monkeypatch):
    app, _ = example
    predict, calls = classifier.predict, []

    def failing_once(batch: Any) -> Any:
        calls.append(len(batch))
        if len(calls) == 1:
            raise RuntimeError("out of memory")
        return predict(batch)

    monkeypatch.setattr(classifier, "predict", failing_once)

    async def ask(client: Any) -> Any:
        return [await client.post("/classify", content=image) for image in images[:2]]

    answers = answered(app.create_app(classifier), ask)
    assert [answer.status_code for answer in answers] == [500, 200]


# -- the batcher ----------------------------------------------------------------------------------


def test_what_waits_at_the_end_is_answered(example):
    _, batching = example

    async def run() -> Any:
        batcher = batching.Batcher(lambda items: [2 * i for i in items], max_batch=3, max_wait=30)
        async with batcher:
            tasks = [asyncio.create_task(batcher.submit(item)) for item in range(8)]
            await asyncio.sleep(0)
        with pytest.raises(batching.Closed, match="shutting down"):
            await batcher.submit(1)
        return [task.result() for task in tasks], batcher.batches

    assert asyncio.run(asyncio.wait_for(run(), 20)) == ([2 * item for item in range(8)], 3)


def test_whoever_has_gone_is_not_computed(example):
    _, batching = example
    computed: list[int] = []

    async def run() -> list[int]:
        def double(items: list[int]) -> list[int]:
            computed.extend(items)
            return [2 * item for item in items]

        async with batching.Batcher(double, max_batch=4, max_wait=30) as batcher:
            tasks = [asyncio.create_task(batcher.submit(item)) for item in range(3)]
            await asyncio.sleep(0)
            for index in (0, 2):
                tasks[index].cancel()
            await asyncio.sleep(0)
            tasks += [asyncio.create_task(batcher.submit(item)) for item in (3, 4, 5)]
            return await asyncio.gather(tasks[1], *tasks[3:])

    assert asyncio.run(asyncio.wait_for(run(), 20)) == [2, 6, 8, 10]
    assert computed == [1, 3, 4, 5]


@pytest.mark.slow
def test_load_test_prints_rates_latencies_and_memory(tmp_path):
    """A server of its own process on 127.0.0.1, and its end."""
    done = subprocess.run(
        [sys.executable, SERVER / "load_test.py", "--requests", "40", "--concurrency", "4"],
        capture_output=True, text=True, cwd=tmp_path, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"transnext_pico\.mnist5k: 40 requests in .* images/s", done.stdout)
    assert "other answers than 200: none" in done.stdout
    assert re.search(r"latency: 50 % [\d.]+ ms, 90 %", done.stdout)
    assert "after SIGTERM" in done.stdout
