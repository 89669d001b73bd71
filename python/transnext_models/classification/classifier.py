"""Classify image files with a model by name, in batches, one result or error for each file."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from transnext_ops.backends import registry as backends

from ..checkpoints import WeightsFile
from ..checkpoints import class_names as own_class_names
from ..checkpoints.errors import file_error
from ..images import Batch, DecodedBatches, ImageError, decoded_batches
from ..registry import load_model
from ..transnext import TransNeXt
from .label_files import labels_of
from .labels import class_names
from .preprocess import Preprocess

DEFAULT_MODEL = "transnext_pico"
NOT_FINITE = "the model's output for it is not finite: damaged weights, or an overflow"
_WARM_UP_SIZE = 64
_CHANNELS = 3


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class of a result, with its probability in 0..1."""

    index: int
    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Classified:
    """The result for one image.

    Attributes
    ----------
    path : Path
        The image file; of an image that has no path, its kind and place, such as ``<array 3>``.
    predictions : tuple[Prediction, ...]
        The most probable classes, best first.
    seconds : float
        The model's time for it: that of its batch, divided by the images in the batch.
    """

    path: Path
    predictions: tuple[Prediction, ...]
    seconds: float


class Classifier:
    """A model with its weights, labels and preprocessing, ready on a device.

    Attributes
    ----------
    name : str
        ``architecture.tag`` of the preset whose preprocessing and labels are used.
    weights : Path
        The file the weights came from.
    model, preprocess, labels, device : TransNeXt, Preprocess, Sequence[str], torch.device
        Its parts; the model is in evaluation mode on the device.
    """

    def __init__(
        self,
        model: TransNeXt,
        preprocess: Preprocess,
        labels: Sequence[str],
        *,
        name: str,
        weights: Path,
        device: torch.device,
    ) -> None:
        self.name = name
        self.weights = weights
        self.preprocess = preprocess
        self.labels = list(labels)
        self.device = device
        self.model = model.to(device).freeze()

    @classmethod
    def load(
        cls,
        model: str | None = None,
        weights: str | os.PathLike[str] | None = None,
        *,
        key: str | None = None,
        labels: str | os.PathLike[str] | Sequence[str] | None = None,
        size: int | None = None,
        device: str = "auto",
        backend: str | None = None,
    ) -> Classifier:
        """Build a classifier.

        Parameters
        ----------
        model : str | None
            A model's name, or a shared one (``hf-hub:owner/repo``, ``local-dir:PATH``). None is the
            one that `weights` belong to, or else ``transnext_pico``.
        weights : str | os.PathLike[str] | None
            A file, a published name or a file on the Hub (see `hub.resolve_weights`). None is the
            model's published weights.
        key : str | None
            Which state dict, where the file has several (see `checkpoints.read_weights`).
        labels : str | os.PathLike[str] | Sequence[str] | None
            Names of the classes, or a file with them (see `label_files.read_labels`), for weights
            of other trainers. None are those that the weights carry, or the preset's.
        size : int | None
            Side of the images that the model gets, at least 32; None is what it was trained at.
        device : str
            ``auto`` (CUDA, else Apple's GPU, else the CPU) or a torch device such as ``cuda:1``.
        backend : str | None
            Operator backend; None is the one in force (see `transnext_ops.set_backend`).

        Raises
        ------
        ValueError, RuntimeError
            If a name, file, device or backend cannot be used; the message says which and why.
        """
        target = resolve_device(device)
        if backend is not None:
            with backends.use_backend(backend):  # raises for a backend that cannot run here
                pass
        source = weights if weights is not None else model or DEFAULT_MODEL
        loaded = load_model(model, source, key=key, check=check_channels, backend=backend)
        file, checkpoint = loaded.weights, loaded.checkpoint
        num_classes = loaded.model.num_classes
        if labels is not None:
            names = labels_of(labels, num_classes)
        else:
            names = own_class_names(file) or _names(loaded.model, checkpoint.labels)
        return cls(
            loaded.model,
            Preprocess.of(checkpoint, size if size is not None else loaded.model.img_size),
            names,
            name=f"{loaded.variant.name}.{checkpoint.tag}",
            weights=file.path,
            device=target,
        )

    @property
    def backend(self) -> str:
        """The operator backend that runs the model's attention."""
        return attention_backend(self.model)

    def classify(
        self,
        images: Any,
        *,
        batch_size: int = 8,
        top_k: int = 5,
        image_memory: int | None = None,
    ) -> Iterator[Classified | ImageError]:
        """Yield a result, or the error of what is no image, for each image in order.

        At most two batches of images are in memory: one in the model, one being decoded.

        Parameters
        ----------
        images : Any
            One image, or any number of them: each a path, ``-`` for standard input, the bytes of a
            file, an object open for reading, a PIL image, a NumPy array ``[H, W, C]`` or
            ``[H, W]``, a tensor ``[C, H, W]`` (arrays and tensors of uint8, or floats in 0..1).
            An array or tensor of four dimensions is a batch. Of an iterator so many are taken as
            are needed for the batch in the model and the one after.
        batch_size : int
            Images in the model at a time.
        top_k : int
            Classes of each result.
        image_memory : int | None
            Bytes that decoding may take, over all threads; an image that needs more is an error.
            None is `images.DECODING_BYTES`, shared by all that goes on in the process.

        Raises
        ------
        TypeError
            If `images`, or one of them, is nothing of this.
        ValueError
            If a number is not positive.
        RuntimeError
            If the device runs out of memory.
        """
        for name, value in (("batch_size", batch_size), ("top_k", top_k)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: got {value!r}, needs an int of at least 1")
        batches = decoded_batches(
            images,
            self.preprocess,
            self.preprocess.working_bytes,
            batch_size=batch_size,
            image_memory=image_memory,
        )
        return self._classify(batches, top_k)

    def _classify(
        self, batches: DecodedBatches[torch.Tensor], top_k: int
    ) -> Iterator[Classified | ImageError]:
        self._warm_up()
        with contextlib.closing(iter(batches)) as decoded:
            for batch in decoded:
                yield from self._classify_batch(batch, top_k)

    def _classify_batch(
        self, prepared: Batch[torch.Tensor], top_k: int
    ) -> Iterator[Classified | ImageError]:
        images = [item for _, item in prepared if isinstance(item, torch.Tensor)]
        results = self._predict(images, top_k) if images else iter(())
        for name, item in prepared:
            if isinstance(item, ImageError):
                yield item
                continue
            predictions, seconds = next(results)
            if predictions:
                yield Classified(name, predictions, seconds)
            else:
                yield ImageError(name, NOT_FINITE)

    def _predict(
        self, images: Sequence[torch.Tensor], top_k: int
    ) -> Iterator[tuple[tuple[Prediction, ...], float]]:
        """Return (predictions, seconds) for each of the images.

        There are no predictions where the model's output is not finite.
        """
        started = time.perf_counter()
        rows = self.predict(torch.stack(list(images)), top_k)
        seconds = (time.perf_counter() - started) / len(images)
        return iter([(row, seconds) for row in rows])

    @torch.inference_mode()
    def predict(self, images: torch.Tensor, top_k: int = 5) -> list[tuple[Prediction, ...]]:
        """Return the most probable classes of prepared images, best first.

        Parameters
        ----------
        images : torch.Tensor
            ``[B, 3, H, W]``, each as `preprocess` makes it.
        top_k : int
            Classes of each result.

        Returns
        -------
        list of tuples of Prediction
            One tuple for each image, empty where the model's output is not finite.

        Raises
        ------
        RuntimeError
            If the device runs out of memory.
        """
        try:
            logits = self.model(images.to(self.device))
            top = logits.float().softmax(-1).topk(min(top_k, logits.shape[-1]))
            values, indices = top.values.tolist(), top.indices.tolist()  # waits for the device
        except torch.OutOfMemoryError as error:
            count, _, height, width = images.shape
            raise RuntimeError(
                f"out of memory on {self.device} with a batch of {count} images of "
                f"{height}x{width}; use a smaller batch size"
            ) from error
        return [
            self._predictions(row_indices, row_values)
            for row_indices, row_values in zip(indices, values, strict=True)
        ]

    def _predictions(
        self, indices: Sequence[int], probabilities: Sequence[float]
    ) -> tuple[Prediction, ...]:
        if not all(map(math.isfinite, probabilities)):
            return ()
        return tuple(
            Prediction(index, self.labels[index], probability)
            for index, probability in zip(indices, probabilities, strict=True)
        )

    @torch.inference_mode()
    def _warm_up(self) -> None:
        """Run once, so that the first image's time is not that of loading libraries.

        On the CPU a small image will do; on a GPU kernels are chosen by size.
        """
        on_cpu = self.device.type == "cpu"
        side = min(self.preprocess.size, _WARM_UP_SIZE) if on_cpu else self.preprocess.size
        self.model(torch.zeros(1, _CHANNELS, side, side, device=self.device)).sum().item()


def attention_backend(model: TransNeXt, dtype: torch.dtype | None = None) -> str:
    """Return the operator backend that runs a model's attention where it is, on its own type.

    `dtype` is the type of the features, where that is another one.
    """
    requested = model.backend or backends.get_backend()
    parameter = next(model.parameters())
    attention = model.stages()[0].blocks[0].attn
    call = backends.Call(
        "aggregated_attention",
        parameter.device,
        dtype or parameter.dtype,
        attention.head_dim,
        attention.window_size or 0,
    )
    return backends.resolve(requested, call)


def resolve_device(name: str) -> torch.device:
    """Return the torch device called `name`, which must be usable; ``auto`` is the best here."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"device: got {name!r}, needs one of auto, cpu, cuda, cuda:N, mps"
        ) from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            has = f"{count} CUDA device{'s' * (count != 1)}" if count else "no CUDA device"
            raise ValueError(f"device: got {name!r}, needs one that is here: torch sees {has}")
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device: got {name!r}, needs an Apple GPU: torch sees none here")
    elif device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device: got {name!r}, needs one of auto, cpu, cuda, cuda:N, mps")
    return device


def _names(model: TransNeXt, labels: str) -> list[str]:
    """Return the names that a shared model's configuration has, or else those of the preset."""
    names = model.pretrained_cfg.get("label_names", ())
    if len(names) == model.num_classes:
        return list(names)
    return class_names(labels, model.num_classes)


def check_channels(file: WeightsFile) -> None:
    """Raise CheckpointError for weights whose images are not RGB."""
    if file.architecture is not None and file.architecture.in_chans != _CHANNELS:
        raise file_error(
            file.path, f"its images have {file.architecture.in_chans} channels; RGB has 3"
        )
