"""Masks at points, and points where a mask is uncertain.

Source: Kirillov et al., "PointRend: Image Segmentation as Rendering", CVPR 2020, arXiv 1912.08193,
section 3.1 (training); Cheng et al., "Masked-attention Mask Transformer for Universal Image
Segmentation", CVPR 2022, arXiv 2112.01527, section 3.3.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["sample_points", "uncertain_points"]


def sample_points(masks: Tensor, points: Tensor) -> Tensor:
    """Return masks at points, bilinear between cell centres and zero outside.

    Parameters
    ----------
    masks : Tensor
        ``[N, H, W]``, floating-point.
    points : Tensor
        ``[N, P, 2]``, or ``[1, P, 2]`` for the same of all: (x, y), 0 and 1 being the mask's edges.

    Returns
    -------
    Tensor
        ``[N, P]``.
    """
    if points.shape[0] == 1:  # one grid for all: the masks become its channels
        return F.grid_sample(masks[None], 2 * points[:, None] - 1, align_corners=False)[0, :, 0]
    grid = 2 * points[:, :, None] - 1
    return F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0, :, 0]


@torch.no_grad()
def uncertain_points(
    logits: Tensor, count: int, *, oversampling: float = 3.0, importance: float = 0.75
) -> Tensor:
    """Draw points in masks, most of them where the logit is near zero.

    Of ``oversampling · count`` uniform points the ``importance · count`` with the smallest absolute
    logit are kept; uniform ones complete them.

    Parameters
    ----------
    logits : Tensor
        ``[N, H, W]``.
    count : int
        Points of each mask.

    Returns
    -------
    Tensor
        ``[N, count, 2]`` (x, y) in 0..1.
    """
    masks = logits.shape[0]
    candidates = torch.rand(
        masks, int(count * oversampling), 2, device=logits.device, dtype=logits.dtype
    )
    uncertainty = -sample_points(logits, candidates).abs() if masks else logits.new_zeros(0, 1)
    kept = int(importance * count)
    if masks == 0:
        return logits.new_zeros(0, count, 2)
    best = uncertainty.topk(kept, dim=1).indices
    points = candidates.gather(1, best[..., None].expand(-1, -1, 2))
    uniform = torch.rand(masks, count - kept, 2, device=logits.device, dtype=logits.dtype)
    return torch.cat((points, uniform), 1)
