"""UPerNet and Mask2Former on a TransNeXt backbone.

Both take normalised RGB images ``[B, 3, H, W]`` with sides of at least 32 and give scores of every
class for every pixel. State dicts have the names of the published checkpoints.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dense.backbone import OnBackbone
from ..dense.batches import check_sizes
from ..transnext import TransNeXt
from .mask_decoder import Mask2FormerHead, QueryPrediction
from .mask_losses import mask_losses, segments_of
from .pixel_losses import IGNORED, pixel_accuracy, pixel_cross_entropy
from .row_maps import RowMap
from .upernet_heads import AuxiliaryHead, UPerNetHead

__all__ = ["Mask2Former", "SegmentationModel", "UPerNet", "total_loss"]


class SegmentationModel(OnBackbone, ABC):
    """A model that labels every pixel.

    Attributes
    ----------
    backbone : TransNeXt
        Gives four maps.
    num_classes : int
        Classes of the scores.
    """

    @abstractmethod
    def outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return what the head says of each image, from which :meth:`rows_of` makes scores."""

    @abstractmethod
    def rows_of(self, outputs: tuple[Tensor, ...], size: tuple[int, int]) -> RowMap:
        """Return scores ``[B, classes, H, W]`` of images of that size, row by row on demand."""

    def score_rows(self, images: Tensor) -> RowMap:
        """Return scores ``[B, classes, H, W]`` of images of that size, row by row on demand."""
        return self.rows_of(self.outputs(images), (images.shape[2], images.shape[3]))

    def score_each(
        self, images: Tensor, sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[RowMap]:
        """Return scores ``[1, classes, H_i, W_i]`` of images of different sizes.

        Parameters
        ----------
        images : Tensor
            ``[B, 3, H, W]``, smaller ones padded with zeros at right and bottom
            (:func:`~transnext_models.dense.batches.pad_images`). As in training padding is input
            like any other: the more there is, the more it changes the scores nearby.
        sizes : sequence of (int, int), optional
            Height and width of each image without padding; that of the batch unless given.
        """
        padded = (images.shape[2], images.shape[3])
        outputs = self.outputs(images)
        return [
            self.rows_of(tuple(x[i : i + 1] for x in outputs), padded).cropped(size)
            for i, size in enumerate(check_sizes(images, sizes))
        ]

    @abstractmethod
    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the losses of a batch.

        Parameters
        ----------
        images : Tensor
            ``[B, 3, H, W]``, normalised.
        labels : Tensor
            ``[B, H, W]`` integers: 0…classes-1, 255 for pixels without a class.

        Returns
        -------
        dict
            By the published names, weighted; the total is the sum of those with ``loss`` in the
            name (:func:`total_loss`). Accuracies are in percent.
        """

    def check_labels(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return labels as int64, which must be of the images' size and of known classes."""
        wanted = (images.shape[0], *images.shape[2:])
        if tuple(labels.shape) != wanted or labels.is_floating_point():
            raise ValueError(
                f"labels: got {labels.dtype} {tuple(labels.shape)}, needs integers {wanted}"
            )
        labels = labels.long()
        if labels.device.type == "cpu":  # elsewhere, looking would wait for the device
            strange = (labels != IGNORED) & ((labels < 0) | (labels >= self.num_classes))
            if strange.any():
                raise ValueError(
                    f"labels: got class {int(labels[strange][0])}, "
                    f"needs 0…{self.num_classes - 1}, or {IGNORED} for none"
                )
        return labels


class UPerNet(SegmentationModel):
    """UPerNet (Xiao et al., ECCV 2018, arXiv 1807.10221) on TransNeXt.

    In training on several devices its BatchNorms are to be synchronised, as they were:
    :meth:`torch.nn.SyncBatchNorm.convert_sync_batchnorm`, Lightning's ``sync_batchnorm=True``.

    Parameters
    ----------
    backbone : TransNeXt
        With ``features_only=True`` and all four maps.
    num_classes : int
        Classes.
    auxiliary_weight : float
        Of the auxiliary head's loss.
    channels, auxiliary_channels : int
        Width of the head and of the auxiliary one.
    """

    def __init__(
        self,
        backbone: TransNeXt,
        num_classes: int = 150,
        *,
        auxiliary_weight: float = 0.4,
        channels: int = 512,
        auxiliary_channels: int = 256,
    ) -> None:
        super().__init__(backbone, num_classes)
        self.auxiliary_weight = auxiliary_weight
        self.decode_head = UPerNetHead(self.widths, num_classes, channels)
        self.auxiliary_head = AuxiliaryHead(self.widths[2], num_classes, auxiliary_channels)

    def forward_logits(self, images: Tensor) -> Tensor:
        """Return logits ``[B, classes, ⌈H/4⌉, ⌈W/4⌉]`` at stride 4."""
        return self.decode_head(self.backbone(images))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``[B, classes, H, W]``."""
        logits = self.forward_logits(images)
        return F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)

    def outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the logits at stride 4."""
        return (self.forward_logits(images),)

    def rows_of(self, outputs: tuple[Tensor, ...], size: tuple[int, int]) -> RowMap:
        """Return logits, row by row on demand."""
        (logits,) = outputs
        return RowMap.of(_precise(logits)).resized(size)

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the losses of both heads, and their accuracies; see the base class."""
        labels = self.check_labels(images, labels)
        maps = self.backbone(images)
        logits, auxiliary = self.decode_head(maps), self.auxiliary_head(maps[2])
        return {
            "decode.loss_ce": pixel_cross_entropy(logits, labels),
            "decode.acc_seg": pixel_accuracy(logits, labels),
            "aux.loss_ce": self.auxiliary_weight * pixel_cross_entropy(auxiliary, labels),
            "aux.acc_seg": pixel_accuracy(auxiliary, labels),
        }


class Mask2Former(SegmentationModel):
    """Mask2Former (Cheng et al., CVPR 2022, arXiv 2112.01527) for semantic segmentation.

    Parameters
    ----------
    backbone : TransNeXt
        With ``features_only=True`` and all four maps.
    num_classes, num_queries : int
        Classes, and queries that each find one segment.
    channels : int
        Width of queries and memories, a multiple of 32.
    """

    def __init__(
        self,
        backbone: TransNeXt,
        num_classes: int = 150,
        *,
        num_queries: int = 100,
        channels: int = 256,
    ) -> None:
        super().__init__(backbone, num_classes)
        self.decode_head = Mask2FormerHead(self.widths, num_classes, num_queries, channels)

    def forward_queries(self, images: Tensor) -> QueryPrediction:
        """Return what each query answers after the last layer."""
        return self.decode_head(self.backbone(images))[-1]

    def forward(self, images: Tensor) -> Tensor:
        """Return scores ``[B, classes, H, W]``: the sum over queries of class times mask."""
        classes, masks = self.forward_queries(images)
        masks = F.interpolate(masks, images.shape[2:], mode="bilinear", align_corners=False)
        return _semantic(classes, masks)

    def outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return class and mask logits of the queries."""
        return self.forward_queries(images)

    def rows_of(self, outputs: tuple[Tensor, ...], size: tuple[int, int]) -> RowMap:
        """Return scores, row by row on demand."""
        classes, masks = outputs
        resized = RowMap.of(_precise(masks)).resized(size)
        return resized.map(lambda rows: _semantic(classes, rows), self.num_classes)

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the losses of all ten predictions; see the base class.

        Those of the last are ``decode.loss_cls``, ``decode.loss_mask`` and ``decode.loss_dice``,
        those before ``decode.d0.loss_cls`` and so on. Points are drawn from PyTorch's generator.
        """
        segments = [segments_of(image) for image in self.check_labels(images, labels)]
        *earlier, last = self.decode_head(self.backbone(images))
        losses = {}
        for i, prediction in enumerate(earlier):
            for name, value in mask_losses(prediction, segments).items():
                losses[f"decode.d{i}.{name}"] = value
        for name, value in mask_losses(last, segments).items():
            losses[f"decode.{name}"] = value
        return losses


def total_loss(losses: dict[str, Tensor]) -> Tensor:
    """Return the sum of the losses among what :meth:`SegmentationModel.loss` returns."""
    return torch.stack([value for name, value in losses.items() if "loss" in name]).sum()


def _semantic(classes: Tensor, masks: Tensor) -> Tensor:
    """Return ``[B, classes, H, W]`` of class logits and mask logits, in float32 at least."""
    masks = _precise(masks)
    shares = classes.to(masks.dtype).softmax(-1)[..., :-1]
    with torch.autocast(masks.device.type, enabled=False):  # it would round the sum
        return torch.einsum("bqc,bqhw->bchw", shares, masks.sigmoid())


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
