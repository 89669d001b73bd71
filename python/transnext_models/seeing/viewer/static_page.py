"""The viewer as one file: the page with every answer inside, rounded to 8 bits.

Of every query the attention is kept as uint8, with one scale per block, head and query: the square
root of a weight over that of the largest, so that small weights keep digits too. A page of many
pixels gets too large; then it holds every second, fourth ... query of the largest stages.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..block import BlockInfo
from ..record import AttentionRecord
from .answers import relative
from .session import Session

__all__ = ["StaticPage", "page_without_data", "static_page"]

LIMIT = 24 << 20  # bytes of one image's answers of one model
_MARK = "<!--DATA-->"
_QUERIES_AT_ONCE = 512
_MOST_MAPS = 64  # queries of a stage of which the page holds receptive fields
_MOST_FOVEAL = 1 << 19  # bytes of one block's maps of the fovea
_COARSE_FIELD = 56  # pixels of a receptive field's side


@dataclass(frozen=True)
class StaticPage:
    """A page that needs no server.

    Attributes
    ----------
    html : str
    remarks : list of str
        What it does not hold; the page says so too.
    """

    html: str
    remarks: list[str]


def page_without_data() -> str:
    """Return the page that asks a server for its answers."""
    return (resources.files(__package__) / "viewer.html").read_text(encoding="utf-8")


def static_page(
    session: Session, *, limit: int = LIMIT, progress: Callable[[str], None] | None = None
) -> StaticPage:
    """Return one self-contained page of a session's models and images.

    Parameters
    ----------
    session : Session
    limit : int
        Bytes of one image's answers of one model; above it queries are left out.
    progress : callable, optional
        Called with the name of each image.
    """
    blobs = _Blobs()
    images, remarks = [], {}
    for key in session.images:
        about = session.about_image(key)
        if progress is not None:
            progress(about["name"])
        for index, entry in enumerate(about["models"]):
            record = session.record(key, index)
            steps = _steps(record, limit)
            entry["blocks"] = [
                _block(record, info, steps[info.stage], blobs) for info in record.blocks
            ]
            entry["fields"] = _fields(session, key, index, record, blobs)
            for stage, step in steps.items():
                if step > 1:
                    remarks[index, stage] = (
                        f"{session.subjects[index].name}, stage {stage}: one query of "
                        f"{step} x {step} is kept."
                    )
        images.append(about)
    thumbnails = {entry["id"]: entry["thumbnail"] for entry in session.about_images()}
    for about in images:
        about["thumbnail"] = thumbnails[about["id"]]
    data = {
        "models": session.about_models(),
        "images": images,
        "remarks": list(remarks.values()),
    }
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    payload = base64.b64encode(b"".join(blobs.parts)).decode("ascii")
    scripts = (
        f'<script type="application/json" id="data">{text}</script>\n'
        f'<script type="text/plain" id="payload">{payload}</script>'
    )
    before, after = page_without_data().split(_MARK)
    return StaticPage(before + scripts + after, list(remarks.values()))


class _Blobs:
    """Numbers one behind the other; each begins at a multiple of four bytes."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self._length = 0

    def add(self, numbers: np.ndarray) -> int:
        """Take numbers in, and return where they begin."""
        begin = self._length
        data = np.ascontiguousarray(numbers).tobytes()
        data += b"\0" * (-len(data) % 4)
        self.parts.append(data)
        self._length += len(data)
        return begin


