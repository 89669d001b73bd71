"""Silence for Pillow's warnings while images are decoded in several threads."""

from __future__ import annotations

import contextlib
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_MODULES = r"(PIL|pillow_heif|transnext_models\.images)\b"

_lock = threading.Lock()
_inside = 0


@contextmanager
def quiet() -> Iterator[None]:
    """Ignore warnings of Pillow: of large images, odd EXIF data and palettes.

    `warnings.catch_warnings` puts back the filters that it found, which from several threads loses
    the changes of others, for good. So one filter is added while anyone is inside, and removed.
    """
    global _inside
    if getattr(sys.flags, "context_aware_warnings", False):  # then each thread has its own filters
        with warnings.catch_warnings():
            _ignore()
            yield
        return
    with _lock:
        _inside += 1
        if _inside == 1:
            _ignore()
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _heed()


def _ignore() -> None:
    warnings.filterwarnings("ignore", module=_MODULES)


def _heed() -> None:
    filters = list(warnings.filters)
    for entry in filters:
        pattern = entry[3]
        if entry[0] == "ignore" and getattr(pattern, "pattern", None) == _MODULES:
            with contextlib.suppress(ValueError):
                warnings.filters.remove(entry)  # type: ignore[attr-defined]
