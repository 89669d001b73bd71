"""What the backends say that run wherever PyTorch does, on every device."""

from __future__ import annotations

from transnext_ops.backends.registry import ACTIVATION_DTYPES, Call


def unavailable() -> str | None:
    """Say why the backend cannot run: never."""
    return None


def unsupported(call: Call) -> str | None:
    """Say why a call cannot run here."""
    if call.dtype not in ACTIVATION_DTYPES:
        return f"it has no {call.dtype}"
    return None
