"""Segment image files with a model by name: one label map or error for each file."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..classification.classifier import NOT_FINITE, resolve_device
from ..dense.batches import normalise
from ..dense.opencv_resize import fitting_size, resize_bilinear
from ..dense.published import find_dense_model
from ..images import DECODING, DecodedBatches, ImageError, MemoryBudget, Picture, images_of
from ..registry import create_model
from ..segmentation import MULTI_SCALE, SLIDE, WHOLE, WHOLE_PADDED, Inference, SegmentationModel
from ..variants import MIN_SIZE
from .pictures import class_names, colours, overlay

__all__ = ["INFERENCE", "Segmented", "Segmentor"]

INFERENCE = {"whole": WHOLE, "slide": SLIDE, "multi_scale": MULTI_SCALE}
_MULTI_SCALE_SIDE = 800  # of the training grid, as the published multi-scale results have it
_RGB_BYTES = 8  # of a pixel: decoded, and as an array


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
    classes : dict
        Name and share of the pixels, 0…1, of each class that is there, the largest first.
    seconds : float
        The model's time.
    """

    path: Path
    image: Image.Image
    labels: NDArray[np.int64]
    classes: dict[str, float]
    seconds: float

    def picture(self, palette: NDArray[np.uint8], share: float = 0.5) -> Image.Image:
        """Return the image with the classes' colours over it; see :func:`overlay`."""
        return overlay(self.image, self.labels, palette, share)


class Segmentor:
    """A segmentation model with its weights and names of classes, ready on a device.

    Attributes
    ----------
    model : SegmentationModel
        In evaluation mode on the device.
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
        names: Sequence[str] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.class_names = list(names or model.class_names or class_names(model.num_classes))
        if len(self.class_names) != model.num_classes:
            raise ValueError(
                f"names: got {len(self.class_names)}, needs the model's {model.num_classes}"
            )
        self.device = torch.device(device)
        self.model = model.to(self.device).freeze()
        self.inference = inference
        self.palette = colours(model.num_classes)

    @classmethod
    def load(
        cls,
        model: str = "upernet_transnext_tiny",
        weights: str | os.PathLike[str] | None = None,
        *,
        mode: str | None = None,
        names: Sequence[str] | None = None,
        device: str = "auto",
        **options: Any,
    ) -> Segmentor:
        """Build a segmentor.

        Parameters
        ----------
        model : str
            A model's name, such as ``mask2former_transnext_base``.
        weights : str | path | None
            A file, or a file on the Hub (see `hub.resolve_weights`); None is the published one.
        mode : {"whole", "slide", "multi_scale"} | None
            The image at once; windows of 512 x 512; six scales, each mirrored as well. None is the
            published one: slide for UPerNet, whole (padded to multiples of 32) for Mask2Former.
        names : sequence of str | None
            Of the classes; None is those of the weights, or ADE20K's for 150 of them.
        device : str
            ``auto`` (CUDA, else Apple's GPU, else the CPU) or a torch device such as ``cuda:1``.
        **options
            Parameters of the backbone, over the published ones.

        Raises
        ------
        ValueError, RuntimeError
            If a name, file, mode or device cannot be used; the message says which and why.
        """
        known = find_dense_model(model)
        method = known.method
        if method.task != "segment":
            raise ValueError(f"model: got {model!r}, needs a segmentor: upernet or mask2former")
        if mode is not None and mode not in INFERENCE:
            raise ValueError(f"mode: got {mode!r}, needs one of {', '.join(INFERENCE)}")
        published_mode = "slide" if method.name == "upernet" else "whole"
        inference = INFERENCE[mode or published_mode]
        if method.name == "mask2former" and inference == WHOLE:
            inference = WHOLE_PADDED
        inference = replace(inference, scale=known.scale)
        if inference.averages and method.name == "upernet":
            options = {"img_size": _MULTI_SCALE_SIDE} | options
        target = resolve_device(device)
        built = create_model(model, pretrained=weights is None, weights=weights, **options)
        assert isinstance(built, SegmentationModel)
        return cls(built, inference, names=names, device=target)

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
        decoded = DecodedBatches(
            images_of("images", images),
            Picture.rgb,
            lambda size: _RGB_BYTES * size[0] * size[1],
            batch_size=1,
            budget=DECODING if image_memory is None else MemoryBudget(image_memory),
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
            views = [self._view(pixels, scale) for scale in self.inference.scales()]
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
        shares = {self.class_names[index]: float(counts[index] / found.size) for index in present}
        return Segmented(path, image, found, shares, time.perf_counter() - started)

    def _view(self, pixels: NDArray[np.uint8], scale: tuple[int, int]) -> torch.Tensor:
        """Return the normalised image that fits into ``scale``, no side below the least."""
        height, width = fitting_size((pixels.shape[0], pixels.shape[1]), scale)
        size = max(height, MIN_SIZE), max(width, MIN_SIZE)
        resized = torch.from_numpy(resize_bilinear(pixels, size)).to(self.device)
        return normalise(resized.permute(2, 0, 1))[None]
