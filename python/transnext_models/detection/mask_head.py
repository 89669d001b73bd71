"""The mask branch: the silhouette of what a box shows.

Source: He et al., "Mask R-CNN", ICCV 2017, arXiv 1703.06870, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from ..dense.run_lengths import RunLengths
from .fpn import Convolution

__all__ = ["MaskHead", "crop_masks", "masks_of", "paste_masks", "pasted_run_lengths"]

_DEPTH = 4


class MaskHead(nn.Module):
    """Four convolutions, twice the size, then a mask for each class.

    Parameters
    ----------
    num_classes, channels : int
        Classes, and channels of the maps.
    """

    side = 14

    def __init__(self, num_classes: int, channels: int = 256) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            Convolution(channels, channels, 3, relu=True) for _ in range(_DEPTH)
        )
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.conv_logits = nn.Conv2d(channels, num_classes, 1)
        for conv in (self.upsample, self.conv_logits):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, regions: Tensor) -> Tensor:
        """Regions ``[n, C, 14, 14]`` to logits ``[n, classes, 28, 28]``."""
        for conv in self.convs:
            regions = conv(regions)
        return self.conv_logits(self.upsample(regions).relu())

    def loss(self, logits: Tensor, labels: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Return ``loss_mask``, the mean cross-entropy of the true classes' masks.

        Parameters
        ----------
        logits, labels, masks : Tensor
            ``[n, classes, 28, 28]``, int64 ``[n]`` and, of zeros and ones, ``[n, 28, 28]``. Without
            any the loss is 0 and has gradients.
        """
        if not len(logits):
            return {"loss_mask": logits.sum().float()}
        chosen = logits[torch.arange(len(logits), device=logits.device), labels].float()
        return {"loss_mask": F.binary_cross_entropy_with_logits(chosen, masks.float())}


@torch.no_grad()
def crop_masks(masks: Tensor, objects: Tensor, boxes: Tensor, side: int = 28) -> Tensor:
    """Return what boxes show of masks, ``[n, side, side]`` of zeros and ones.

    Parameters
    ----------
    masks : Tensor
        Annotated, ``[G, H, W]``.
    objects, boxes : Tensor
        The mask that each box looks at, int64 ``[n]``, and the boxes ``[n, 4]`` in pixels.
    """
    if not len(boxes):
        return boxes.new_zeros(0, side, side)
    regions = torch.cat((objects[:, None].float(), boxes.float()), 1)
    cropped = roi_align(masks[:, None].float(), regions, side, 1.0, sampling_ratio=0, aligned=True)
    return (cropped[:, 0] >= 0.5).float()


@torch.no_grad()
def paste_masks(
    masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5
) -> Tensor:
    """Return masks of boxes as masks of the image.

    Parameters
    ----------
    masks : Tensor
        Probabilities ``[n, h, w]``.
    boxes : Tensor
        ``[n, 4]`` in pixels of the image.
    size : (int, int)
        Its height and width.
    threshold : float
        From which probability on a pixel belongs to the mask.

    Returns
    -------
    Tensor
        bool ``[n, H, W]``.
    """
    pasted = torch.zeros((len(masks), *size), dtype=torch.bool, device=masks.device)
    for whole, mask, box in zip(pasted, masks.float(), boxes.tolist(), strict=True):
        values, (top, left) = _pasted(mask, box, size, threshold)
        whole[top : top + values.shape[0], left : left + values.shape[1]] = values
    return pasted


@torch.no_grad()
def pasted_run_lengths(
    masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5
) -> tuple[RunLengths, ...]:
    """Return what `paste_masks` does, in memory of the largest box rather than of all images."""
    runs = []
    for mask, box in zip(masks.float(), boxes.tolist(), strict=True):
        values, corner = _pasted(mask, box, size, threshold)
        runs.append(RunLengths.of_part(values.cpu().numpy(), corner, size))
    return tuple(runs)


def _pasted(
    mask: Tensor, box: Sequence[float], size: tuple[int, int], threshold: float
) -> tuple[Tensor, tuple[int, int]]:
    """Return the part of the image where a mask may be, bool, and its first row and column."""
    left, top, right, bottom = box
    # A pixel beyond the box may still be reached by the outermost cells.
    rows, columns = _pixels(top, bottom, size[0], mask), _pixels(left, right, size[1], mask)
    if not (right > left and bottom > top and len(rows) and len(columns)):
        return mask.new_zeros(0, 0, dtype=torch.bool), (0, 0)
    x = (columns + 0.5 - left) / (right - left) * 2 - 1
    y = (rows + 0.5 - top) / (bottom - top) * 2 - 1
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)
    values = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
    return values >= threshold, (int(rows[0]), int(columns[0]))


def _pixels(first: float, last: float, side: int, like: Tensor) -> Tensor:
    """Return the indices of pixels from one before ``first`` to one after ``last``."""
    start, stop = max(0, int(first) - 1), min(side, int(last) + 2)
    return torch.arange(start, max(start, stop), device=like.device, dtype=torch.float32)


def masks_of(logits: Tensor, labels: Sequence[int] | Tensor) -> Tensor:
    """Return the probabilities ``[n, h, w]`` of the masks of given classes."""
    chosen = torch.as_tensor(labels, device=logits.device)
    return logits[torch.arange(len(logits), device=logits.device), chosen].float().sigmoid()
