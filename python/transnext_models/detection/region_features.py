"""Features of boxes of any size, from the level of the pyramid that suits it.

Source: He et al., "Mask R-CNN", ICCV 2017, arXiv 1703.06870, section 3 (RoIAlign); Lin et al.,
"Feature Pyramid Networks", CVPR 2017, arXiv 1612.03144, equation 1 (the level).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor
from torchvision.ops import roi_align

from ..dense.eager import is_plain_inference
from .anchors import STRIDES

__all__ = ["align_regions", "region_levels"]

_FINEST = 56  # pixels: smaller boxes than twice this are read on the finest level
_LEVELS = 4
_LEAST_REGIONS = 64  # that are worth several threads


def region_levels(boxes: Tensor) -> Tensor:
    """Return the level 0…3 of boxes ``[n, 4]``, int64 ``[n]``."""
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    level = ((width * height).sqrt() / _FINEST + 1e-6).log2().floor()
    return level.clamp(0, _LEVELS - 1).long()


def align_regions(maps: Sequence[Tensor], boxes: Sequence[Tensor], side: int) -> Tensor:
    """Return the features of boxes as squares.

    Parameters
    ----------
    maps : sequence of Tensor
        ``[B, C, H_i, W_i]`` of strides 4, 8, 16 and 32; further ones are not looked at.
    boxes : sequence of Tensor
        Of each image ``[n_b, 4]``, in pixels.
    side : int
        Of the squares.

    Returns
    -------
    Tensor
        ``[Σ n_b, C, side, side]``, the first image's first.
    """
    images = torch.cat([torch.full_like(box[:, :1], i) for i, box in enumerate(boxes)])
    regions = torch.cat((images, torch.cat(list(boxes))), 1)
    levels = region_levels(regions[:, 1:])
    result = maps[0].new_zeros(len(regions), maps[0].shape[1], side, side)
    for level, (x, stride) in enumerate(zip(maps, STRIDES[:_LEVELS], strict=False)):
        chosen = (levels == level).nonzero()[:, 0]
        if len(chosen):
            precise = torch.promote_types(x.dtype, torch.float32)
            aligned = _align(x.to(precise), regions[chosen].to(precise), side, 1 / stride)
            result.index_copy_(0, chosen, aligned.to(x.dtype))
    return result


def _align(x: Tensor, regions: Tensor, side: int, scale: float) -> Tensor:
    """Return ``roi_align`` of one map, which on a CPU uses one thread, by all of them."""
    align = partial(
        roi_align, output_size=side, spatial_scale=scale, sampling_ratio=0, aligned=True
    )
    threads = torch.get_num_threads()
    if threads == 1 or len(regions) < _LEAST_REGIONS or not is_plain_inference(x, regions):
        return align(x, regions)
    with ThreadPoolExecutor(threads) as pool:
        return torch.cat(list(pool.map(partial(align, x), regions.chunk(threads))))
