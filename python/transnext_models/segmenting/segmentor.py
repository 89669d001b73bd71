"""Segment image files with a model by name: one label map or error for each file."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..classification.classifier import NOT_FINITE, resolve_device
from ..dense.batches import fitted
from ..dense_registry import create_dense_model
from ..dense_runner import DenseRunner, Labels, open_weights
from ..images import DecodedBatches, ImageError, Picture, decoded_batches
from ..segmentation import MULTI_SCALE, SLIDE, WHOLE, WHOLE_PADDED, Inference, SegmentationModel
from .pictures import draw_classes

__all__ = ["DEFAULT_MODEL", "INFERENCE", "ClassShare", "Segmented", "Segmentor"]

DEFAULT_MODEL = "upernet_transnext_pico"
INFERENCE = {"whole": WHOLE, "slide": SLIDE, "multi_scale": MULTI_SCALE}
_MULTI_SCALE_SIDE = 800  # of the training grid, as the published multi-scale results have it
_RGB_BYTES = 8  # of a pixel: decoded, and as an array


@dataclass(frozen=True, slots=True)
class ClassShare:
    """One class of a result, with its share of the pixels, 0…1."""

    index: int
    label: str
    share: float


@dataclass(frozen=True, slots=True)
class Segmented:
    """The result for one image.

    Attributes
    ----------
    path : Path
        The image file; of an image that has no path, its kind and place, such as ``<array 3>``.
    image : PIL.Image.Image
        The image, upright, RGB.
    labels : ndarray
        ``[H, W]`` int64 of the image's size: the class of each pixel.
    classes : tuple[ClassShare, ...]
        Those that are there, the largest first.
    seconds : float
        The model's time.
    """

    path: Path
    image: Image.Image
    labels: NDArray[np.int64]
    classes: tuple[ClassShare, ...]
    seconds: float

    def picture(self, palette: NDArray[np.uint8], rows: int | None = None) -> Image.Image:
        """Return the image with the classes' colours over it, and a legend; see `draw_classes`."""
        classes = [(item.index, item.label, item.share) for item in self.classes]
        return draw_classes(self.image, self.labels, classes, palette, rows=rows)


class Segmentor(DenseRunner[SegmentationModel]):
    """A segmentation model with its weights and names of classes, ready on a device.

    Attributes
    ----------
    model : SegmentationModel
        In evaluation mode on the device.
    name : str
        ``architecture.tag`` of the model.
    weights : Path | None
        The file the weights came from.
    inference : Inference
        How an image becomes scores.
    class_names : list of str
        Names, by index.
    palette : ndarray
        Colours, ``[classes, 3]`` uint8.
    device : torch.device
        Where the model is.
    """

    def __init__(
        self,
        model: SegmentationModel,
        inference: Inference,
        *,
        labels: Labels | None = None,
        name: str = "",
        weights: Path | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(model, labels, device, name=name, weights=weights)
        self.inference = inference

    @classmethod
    def load(
        cls,
        model: str | None = None,
        weights: str | os.PathLike[str] | None = None,
        *,
        key: str | None = None,
        mode: str | None = None,
        labels: Labels | None = None,
        device: str = "auto",
        **options: Any,
    ) -> Segmentor:
        """Build a segmentor.

        Parameters
        ----------
        model : str | None
            A model's name, such as ``mask2former_transnext_base``. None is the one that `weights`
            are of, or else the small one of this package.
        weights : str | path | None
            A file, or a file on the Hub (see `hub.resolve_weights`); None is the model's own.
        key : str | None
            Which state dict, where the file has several (see `checkpoints.read_weights`).
        mode : {"whole", "slide", "multi_scale"} | None
            The image at once; windows of 512 x 512; six scales, each mirrored as well. None is the
            published one: slide for UPerNet, whole (padded to multiples of 32) for Mask2Former.
        labels : sequence of str | path | None
            Names of the classes, or a file with them (see `label_files.read_labels`). None are
            those of the weights, or else ADE20K's for 150 of them.
        device : str
            ``auto`` (CUDA, else Apple's GPU, else the CPU) or a torch device such as ``cuda:1``.
        **options
            Parameters of the backbone, over the published ones.

        Raises
        ------
        ValueError, RuntimeError
            If a name, file, mode or device cannot be used; the message says which and why.
        """
        if mode is not None and mode not in INFERENCE:
            raise ValueError(f"mode: got {mode!r}, needs one of {', '.join(INFERENCE)}")
        target = resolve_device(device)
        opened = open_weights("segment", DEFAULT_MODEL, model, weights, key)
        published, method = opened.published, opened.published.method.name
        inference = INFERENCE[mode or ("slide" if method == "upernet" else "whole")]
        if method == "mask2former" and inference == WHOLE:
            inference = WHOLE_PADDED
        inference = replace(inference, scale=published.scale)
        if inference.averages and method == "upernet":
            options = {"img_size": _MULTI_SCALE_SIDE} | options
        built = create_dense_model(published.full_name, weights=opened.weights, **options)
        assert isinstance(built, SegmentationModel)
        return cls(
            built,
            inference,
            labels=labels,
            name=published.full_name,
            weights=opened.weights.path,
            device=target,
        )

    def segment(
        self, images: Any, *, image_memory: int | None = None
    ) -> Iterator[Segmented | ImageError]:
        """Yield a result, or the error of what is no image, for each image in order.

        Parameters
        ----------
        images : Any
            One image or any number: paths, bytes, PIL images, arrays, tensors; see
            :meth:`Classifier.classify`.
        image_memory : int | None
            Bytes that decoding may take; None is `images.DECODING_BYTES`.

        Raises
        ------
        TypeError
            If `images`, or one of them, is nothing of this.
        RuntimeError
            If the device runs out of memory.
        """
        decoded = decoded_batches(
            images,
            Picture.rgb,
            lambda size: _RGB_BYTES * size[0] * size[1],
            batch_size=1,
            image_memory=image_memory,
        )
        return self._segment(decoded)

    def _segment(self, batches: DecodedBatches[Image.Image]) -> Iterator[Segmented | ImageError]:
        with contextlib.closing(iter(batches)) as decoded:
            for batch in decoded:
                for path, item in batch:
                    yield item if isinstance(item, ImageError) else self._result(path, item)

    def _result(self, path: Path, image: Image.Image) -> Segmented | ImageError:
        started = time.perf_counter()
        pixels = np.asarray(image)
        try:
            views = [fitted(pixels, scale, self.device)[None] for scale in self.inference.scales()]
            with torch.inference_mode():
                scores = self.inference.scores(self.model, views, pixels.shape[:2])
                values, labels = scores.best()
        except torch.OutOfMemoryError as error:
            raise RuntimeError(
                f"out of memory on {self.device} with an image of {image.width}x{image.height}"
            ) from error
        if not values.isfinite().all():
            return ImageError(path, NOT_FINITE)
        found = labels[0].cpu().numpy()
        counts = np.bincount(found.ravel(), minlength=len(self.class_names))
        present = sorted(np.flatnonzero(counts), key=lambda index: -counts[index])
        shares = tuple(
            ClassShare(int(index), self.class_names[index], float(counts[index] / found.size))
            for index in present
        )
        return Segmented(path, image, found, shares, time.perf_counter() - started)
