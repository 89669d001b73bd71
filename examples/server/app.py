"""A server that classifies images: ``python app.py``, then ``curl --data-binary @photo.jpg ...``.

Needs ``pip install ".[serve]"``. Each request is one image; images that arrive together are
computed together. Bodies, pixels and requests at a time are limited.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import torch
import uvicorn
from batching import Batcher, Closed
from fastapi import FastAPI, HTTPException, Request

from transnext_models.classifier import Classifier
from transnext_models.images import ImageError, MemoryBudget, open_picture


@dataclass(frozen=True)
class Limits:
    """What a request may cost, and how requests are put together.

    `decoding_bytes` bounds the pixels of an image, and of all images that are decoded at a time.
    """

    max_batch: int = 16
    max_wait: float = 0.004  # seconds
    body_bytes: int = 10 << 20
    decoding_bytes: int = 256 << 20
    decoding_threads: int = 2
    requests: int = 128  # at a time; more are told to come back


def create_app(classifier: Classifier, limits: Limits | None = None) -> FastAPI:
    """Return the application; FastAPI's own lifespan starts and ends its threads."""
    limits = limits or Limits()
    budget = MemoryBudget(limits.decoding_bytes)
    decoders = ThreadPoolExecutor(limits.decoding_threads, thread_name_prefix="decode")
    counts = {"in_flight": 0, "answered": 0}

    def decoded(body: bytes) -> torch.Tensor:
        preprocess = classifier.preprocess
        working = preprocess.working_bytes
        with open_picture(body, "image", working=working, budget=budget) as picture:
            return preprocess(picture)

    batcher = Batcher(
        lambda images: classifier.predict(torch.stack(images)),
        max_batch=limits.max_batch,
        max_wait=limits.max_wait,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with batcher:
            yield
        decoders.shutdown()

    app = FastAPI(title="TransNeXt", lifespan=lifespan)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        about = {"model": classifier.name, "classes": len(classifier.labels)}
        done = {"batches": batcher.batches, "largest_batch": batcher.largest}
        return {"status": "ok", **about, **counts, **done}

    @app.post("/classify")
    async def classify(request: Request) -> dict[str, Any]:
        if counts["in_flight"] >= limits.requests:
            raise HTTPException(503, f"{limits.requests} requests are being answered; try again")
        counts["in_flight"] += 1
        try:
            body = await _body(request, limits.body_bytes)
            loop = asyncio.get_running_loop()
            image = await loop.run_in_executor(decoders, decoded, body)
            predictions = await batcher.submit(image)
        except ImageError as error:
            raise HTTPException(422, error.reason) from None
        except Closed as error:
            raise HTTPException(503, str(error)) from None
        finally:
            counts["in_flight"] -= 1
        if not predictions:
            raise HTTPException(500, "the model's output is not finite")
        counts["answered"] += 1
        rows = [{"class": p.index, "label": p.label, "p": p.probability} for p in predictions]
        return {"predictions": rows}

    return app


async def _body(request: Request, most: int) -> bytes:
    """Return the body, of which not more than `most` bytes are ever kept."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise HTTPException(413, f"the body has more than {most:,} bytes")
    if not body:
        raise HTTPException(422, "the body is empty, needs an image file")
    return bytes(body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="default: transnext_pico, which reads digits")
    parser.add_argument("--weights")
    parser.add_argument("--labels")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max-batch", type=int, default=Limits.max_batch)
    parser.add_argument("--max-wait-ms", type=float, default=1000 * Limits.max_wait)
    asked = parser.parse_args()
    classifier = Classifier.load(
        asked.model, asked.weights, labels=asked.labels, device=asked.device
    )
    limits = Limits(max_batch=asked.max_batch, max_wait=asked.max_wait_ms / 1000)
    uvicorn.run(
        create_app(classifier, limits),
        host=asked.host,
        port=asked.port,
        log_level="warning",
        timeout_graceful_shutdown=30,  # seconds for requests that are being answered
    )


if __name__ == "__main__":
    main()
