"""Requests that arrive one by one, computed together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Closed(RuntimeError):
    """Nothing is taken any more."""


@dataclass(frozen=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    future: asyncio.Future[Result]
    since: float


class Batcher(Generic[Item, Result]):
    """Collects items for a function of many, which runs in a thread of its own.

    A batch goes when it is full or its first item has waited long enough; what arrives while one is
    computed waits for the next. Use it with ``async with``: at the end all that wait are answered.

    Parameters
    ----------
    run : callable
        From a list of items to their results, in order.
    max_batch : int
        Items at a time.
    max_wait : float
        Seconds that an item waits for others.
    """

    def __init__(
        self, run: Callable[[list[Item]], Sequence[Result]], *, max_batch: int, max_wait: float
    ) -> None:
        self._run, self._max_batch, self._max_wait = run, max_batch, max_wait
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._arrived = asyncio.Event()
        self._closing = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self.batches, self.largest = 0, 0

    async def __aenter__(self) -> Batcher[Item, Result]:
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        self._arrived.set()
        await self._worker
        self._thread.shutdown()

    async def submit(self, item: Item) -> Result:
        """Return the result of an item; its errors are those of its batch."""
        if self._closing:
            raise Closed("the server is shutting down")
        loop = asyncio.get_running_loop()
        entry: _Waiting[Item, Result] = _Waiting(item, loop.create_future(), loop.time())
        self._waiting.append(entry)
        self._arrived.set()
        return await entry.future

    async def _work(self) -> None:
        while batch := await self._collected():
            loop = asyncio.get_running_loop()
            self.batches, self.largest = self.batches + 1, max(self.largest, len(batch))
            items = [entry.item for entry in batch]
            try:
                results = await loop.run_in_executor(self._thread, self._run, items)
            except Exception as error:
                for entry in batch:
                    if not entry.future.done():
                        entry.future.set_exception(error)
            else:
                for entry, result in zip(batch, results, strict=True):
                    if not entry.future.done():
                        entry.future.set_result(result)

    async def _collected(self) -> list[_Waiting[Item, Result]]:
        """Wait for a batch; empty at the end."""
        loop = asyncio.get_running_loop()
        while True:
            # Whoever asked may have gone.
            self._waiting = deque(entry for entry in self._waiting if not entry.future.done())
            if not self._waiting and self._closing:
                return []
            if len(self._waiting) >= self._max_batch or self._closing:
                break
            left = self._waiting[0].since + self._max_wait - loop.time() if self._waiting else None
            if left is not None and left <= 0:
                break
            self._arrived.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), left)
        return [self._waiting.popleft() for _ in range(min(len(self._waiting), self._max_batch))]
