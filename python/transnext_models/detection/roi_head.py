"""Mask R-CNN's second stage: classes, boxes and masks of proposals.

Source: He et al., "Mask R-CNN", ICCV 2017, arXiv 1703.06870.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .assignment import Assigner, Sampler
from .box_deltas import rescale_boxes
from .box_head import BoxHead
from .mask_head import MaskHead, crop_masks, masks_of, paste_masks
from .records import Annotated, Detections
from .region_features import align_regions

__all__ = ["RegionHead"]


class RegionHead(nn.Module):
    """Box head and mask head, each on features of its own.

    Parameters
    ----------
    num_classes : int
        Classes without the background.
    channels, hidden : int
        Of the maps, and of the box head's fully connected layers.
    samples : int
        Proposals of an image that the losses look at.
    """

    assigner = Assigner(positive=0.5, negative=0.5, least_best=0.5)

    def __init__(
        self, num_classes: int, channels: int = 256, *, hidden: int = 1024, samples: int = 512
    ) -> None:
        super().__init__()
        self.bbox_head = BoxHead(num_classes, channels, hidden)
        self.mask_head = MaskHead(num_classes, channels)
        self.sampler = Sampler(samples, 0.25)

    def boxes_of(
        self, maps: Sequence[Tensor], proposals: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return logits ``[Σ n, classes + 1]`` and moves ``[Σ n, 4 · classes]`` of proposals.

        Parameters
        ----------
        maps : sequence of Tensor
            The pyramid's.
        proposals : sequence of Tensor
            Of each image ``[n, 4]``.
        """
        return self.bbox_head(align_regions(maps, proposals, self.bbox_head.side))

    def masks_of(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Return mask logits ``[Σ n, classes, 28, 28]`` of boxes, arguments as above."""
        return self.mask_head(align_regions(maps, boxes, self.mask_head.side))

    @torch.no_grad()
    def forward(
        self,
        maps: Sequence[Tensor],
        proposals: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        original_sizes: Sequence[tuple[int, int]],
        *,
        paste: bool = True,
    ) -> list[Detections]:
        """Return what is found in each image, in pixels of the original.

        Parameters
        ----------
        maps, proposals : sequence of Tensor
            The pyramid's, and of each image ``[n, 4]``.
        sizes, original_sizes : sequence of (int, int)
            Height and width of each image without padding, and as it was before it was resized.
        paste : bool
            Whether masks are of the image's size, rather than 28 x 28 probabilities of their boxes.
        """
        counts = [len(boxes) for boxes in proposals]
        logits, moves = (x.split(counts) for x in self.boxes_of(maps, proposals))
        found = [
            self.bbox_head.detections(*of_image)
            for of_image in zip(logits, moves, proposals, sizes, strict=True)
        ]
        masks = self.masks_of(maps, [image.boxes for image in found])
        results = []
        for image, mask, size, original in zip(
            found, masks.split([len(image.boxes) for image in found]), sizes, original_sizes,
            strict=True,
        ):  # fmt: skip
            boxes = rescale_boxes(image.boxes, size, original)
            chosen = masks_of(mask, image.labels)
            if paste:
                chosen = paste_masks(chosen, boxes, original)
            results.append(Detections(boxes, image.scores, image.labels, chosen))
        return results

    def loss(
        self, maps: Sequence[Tensor], proposals: Sequence[Tensor], targets: Sequence[Annotated]
    ) -> dict[str, Tensor]:
        """Return ``loss_cls``, ``acc`` (percent), ``loss_bbox`` and ``loss_mask``.

        Annotated boxes count as proposals too, the first ones. Without any masks there is no
        ``loss_mask``.

        Parameters
        ----------
        maps, proposals : sequence of Tensor
            The pyramid's, and of each image ``[n, 4]``.
        targets : sequence of Annotated
            With masks.
        """
        candidates = [
            torch.cat((target.boxes.float(), boxes))
            for target, boxes in zip(targets, proposals, strict=True)
        ]
        samples = [
            self.sampler(self.assigner(boxes, target.boxes))
            for boxes, target in zip(candidates, targets, strict=True)
        ]
        chosen = [
            boxes[torch.cat((sample.positive, sample.negative))]
            for boxes, sample in zip(candidates, samples, strict=True)
        ]
        logits, moves = self.boxes_of(maps, chosen)
        losses = self.bbox_head.loss(
            logits,
            moves,
            samples,
            candidates,
            [target.boxes for target in targets],
            [target.labels for target in targets],
        )
        if all(target.masks is None for target in targets):
            return losses
        positive = [
            boxes[sample.positive] for boxes, sample in zip(candidates, samples, strict=True)
        ]
        labels, masks = [], []
        for target, sample, boxes in zip(targets, samples, positive, strict=True):
            if target.masks is None:
                raise ValueError(
                    "masks: got an image without, needs them for all of a batch or for none"
                )
            labels.append(target.labels[sample.objects])
            masks.append(crop_masks(target.masks, sample.objects, boxes))
        mask_logits = self.masks_of(maps, positive)
        return losses | self.mask_head.loss(mask_logits, torch.cat(labels), torch.cat(masks))
