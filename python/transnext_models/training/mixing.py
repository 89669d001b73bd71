"""Mixup and CutMix of a batch, with shapes and work that do not depend on the numbers drawn.

As published (DeiT's recipe on timm 0.5.4): one choice, one λ and one box per batch and process; the
partner of an image is the one at its place in the batch read backwards. The numbers are drawn on
the host and reach the device as one small tensor, so that nothing waits for the device and a CUDA
graph can be replayed with the numbers of another batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["BatchMixer", "soft_targets"]

_NUMBERS = (
    6  # λ of the targets, λ of the pixels outside the box, and the box: top, bottom, left, right
)


def soft_targets(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Smooth labels: 1 - s + s/C at the label, s/C elsewhere.

    Parameters
    ----------
    labels : Tensor
        int64 [B].
    num_classes : int
        C.
    smoothing : float
        s.

    Returns
    -------
    float32 [B, C].
    """
    off = smoothing / num_classes
    targets = torch.full((len(labels), num_classes), off, device=labels.device)
    return targets.scatter_(1, labels[:, None], 1 - smoothing + off)


@dataclass(frozen=True, kw_only=True)
class BatchMixer:
    """Mixes a batch of even size with itself read backwards.

    Attributes
    ----------
    mixup, cutmix : float
        Parameters of the symmetric Beta distributions that λ comes from; 0 turns the method off.
    switch : float
        Probability of CutMix rather than mixup where both are on.
    smoothing : float
        Of the targets, see `soft_targets`.
    num_classes : int
        Length of a target.
    """

    mixup: float
    cutmix: float
    switch: float
    smoothing: float
    num_classes: int

    def draw(self, height: int, width: int) -> Tensor:
        """Draw the numbers for a batch of images [B, 3, height, width] from NumPy's generator.

        The order of draws is timm's. A box of odd side has the published extent: half the side,
        rounded down, on each side of its centre (timm from 0.9 on has one pixel more).

        Returns
        -------
        float32 [6], on the host; pinned where there is a CUDA device.
        """
        # NumPy's global generator is what the step seeds (random_numbers.py). timm's first draw
        # decides whether to mix at all, which the recipe always does.
        np.random.rand()  # noqa: NPY002
        uses_cutmix = self.cutmix > 0 and (
            self.mixup == 0 or bool(np.random.rand() < self.switch)  # noqa: NPY002
        )
        alpha = self.cutmix if uses_cutmix else self.mixup
        weight = float(np.random.beta(alpha, alpha)) if alpha > 0 else 1.0  # noqa: NPY002
        pixels, box = weight, (0, 0, 0, 0)
        if uses_cutmix:
            box = _box(height, width, weight)
            pixels = 1.0
            weight = 1 - (box[1] - box[0]) * (box[3] - box[2]) / (height * width)
        return torch.tensor(
            [weight, pixels, *box], dtype=torch.float32, pin_memory=torch.cuda.is_available()
        )

    def __call__(self, images: Tensor, labels: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Mix on the images' device.

        Parameters
        ----------
        images : Tensor
            [B, 3, H, W], B even.
        labels : Tensor
            int64 [B].
        numbers : Tensor
            Of `draw`, on the images' device.

        Returns
        -------
        Images of the same shape and dtype, and soft targets float32 [B, C].
        """
        weight, pixels, top, bottom, left, right = numbers.unbind()
        partners = images.flip(0)
        pixels = pixels.to(images.dtype)
        mixed = images * pixels + partners * (1 - pixels)
        rows = torch.arange(images.shape[-2], device=images.device)
        columns = torch.arange(images.shape[-1], device=images.device)
        inside = ((rows >= top) & (rows < bottom))[:, None] & (columns >= left) & (columns < right)
        targets = soft_targets(labels, self.num_classes, self.smoothing)
        return (
            torch.where(inside, partners, mixed),
            targets * weight + targets.flip(0) * (1 - weight),
        )


def _box(height: int, width: int, weight: float) -> tuple[int, int, int, int]:
    """Draw a box of about 1 - `weight` of the area; what lies outside of the image is cut off."""
    ratio = np.sqrt(1 - weight)
    half_height, half_width = int(height * ratio) // 2, int(width * ratio) // 2
    row = int(np.random.randint(height))  # noqa: NPY002
    column = int(np.random.randint(width))  # noqa: NPY002
    return (
        max(row - half_height, 0),
        min(row + half_height, height),
        max(column - half_width, 0),
        min(column + half_width, width),
    )
