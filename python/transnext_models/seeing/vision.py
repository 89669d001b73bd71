"""A picture as a query sees it: its window sharp, the rest blurred and dimmed by pooled weight."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from .query import QueryAttention

__all__ = ["foveal_picture", "window_box"]

_DARKEST = 0.22  # of a pixel's brightness where no attention goes
_BLUR = 0.75  # radius in tokens


def window_box(query: QueryAttention) -> tuple[int, int, int, int] | None:
    """Return the pixels ``(left, top, right, bottom)`` of a query's window, None without one."""
    if query.window.numel() == 0:
        return None
    rows, columns = torch.nonzero(query.inside, as_tuple=True)
    radius, stride = query.inside.shape[0] // 2, query.stride
    (top, bottom), (left, right) = (
        (
            max((int(cells.min()) - radius + place) * stride - stride // 2, 0),
            min((int(cells.max()) - radius + place) * stride + stride // 2, side),
        )
        for cells, place, side in zip(
            (rows, columns), query.position, query.image_size, strict=True
        )
    )
    return left, top, right, bottom


def foveal_picture(
    query: QueryAttention, picture: Image.Image, head: int | None = None
) -> Image.Image:
    """Return a picture of the size of the query's image as the query sees it.

    Parameters
    ----------
    query : QueryAttention
    picture : PIL image
        Is scaled to the query's image.
    head : int, optional
        None for the mean over heads.
    """
    height, width = query.image_size
    sharp = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    blurred = sharp.filter(ImageFilter.GaussianBlur(_BLUR * query.stride))
    light = _DARKEST + (1 - _DARKEST) * _brightness(query, head)
    seen = Image.fromarray((np.asarray(blurred) * light[..., None]).round().astype(np.uint8))
    box = window_box(query)
    if box is not None:
        seen.paste(sharp.crop(box), box)
    return seen


def _brightness(query: QueryAttention, head: int | None) -> np.ndarray:
    """Return the attention to each pixel's pooled cells, 0 to 1, float64 ``[H, W]``."""
    pooled: Tensor = query.pooled.mean(0) if head is None else query.pooled[head]
    grid = Image.fromarray(pooled.float().sqrt().numpy())
    height, width = query.image_size
    smooth = np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    return np.clip(smooth / max(float(smooth.max()), 1e-12), 0, 1)
