"""Load the server on this machine: images per second, latencies, and the memory of its process.

    python load_test.py --requests 2000 --concurrency 16
    python load_test.py --requests 100000 --concurrency 32 --model transnext_pico

starts ``app.py`` on a free port of 127.0.0.1, sends it images and stops it with SIGTERM.
Memory is that of Linux's /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
POINTS = 200  # of memory over time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--side", type=int, default=96, help="of the JPEG images that are sent")
    parser.add_argument("--seconds", type=float, default=3600, help="end after so long")
    asked, of_server = parser.parse_known_args()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, HERE / "app.py", "--port", str(port), *of_server]
    server = subprocess.Popen(command)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(server, url)
        asyncio.run(_load(url, server.pid, asked))
    finally:
        server.send_signal(signal.SIGTERM)
        stopped = time.perf_counter()
        server.wait(60)
    print(f"the server ended {time.perf_counter() - stopped:.1f} s after SIGTERM")


def _wait_for(server: subprocess.Popen[bytes], url: str) -> None:
    for _ in range(600):
        if server.poll() is not None:
            raise SystemExit("the server did not start")
        try:
            httpx.get(f"{url}/health")
            return
        except httpx.TransportError:
            time.sleep(0.1)
    raise SystemExit("the server does not answer")


async def _load(url: str, process: int, asked: argparse.Namespace) -> None:
    images, left = _images(asked.side), iter(range(asked.requests))
    latencies: list[float] = []
    failures: dict[int, int] = {}
    memory: list[tuple[int, float]] = []
    started, busy = time.perf_counter(), _processor_seconds(process)

    async def ask(client: httpx.AsyncClient) -> None:
        for index in left:
            if index % max(1, asked.requests // POINTS) == 0:
                memory.append((index, _mebibytes(process)))
            begin = time.perf_counter()
            if begin - started > asked.seconds:
                return
            answer = await client.post("/classify", content=images[index % len(images)])
            latencies.append(time.perf_counter() - begin)
            if answer.status_code != 200:
                failures[answer.status_code] = failures.get(answer.status_code, 0) + 1

    # Each with a client of its own: a shared pool of connections is searched at every request.
    clients = [httpx.AsyncClient(base_url=url, timeout=60) for _ in range(asked.concurrency)]
    await asyncio.gather(*map(ask, clients))
    seconds = time.perf_counter() - started
    health = (await clients[0].get("/health")).json()
    for client in clients:
        await client.aclose()
    _report(latencies, seconds, failures, memory, health)
    spent = _processor_seconds(process) - busy
    print(f"processor: {spent / len(latencies) * 1000:.2f} ms of the server per image")


def _report(
    latencies: list[float],
    seconds: float,
    failures: dict[int, int],
    memory: list[tuple[int, float]],
    health: dict[str, object],
) -> None:
    count = len(latencies)
    print(
        f"{health['model']}: {count:,} requests in {seconds:.1f} s, {count / seconds:.0f} images/s"
    )
    shown = (f"{q} % {np.percentile(latencies, q) * 1000:.1f} ms" for q in (50, 90, 99, 99.9))
    print(f"latency: {', '.join(shown)}, largest {max(latencies) * 1000:.1f} ms")
    print(f"batches: {health['batches']:,}, the largest of {health['largest_batch']}")
    print(f"other answers than 200: {failures or 'none'}")
    at, mebibytes = np.array(memory).T
    late = at >= at.max() / 2  # what is allocated once is so by then
    if late.sum() > 2:
        slope = np.polyfit(at[late], mebibytes[late], 1)[0] * 1024 * 1000
        print(
            f"memory: {mebibytes[0]:.1f} MiB at first, {mebibytes[-1]:.1f} MiB at last, "
            f"{slope:+.1f} KiB per 1,000 requests over the second half"
        )


def _processor_seconds(process: int) -> float:
    """Return the processor time of a process; not a number where there is no /proc."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _mebibytes(process: int) -> float:
    """Return the resident memory of a process; not a number where there is no /proc."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except OSError:
        return float("nan")
    return pages * 4096 / 2**20


def _images(side: int) -> list[bytes]:
    draws = np.random.default_rng(0)
    images = []
    for _ in range(32):
        small = draws.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(small).resize((side, side)).save(file, "JPEG", quality=90)
        images.append(file.getvalue())
    return images


if __name__ == "__main__":
    main()
