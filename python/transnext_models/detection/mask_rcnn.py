"""Mask R-CNN on a TransNeXt backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from ..dense.backbone import OnBackbone
from ..dense.batches import check_sizes
from ..transnext import TransNeXt
from .anchors import ANCHOR_SCALE
from .fpn import FeaturePyramid
from .records import Annotated, Detections
from .roi_head import RegionHead
from .rpn import ProposalHead, ProposalSettings

__all__ = ["MaskRCNN"]

_DIVISOR = 32  # images are padded to multiples of it
_MORE_IN_TRAINING = 2  # proposals of a level


class MaskRCNN(OnBackbone):
    """Mask R-CNN (He et al., ICCV 2017, arXiv 1703.06870) with a feature pyramid, on TransNeXt.

    Takes normalised RGB images ``[B, 3, H, W]``, padded with zeros at right and bottom to multiples
    of 32 (:func:`transnext_models.dense.batches.pad_images`). State dicts have the names of the
    published checkpoints.

    Parameters
    ----------
    backbone : TransNeXt
        With ``features_only=True`` and all four maps.
    num_classes : int
        Classes without the background.
    channels, hidden : int
        Width of the feature pyramid and all that reads it, and of the box head's fully connected
        layers.
    anchor_scale : int
        Side of the square anchor in strides of its level.
    proposals : int
        Of an image, at most, that the second stage looks at in a test.
    anchor_samples, samples : int
        Anchors and proposals of an image that the losses look at.

    Attributes
    ----------
    has_masks : bool
        Whether results have masks; those of a model that was trained on boxes alone have none.

    Notes
    -----
    The defaults are the published ones.
    """

    pad_divisor = _DIVISOR

    def __init__(
        self,
        backbone: TransNeXt,
        num_classes: int = 80,
        *,
        channels: int = 256,
        hidden: int = 1024,
        anchor_scale: int = ANCHOR_SCALE,
        proposals: int = 1000,
        anchor_samples: int = 256,
        samples: int = 512,
    ) -> None:
        super().__init__(backbone, num_classes)
        self.has_masks = True
        self.neck = FeaturePyramid(self.widths, channels)
        self.rpn_head = ProposalHead(channels, anchor_scale=anchor_scale, samples=anchor_samples)
        self.roi_head = RegionHead(num_classes, channels, hidden=hidden, samples=samples)
        self.proposals = ProposalSettings(per_level=proposals, total=proposals)

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Return five maps ``[B, channels, H / s, W / s]`` of strides s 4, 8, 16, 32 and 64."""
        return self.neck(self.backbone(images))

    def forward(
        self,
        images: Tensor,
        sizes: Sequence[tuple[int, int]] | None = None,
        original_sizes: Sequence[tuple[int, int]] | None = None,
        *,
        paste: bool = True,
    ) -> list[Detections]:
        """Return the at most 100 most certain objects of each image, with masks.

        Parameters
        ----------
        images : Tensor
            ``[B, 3, H, W]``.
        sizes : sequence of (int, int), optional
            Height and width of each image without padding; those of the batch unless given.
        original_sizes : sequence of (int, int), optional
            Height and width before an image was resized, whose pixels the results are in; ``sizes``
            unless given.
        paste : bool
            Whether masks are of the original image's size; otherwise 28 x 28 probabilities of their
            boxes, which :meth:`Detections.found` takes too, in less memory.
        """
        sizes = check_sizes(images, sizes)
        originals = check_sizes(images, original_sizes, inside=False) if original_sizes else sizes
        maps = self.pyramid(images)
        logits, moves = self.rpn_head(maps)
        proposals = self.rpn_head.proposals(logits, moves, sizes, self.proposals)
        boxes = [found.boxes for found in proposals]
        answers: list[Detections] = self.roi_head(maps, boxes, sizes, originals, paste=paste)
        for index in range(len(images)):  # of what is no number the proposals are none
            if not all(level[index].isfinite().all() for level in logits):
                answers[index] = Detections.unknown(images)
        return answers if self.has_masks else [one._replace(masks=None) for one in answers]

    def loss(self, images: Tensor, targets: Sequence[Annotated]) -> dict[str, Tensor]:
        """Return the losses of a batch.

        Parameters
        ----------
        images : Tensor
            ``[B, 3, H, W]``.
        targets : sequence of Annotated
            Of each image, with masks ``[G, H, W]``.

        Returns
        -------
        dict
            ``loss_rpn_cls``, ``loss_rpn_bbox``, ``loss_cls``, ``loss_bbox`` and ``loss_mask``,
            whose sum is the total, and the accuracy ``acc`` in percent. Anchors and proposals are
            sampled with PyTorch's random numbers.
        """
        if len(targets) != len(images):
            raise ValueError(
                f"targets: got {len(targets)}, needs one for each of {len(images)} images"
            )
        sizes = check_sizes(images, [target.size for target in targets])
        height, width = images.shape[2:]
        padded = [(min(h + -h % _DIVISOR, height), min(w + -w % _DIVISOR, width)) for h, w in sizes]
        maps = self.pyramid(images)
        logits, moves = self.rpn_head(maps)
        boxes = [target.boxes.float() for target in targets]
        losses = self.rpn_head.loss(logits, moves, padded, boxes)
        settings = replace(self.proposals, per_level=_MORE_IN_TRAINING * self.proposals.per_level)
        proposals = self.rpn_head.proposals(logits, moves, sizes, settings)
        return losses | self.roi_head.loss(maps, [found.boxes for found in proposals], targets)
