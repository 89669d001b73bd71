"""Numbers for the page: a JSON header, and float32 or uint8 behind it.

An answer is four bytes (the header's length, little endian), the header in UTF-8, blanks up to a
multiple of four, and the numbers. The page reads them as typed arrays without parsing text.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..receptive_field import ReceptiveField
from ..record import AttentionRecord

__all__ = ["foveal_answer", "pack", "query_answer", "receptive_field_answer"]

_ALIGNMENT = 4


def pack(header: dict[str, Any], numbers: bytes) -> bytes:
    """Return a header and the numbers behind it as one answer."""
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(4, "little") + text + numbers


def query_answer(record: AttentionRecord, pixel: tuple[float, float]) -> bytes:
    """Return the attention of a pixel's token in every block, as float32.

    Of each block in the header's order: attention of the window ``[h, k, k]``, of the pooled cells
    ``[h, Hp, Wp]``, and the positional part ``[h, k, k]``.
    """
    blocks, parts = [], []
    for info in record.blocks:
        query = record.query(info.stage, info.block, pixel=pixel)
        blocks.append({"stage": info.stage, "block": info.block, "position": list(query.position)})
        parts += [query.window, query.pooled, query.positional]
    return pack({"pixel": list(pixel), "blocks": blocks}, _float32(parts))


def foveal_answer(
    record: AttentionRecord, stage: int, block: int, pixel: tuple[float, float]
) -> bytes:
    """Return what the fovea would see everywhere, float32 ``[h, H, W]``."""
    position = record.position(stage, pixel)
    maps = record.foveal(stage, block, position)
    header = {"stage": stage, "block": block, "position": list(position), "shape": [*maps.shape]}
    return pack(header, _float32([maps]))


def receptive_field_answer(field: ReceptiveField) -> bytes:
    """Return an effective receptive field, float32 ``[H, W]``, divided by its maximum."""
    header = {
        "shape": [*field.map.shape],
        "position": list(field.position),
        "sum": field.total,
        "max": field.largest,
    }
    return pack(header, _float32([relative(field.map)]))


def relative(values: Tensor) -> Tensor:
    """Return a map divided by its maximum; one of zeros stays so."""
    return values / max(float(values.max()), torch.finfo(torch.float64).tiny)


def _float32(parts: list[Tensor]) -> bytes:
    flat = [part.reshape(-1).to(torch.float32).numpy() for part in parts]
    return np.concatenate(flat).astype("<f4").tobytes()
