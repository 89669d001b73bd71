"""Scores of a validation during training: average precision of objects, mean IoU of pixels."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeVar

import torch.distributed as dist
from lightning.fabric import Fabric
from torch import nn

from ..dense.found_objects import FoundObjects
from ..dense_data.records import AnnotatedSet
from ..dense_evaluation.average_precision import AveragePrecision, Kind, average_precision
from ..dense_evaluation.mean_iou import PixelCounts, count_pixels, mean_iou
from ..detection import MaskRCNN
from ..segmentation import Inference
from ..training.trained import Measures
from .samples import Validated

__all__ = ["BOX_AP", "MASK_AP", "MIOU", "FoundOnImages", "LabelledPixels"]

BOX_AP, MASK_AP, MIOU = "val_box_ap", "val_mask_ap", "val_miou"

T = TypeVar("T", FoundObjects, PixelCounts)


class FoundOnImages(Measures):
    """Average precision of a detector.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode.
    annotated : AnnotatedSet
        The split.
    with_masks : bool
        Whether masks are compared too.
    """

    def __init__(
        self, model: nn.Module, fabric: Fabric, annotated: AnnotatedSet, with_masks: bool
    ) -> None:
        self._model, self._fabric, self._annotated = model, fabric, annotated
        self._with_masks = with_masks
        # Masks of the image's size would be many for a moment.
        self._how = {"paste": False} if isinstance(model, MaskRCNN) else {}
        self._found: list[FoundObjects] = []

    def add(self, batch: Validated) -> None:
        """Take an image."""
        images = batch.batch
        if images is None:
            return
        pixels = self._fabric.strategy.precision.convert_input(images.images)
        with self._fabric.autocast():
            detected = self._model(pixels, images.sizes, images.original_sizes, **self._how)
        for one, image_id, size in zip(
            detected, images.image_ids, images.original_sizes, strict=True
        ):
            self._found.append(
                (one if self._with_masks else one._replace(masks=None)).found(image_id, size)
            )

    def result(self) -> dict[str, float]:
        """Return `val_box_ap`, `val_box_ap50` and, with masks, `val_mask_ap`."""
        scores = self._scores(_of_all_processes(self._found))
        boxes = scores["box AP"]
        measured = {BOX_AP: _number(boxes.ap), "val_box_ap50": _number(boxes.ap50)}
        if self._with_masks:
            measured[MASK_AP] = _number(scores["mask AP"].ap)
        return measured

    def of_classes(self) -> dict[str, tuple[float, ...]]:
        """Return the scores of the classes by their name, of this process's images."""
        return {name: score.per_class for name, score in self._scores(self._found).items()}

    def _scores(self, found: list[FoundObjects]) -> dict[str, AveragePrecision]:
        ids = {one.image_id for one in found}
        seen = dataclasses.replace(
            self._annotated,
            images=[image for image in self._annotated.images if image.image_id in ids],
        )
        kinds: dict[str, Kind] = {"box AP": "bbox"}
        if self._with_masks:
            kinds["mask AP"] = "segm"
        return {name: average_precision(seen, found, kind) for name, kind in kinds.items()}


class LabelledPixels(Measures):
    """Mean IoU of a segmentor.

    Parameters
    ----------
    inference : Inference
        How an image becomes scores.
    num_classes : int
        Of the set.
    """

    def __init__(self, model: Any, fabric: Fabric, inference: Inference, num_classes: int) -> None:
        self._model, self._fabric = model, fabric
        self._inference, self._num_classes = inference, num_classes
        self._counts: list[PixelCounts] = []

    def add(self, batch: Validated) -> None:
        """Take an image."""
        images, labels = batch.batch, batch.label_map
        if images is None or labels is None:
            return
        height, width = images.sizes[0]
        view = self._fabric.strategy.precision.convert_input(images.images[..., :height, :width])
        with self._fabric.autocast():
            scores = self._inference.scores(self._model, [view], (labels.shape[0], labels.shape[1]))
            _, found = scores.best()
        predicted = found[0].cpu().numpy()
        self._counts.append(count_pixels(images.image_ids[0], predicted, labels, self._num_classes))

    def result(self) -> dict[str, float]:
        """Return `val_miou` and `val_pixel_accuracy`."""
        score = mean_iou(_of_all_processes(self._counts))
        return {MIOU: _number(score.miou), "val_pixel_accuracy": _number(score.aacc)}

    def of_classes(self) -> dict[str, tuple[float, ...]]:
        """Return the scores of the classes by their name, of this process's images."""
        score = mean_iou(self._counts)
        return {"IoU": score.per_class_iou, "accuracy": score.per_class_accuracy}


def _of_all_processes(values: list[T]) -> list[T]:
    """Return the answers of all processes on each of them; RuntimeError without any."""
    if dist.is_available() and dist.is_initialized():
        parts: list[list[T]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(parts, values)
        values = [value for part in parts for value in part]
    if not values:
        raise RuntimeError("--data: no validation image can be read")
    return values


def _number(score: float) -> float:
    """Return a score as JSON has it: 0 where none is defined."""
    return 0.0 if math.isnan(score) else score
