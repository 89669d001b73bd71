"""Classify image files with a model by name, in batches, one result or error for each file."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from transnext_ops.backends import registry as backends

from .checkpoints import CheckpointError, WeightsFile, image_side, read_weights
from .checkpoints import class_names as own_class_names
from .hub import resolve_weights
from .images import ImageError, read_image
from .labels import class_names
from .preprocess import Preprocess
from .registry import build_model
from .transnext import TransNeXt
from .variants import Checkpoint, Variant, find_checkpoint

DEFAULT_MODEL = "transnext_pico"
_DECODING_THREADS = 4
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
    path
        The image file.
    predictions
        The most probable classes, best first.
    seconds
        The model's time for it: that of its batch, divided by the images in the batch.
    """

    path: Path
    predictions: tuple[Prediction, ...]
    seconds: float


class Classifier:
    """A model with its weights, labels and preprocessing, ready on a device.

    Attributes
    ----------
    name
        ``architecture.tag`` of the preset whose preprocessing and labels are used.
    weights
        The file the weights came from.
    model, preprocess, labels, device
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
        self.model = model.eval().to(device)

    @classmethod
    def load(
        cls,
        model: str | None = None,
        weights: str | os.PathLike[str] | None = None,
        *,
        key: str | None = None,
        size: int | None = None,
        device: str = "auto",
        backend: str | None = None,
    ) -> Classifier:
        """Build a classifier.

        Parameters
        ----------
        model
            A model's name. None is the one that `weights` belong to, or else ``transnext_pico``.
        weights
            A file, a published name or a file on the Hub (see `hub.resolve_weights`). None is the
            model's published weights.
        key
            Which state dict, where the file has several (see `checkpoints.read_weights`).
        size
            Side of the images that the model gets, at least 32; None is what it was trained at.
        device
            ``auto`` (CUDA, else Apple's GPU, else the CPU) or a torch device such as ``cuda:1``.
        backend
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
        if model is not None:
            find_checkpoint(model)  # before any download
        source = weights if weights is not None else model or DEFAULT_MODEL
        path = resolve_weights(source)
        file = read_weights(path, key=key)
        if file.architecture is None:
            raise CheckpointError(f"{path}: its entries are not those of a TransNeXt")
        num_classes = file.architecture.num_classes
        if num_classes is None:
            raise CheckpointError(f"{path}: it has no classification head, so it names no classes")
        if file.architecture.in_chans != _CHANNELS:
            raise CheckpointError(
                f"{path}: its images have {file.architecture.in_chans} channels; RGB has 3"
            )
        variant, checkpoint = _preset(model, source, file)
        name = f"{variant.name}.{checkpoint.tag}"
        options: dict[str, Any] = {"backend": backend}
        # Weights of `transnext train` say the sizes they were trained at.
        if (pretrain_size := image_side(file, "pretrain_size")) is not None:
            options["pretrain_size"] = pretrain_size
        network = build_model(variant, checkpoint, file, **options)
        return cls(
            network,
            Preprocess.of(checkpoint, size if size is not None else image_side(file, "img_size")),
            own_class_names(file) or class_names(checkpoint.labels, num_classes),
            name=name,
            weights=path,
            device=target,
        )

    @property
    def backend(self) -> str:
        """The operator backend that runs the model's attention."""
        requested = self.model.backend or backends.get_backend()
        parameter = next(self.model.parameters())
        call = backends.Call("aggregated_attention", self.device, parameter.dtype, 24, 3)
        return backends.resolve(requested, call)

    def classify(
        self, paths: Sequence[str | os.PathLike[str]], *, batch_size: int = 8, top_k: int = 5
    ) -> Iterator[Classified | ImageError]:
        """Yield a result, or the error of a file that is no image, for each path in order.

        At most two batches of images are in memory: one in the model, one being decoded.

        Raises
        ------
        RuntimeError
            If the device runs out of memory.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size: at least 1 is needed, got {batch_size}")
        if top_k < 1:
            raise ValueError(f"top_k: at least 1 is needed, got {top_k}")
        batches = [
            [Path(path) for path in paths[start : start + batch_size]]
            for start in range(0, len(paths), batch_size)
        ]
        self._warm_up()
        threads = min(_DECODING_THREADS, os.cpu_count() or 1)
        pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        try:
            coming = [pool.submit(self._prepare, path) for path in batches[0]] if batches else []
            for index in range(len(batches)):
                prepared = [future.result() for future in coming]
                following = batches[index + 1] if index + 1 < len(batches) else []
                coming = [pool.submit(self._prepare, path) for path in following]
                yield from self._classify_batch(batches[index], prepared, top_k)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _prepare(self, path: Path) -> torch.Tensor | ImageError:
        try:
            return self.preprocess(read_image(path))
        except ImageError as error:
            return error

    def _classify_batch(
        self, paths: Sequence[Path], prepared: Sequence[torch.Tensor | ImageError], top_k: int
    ) -> Iterator[Classified | ImageError]:
        images = [item for item in prepared if isinstance(item, torch.Tensor)]
        results = self._predict(images, top_k) if images else iter(())
        for path, item in zip(paths, prepared, strict=True):
            if isinstance(item, ImageError):
                yield item
            else:
                predictions, seconds = next(results)
                yield Classified(path, predictions, seconds)

    @torch.inference_mode()
    def _predict(
        self, images: Sequence[torch.Tensor], top_k: int
    ) -> Iterator[tuple[tuple[Prediction, ...], float]]:
        """Return an iterator over (predictions, seconds) for each of the images."""
        started = time.perf_counter()
        try:
            logits = self.model(torch.stack(list(images)).to(self.device))
            top = logits.float().softmax(-1).topk(min(top_k, logits.shape[-1]))
            values, indices = top.values.tolist(), top.indices.tolist()  # waits for the device
        except torch.OutOfMemoryError as error:
            side = self.preprocess.size
            raise RuntimeError(
                f"out of memory on {self.device} with a batch of {len(images)} images of "
                f"{side}x{side}; use a smaller batch size"
            ) from error
        seconds = (time.perf_counter() - started) / len(images)
        return iter(
            [
                (tuple(map(self._prediction, row_indices, row_values)), seconds)
                for row_indices, row_values in zip(indices, values, strict=True)
            ]
        )

    def _prediction(self, index: int, probability: float) -> Prediction:
        return Prediction(index, self.labels[index], probability)

    @torch.inference_mode()
    def _warm_up(self) -> None:
        """Run once, so that the first image's time is not that of loading libraries.

        On the CPU a small image will do; on a GPU kernels are chosen by size.
        """
        on_cpu = self.device.type == "cpu"
        side = min(self.preprocess.size, _WARM_UP_SIZE) if on_cpu else self.preprocess.size
        self.model(torch.zeros(1, _CHANNELS, side, side, device=self.device)).sum().item()


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
            f"device: one of auto, cpu, cuda, cuda:N, mps is needed, got {name!r}"
        ) from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            has = f"{count} CUDA device{'s' * (count != 1)}" if count else "no CUDA device"
            raise ValueError(f"device: got {name!r}, but torch sees {has} here")
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device: got {name!r}, but torch sees no Apple GPU here")
    elif device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device: one of auto, cpu, cuda, cuda:N, mps is needed, got {name!r}")
    return device


def _preset(
    model: str | None, source: str | os.PathLike[str], file: WeightsFile
) -> tuple[Variant, Checkpoint]:
    """Return the variant and the published weights whose preprocessing and labels apply.

    They are those of the model's name if one is given, else those that the weights' name says, else
    those of the variant that the weights' shapes show. A name without a tag leaves it to the file's
    name which of the variant's weights they are.
    """
    file_name = file.metadata.get("source_file", file.path.name)
    if model is not None:
        variant, checkpoint = find_checkpoint(model)
        named = [c for c in variant.checkpoints if c.file == file_name and "." not in model]
        return variant, (named or [checkpoint])[0]
    if isinstance(source, str) and not Path(source).is_file():
        with contextlib.suppress(ValueError):  # then it is not a model's name but a Hub file's
            return find_checkpoint(source)
    shown = file.architecture.variant if file.architecture else None
    if shown is None:
        raise CheckpointError(
            f"{file.path}: its shapes are those of no model known by name; say which with --model"
        )
    named = [checkpoint for checkpoint in shown.checkpoints if checkpoint.file == file_name]
    return shown, (named or [shown.default])[0]
