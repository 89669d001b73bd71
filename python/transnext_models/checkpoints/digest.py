"""The SHA-256 of a file."""

from __future__ import annotations

import hashlib
from pathlib import Path

_CHUNK = 1 << 20


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as data:
        while block := data.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()
