"""Silence for Pillow's warnings while images are decoded in several threads."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .forks import Lock, after_fork

_MODULES = r"(PIL|pillow_heif|transnext_models\.images)\b"
_SILENCE: Any = ("ignore", None, Warning, re.compile(_MODULES), 0)  # as `warnings` keeps a filter

_lock = Lock()
_inside = 0


@contextmanager
def quiet() -> Iterator[None]:
    """Ignore warnings of Pillow: of large images, odd EXIF data and palettes.

    `warnings.catch_warnings` puts back the filters that it found, which from several threads loses
    the changes of others, for good. So one filter is there while anyone is inside, and is taken
    away after; the list of filters is replaced, not changed, for who is just going through it.
    """
    global _inside
    if getattr(sys.flags, "context_aware_warnings", False):  # then each thread has its own filters
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=_MODULES)
            yield
        return
    with _lock:
        _inside += 1
        if _inside == 1:
            warnings.filters = [_SILENCE, *warnings.filters]
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _heed()


def _heed() -> None:
    global _inside
    _inside = 0
    warnings.filters = [entry for entry in warnings.filters if entry is not _SILENCE]


after_fork(_heed)
