"""What threads hold as a process is forked: none of them is there in the child to give it back."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable


def after_fork(renew: Callable[[], None]) -> None:
    """Call `renew` in every process that is forked from this one, where there are such."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=renew)


class Lock:
    """A lock that a forked process finds open."""

    def __init__(self) -> None:
        self._renew()
        after_fork(self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()