def _bytes_of(info: BlockInfo, step: int) -> int:
    rows, columns = (-(-size // step) for size in info.grid)
    cells = 2 * info.window**2 + info.pool_grid[0] * info.pool_grid[1]
    return rows * columns * info.heads * (cells + 8)


def _steps(record: AttentionRecord, limit: int) -> dict[int, int]:
    """Return for each stage which of its queries are kept: every step-th, to stay in the limit."""
    steps = {info.stage: 1 for info in record.blocks}

    def size(stage: int) -> int:
        return sum(_bytes_of(info, steps[stage]) for info in record.blocks if info.stage == stage)

    while sum(map(size, steps)) > limit:
        steps[max(steps, key=size)] *= 2
    return steps


def _block(record: AttentionRecord, info: BlockInfo, step: int, blobs: _Blobs) -> dict[str, Any]:
    """Return where a block's numbers are: scales ``[n, h, 2]``, codes, signed positional codes."""
    recorded = record.recorded(info.stage, info.block)
    rows, columns = torch.meshgrid(
        *(torch.arange(0, size, step, device=record.image.device) for size in info.grid),
        indexing="ij",
    )
    scales, codes, positional = [], [], []
    for some_rows, some_columns in zip(
        rows.flatten().split(_QUERIES_AT_ONCE),
        columns.flatten().split(_QUERIES_AT_ONCE),
        strict=True,
    ):
        weights = recorded.weights(some_rows, some_columns)
        code, scale = rooted(weights.attention.transpose(0, 1))
        signed = weights.positional.transpose(0, 1)
        most = signed.abs().amax(-1) if signed.shape[-1] else torch.zeros_like(scale)
        codes.append(code)
        positional.append(
            (signed / most.clamp(min=1e-30)[..., None] * 127).round().to(torch.int8).cpu().numpy()
        )
        scales.append(torch.stack((scale, most), -1).float().cpu().numpy())
    about: dict[str, Any] = {
        "step": step,
        "scales": blobs.add(np.concatenate(scales).astype("<f4")),
        "codes": blobs.add(np.concatenate(codes)),
        "positional": blobs.add(np.concatenate(positional)),
    }
    tokens = info.grid[0] * info.grid[1]
    if tokens**2 * info.heads <= _MOST_FOVEAL:
        about["foveal"] = _foveal(record, info, blobs)
    return about


def _foveal(record: AttentionRecord, info: BlockInfo, blobs: _Blobs) -> dict[str, int]:
    height, width = info.grid
    maps = torch.stack(
        [
            record.foveal(info.stage, info.block, (row, column)).flatten(1)
            for row in range(height)
            for column in range(width)
        ]
    )
    code, scale = rooted(maps)
    return {"scales": blobs.add(scale.numpy().astype("<f4")), "codes": blobs.add(code)}


def _fields(
    session: Session, image: str, model: int, record: AttentionRecord, blobs: _Blobs
) -> dict[str, Any]:
    """Return where the receptive fields are, of the stages of few tokens."""
    fields = {}
    for stage, (height, width) in {info.stage: info.grid for info in record.blocks}.items():
        if height * width > _MOST_MAPS:
            continue
        found = session.receptive_fields(image, model, stage)
        factor = max(1, min(record.image_size) // _COARSE_FIELD)
        maps = torch.stack([_coarse(relative(field.map), factor) for field in found])
        code, scale = rooted(maps.flatten(1))
        fields[str(stage)] = {
            "shape": [*maps.shape[1:]],
            "factor": factor,
            "sums": [field.total for field in found],
            "largest": [field.largest for field in found],
            "scales": blobs.add(scale.numpy().astype("<f4")),
            "codes": blobs.add(code),
        }
    return fields


def _coarse(values: Tensor, factor: int) -> Tensor:
    """Return means of squares of pixels; those at the far edges may be narrower."""
    return F.avg_pool2d(values[None], factor, ceil_mode=True, count_include_pad=False)[0]


def rooted(values: Tensor) -> tuple[np.ndarray, Tensor]:
    """Return values of at least 0 as uint8, and their scales: ``(code / 255)**2 * scale``.

    The last axis shares a scale, its maximum. The error is at most 0.4 % of the scale.
    """
    scale = values.amax(-1)
    code = (values / scale.clamp(min=1e-30)[..., None]).sqrt() * 255
    return code.round().to(torch.uint8).cpu().numpy(), scale.cpu()
