"""Detect objects on image files with a model by name: one result or error for each file."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from ..classification.classifier import NOT_FINITE, resolve_device
from ..dense.batches import fitted, pad_images
from ..dense.classes import category_ids, class_names
from ..dense.found_objects import FoundObjects
from ..dense_registry import create_dense_model
from ..dense_runner import DenseRunner, Labels, open_weights
from ..detection import DINO, Detections, MaskRCNN
from ..images import Batch, DecodedBatches, ImageError, Picture, decoded_batches
from .objects import DetectedObject
from .pictures import draw_objects

__all__ = ["DEFAULT_MODEL", "Detected", "Detector"]

DEFAULT_MODEL = "maskrcnn_transnext_pico"
_RGB_BYTES = 8  # of a pixel: decoded, and as an array
_RESIZED_BYTES = 12  # of a pixel: three floats, or three integers while only rows are resized


@dataclass(frozen=True, slots=True)
class Detected:
    """The result for one image.

    Attributes
    ----------
    path : Path
        The image file; of an image that has no path, its kind and place, such as ``<array 3>``.
    image : PIL.Image.Image
        The image, upright, RGB.
    objects : tuple[DetectedObject, ...]
        The surest first.
    found : FoundObjects
        The same as arrays, as evaluation and COCO's files take them.
    seconds : float
        The model's time for it: that of its batch, divided by the images in the batch.
    """

    path: Path
    image: Image.Image
    objects: tuple[DetectedObject, ...]
    found: FoundObjects
    seconds: float

    def picture(self, palette: np.ndarray, *, legend: bool = True) -> Image.Image:
        """Return the image with boxes, masks, names and scores; see :func:`draw_objects`."""
        return draw_objects(self.image, self.objects, palette, legend=legend)


class _Prepared(NamedTuple):
    image: Image.Image
    view: torch.Tensor


class Detector(DenseRunner[MaskRCNN | DINO]):
    """A detector with its weights and names of classes, ready on a device.

    Attributes
    ----------
    model : MaskRCNN | DINO
        In evaluation mode on the device.
    name : str
        ``architecture.tag`` of the model.
    weights : Path | None
        The file the weights came from.
    class_names : list of str
        Names, by index.
    palette : ndarray
        Colours, ``[classes, 3]`` uint8.
    category_ids : list of int
        The classes' numbers in COCO's files.
    scale : (int, int)
        Images are resized to fit into (long side, short side).
    device : torch.device
        Where the model is.
    """

    def __init__(
        self,
        model: MaskRCNN | DINO,
        *,
        labels: Labels | None = None,
        scale: tuple[int, int] = (1333, 800),
        name: str = "",
        weights: Path | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(model, labels, device, name=name, weights=weights)
        self.scale = scale
        # Whatever the caller calls them, their numbers are those of the weights.
        self.category_ids = category_ids(model.class_names or class_names(model.num_classes))

    @classmethod
    def load(
        cls,
        model: str | None = None,
        weights: str | os.PathLike[str] | None = None,
        *,
        key: str | None = None,
        labels: Labels | None = None,
        device: str = "auto",
        **options: Any,
    ) -> Detector:
        """Build a detector.

        Parameters
        ----------
        model : str | None
            A model's name, such as ``dino_5scale_base``. None is the one that `weights` are of, or
            else the small one of this package.
        weights : str | path | None
            A file, or a file on the Hub (see `hub.resolve_weights`); None is the model's own.
        key : str | None
            Which state dict, where the file has several (see `checkpoints.read_weights`).
        labels : sequence of str | path | None
            Names of the classes, or a file with them (see `label_files.read_labels`). None are
            those of the weights, or else COCO's for 80 of them.
        device : str
            ``auto`` (CUDA, else Apple's GPU, else the CPU) or a torch device such as ``cuda:1``.
        **options
            Parameters of the backbone, over the published ones.

        Raises
        ------
        ValueError, RuntimeError
            If a name, file or device cannot be used; the message says which and why.
        """
        target = resolve_device(device)
        opened = open_weights("detect", DEFAULT_MODEL, model, weights, key)
        published = opened.published
        built = create_dense_model(published.full_name, weights=opened.weights, **options)
        assert isinstance(built, MaskRCNN | DINO)
        return cls(
            built,
            labels=labels,
            scale=published.scale,
            name=published.full_name,
            weights=opened.weights.path,
            device=target,
        )

    def detect(
        self,
        images: Any,
        *,
        batch_size: int = 1,
        threshold: float = 0.3,
        max_objects: int = 100,
        image_memory: int | None = None,
    ) -> Iterator[Detected | ImageError]:
        """Yield a result, or the error of what is no image, for each image in order.

        At most two batches of images are in memory: one in the model, one being decoded.

        Parameters
        ----------
        images : Any
            One image or any number: paths, bytes, PIL images, arrays, tensors; see
            :meth:`Classifier.classify`.
        batch_size : int
            Images in the model at a time, padded to the largest of them.
        threshold : float
            Objects of lower scores are left out, 0…1. Mask R-CNN itself leaves out those up to
            0.05.
        max_objects : int
            The most of an image; Mask R-CNN has at most 100 itself, DINO 300.
        image_memory : int | None
            Bytes that decoding may take; None is `images.DECODING_BYTES`.

        Raises
        ------
        TypeError
            If `images`, or one of them, is nothing of this.
        ValueError
            If a number is not in its range.
        RuntimeError
            If the device runs out of memory.
        """
        for name, value in (("batch_size", batch_size), ("max_objects", max_objects)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: got {value!r}, needs an int of at least 1")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold: got {threshold!r}, needs 0…1")
        batches = decoded_batches(
            images,
            self._prepare,
            self._working_bytes,
            batch_size=batch_size,
            image_memory=image_memory,
        )
        return self._detect(batches, threshold, max_objects)

    def _prepare(self, picture: Picture) -> _Prepared:
        image = picture.rgb()
        return _Prepared(image, fitted(np.asarray(image), self.scale))

    def _working_bytes(self, size: tuple[int, int]) -> int:
        width, height = size
        side = max(self.scale)
        # Rows are resized first, to integers of 4 bytes, then columns.
        return _RGB_BYTES * width * height + _RESIZED_BYTES * side * (height + 2 * side)

    def _detect(
        self, batches: DecodedBatches[_Prepared], threshold: float, most: int
    ) -> Iterator[Detected | ImageError]:
        with contextlib.closing(iter(batches)) as decoded:
            for batch in decoded:
                yield from self._detect_batch(batch, threshold, most)

    def _detect_batch(
        self, batch: Batch[_Prepared], threshold: float, most: int
    ) -> Iterator[Detected | ImageError]:
        prepared = [item for _, item in batch if isinstance(item, _Prepared)]
        results = iter(self._answers(prepared, threshold, most) if prepared else ())
        for path, item in batch:
            if isinstance(item, ImageError):
                yield item
                continue
            answer, seconds = next(results)
            if answer is None:
                yield ImageError(path, NOT_FINITE)
                continue
            started = time.perf_counter()
            found = answer.found(str(path), (item.image.height, item.image.width))
            seconds += time.perf_counter() - started
            yield Detected(path, item.image, self._objects(found), found, seconds)

    @torch.inference_mode()
    def _answers(
        self, prepared: Sequence[_Prepared], threshold: float, most: int
    ) -> list[tuple[Detections | None, float]]:
        """Return what was found, on the CPU, and the time for each of the images.

        It is None where the model's output is not finite.
        """
        started = time.perf_counter()
        model = self.model
        try:
            views = [item.view.to(self.device) for item in prepared]
            originals = [(item.image.height, item.image.width) for item in prepared]
            if isinstance(model, MaskRCNN):
                images, sizes = pad_images(views, model.pad_divisor)
                answers = model(images, sizes, originals, paste=False)
            else:
                images, sizes = pad_images(views)
                answers = model(images, sizes, originals)
            kept = [self._kept(answer, threshold, most) for answer in answers]
        except torch.OutOfMemoryError as error:
            height, width = (max(view.shape[axis] for view in views) for axis in (1, 2))
            raise RuntimeError(
                f"out of memory on {self.device} with {len(prepared)} images of up to "
                f"{width}x{height}; use a smaller batch size"
            ) from error
        seconds = (time.perf_counter() - started) / len(prepared)
        return [(answer, seconds) for answer in kept]

    @staticmethod
    def _kept(answer: Detections, threshold: float, most: int) -> Detections | None:
        if not (answer.scores.isfinite().all() and answer.boxes.isfinite().all()):
            return None
        count = min(most, int((answer.scores >= threshold).sum()))
        masks = None if answer.masks is None else answer.masks[:count].cpu()
        boxes, scores, labels = (part[:count].cpu() for part in answer[:3])
        return Detections(boxes, scores, labels, masks)

    def _objects(self, found: FoundObjects) -> tuple[DetectedObject, ...]:
        masks = found.masks or (None,) * len(found.scores)
        rows = zip(
            found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), masks, strict=True
        )
        return tuple(
            DetectedObject(index, self.class_names[index], score, tuple(box), mask)
            for index, score, box, mask in rows
        )
