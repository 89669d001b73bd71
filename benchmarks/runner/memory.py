"""Memory of this process as Linux counts it: resident now, and its peak since a reset."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def _status(key: str) -> int | None:
    if not _STATUS.exists():
        return None
    for line in _STATUS.read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return None


def resident() -> int | None:
    """Return the resident bytes, once what is free has gone back; None where Linux is not."""
    gc.collect()
    if _STATUS.exists():
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl does not
        if trim is not None:
            trim(0)
    return _status("VmRSS")


def peak() -> int | None:
    """Return the most that was resident since :func:`reset_peak`."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Reset the peak to what is resident now."""
    if _CLEAR.exists():
        _CLEAR.write_text("5")
