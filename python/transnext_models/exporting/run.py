"""From a model's name to a checked file."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transnext_ops.distribution import install_hint

from ..classification.preprocess import Preprocess
from ..training.durable import remove_unfinished, written_durably
from . import graphs
from .metadata import describe
from .quantise import calibration_images, quantise
from .request import DTYPES, Request
from .runners import OPEN_VINO, Runner, median_seconds, runners_of
from .subject import Labels, Subject, as_tuple, load_subject

__all__ = ["LIMITS", "Check", "ExportError", "Exported", "Speed", "export_model", "export_subject"]

LIMITS = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1, "int8": float("inf")}
"""The largest difference from the PyTorch model in float32, as a part of the largest output, that a
file may have; int8 is judged by its accuracy, which needs labelled images."""
OPEN_VINO_LIMIT = 1e-4
"""The least that is asked of OpenVINO, which need not be able to run a file at all."""

_BATCHES = (1, 3)
_SIZES = ((64, 64), (65, 97), (96, 128), (224, 160), (300, 100))
_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "pt2": (), "torchscript": ()}


class ExportError(RuntimeError):
    """A file computes something else than its model, or cannot be run; it is not written."""


@dataclass(frozen=True)
class Check:
    """One run of a file beside its model.

    Attributes
    ----------
    runner : str
        The library that ran it.
    images : (int, int, int)
        Batch, height and width.
    difference : float
        The largest, as a part of the model's largest output; infinite where it cannot run.
    """

    runner: str
    images: tuple[int, int, int]
    difference: float


@dataclass(frozen=True)
class Speed:
    """Median seconds of one image of the size `images`, in the library `runner`."""

    runner: str
    images: tuple[int, int]
    seconds: float


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes
    ----------
    path, bytes : Path, int
        The file and its length.
    model : str
        ``architecture.tag``.
    metadata : dict
        What the file says about its model, text by name.
    checks, speeds : sequence of Check, Speed
        What was seen of it. The first speed is PyTorch's.
    """

    path: Path
    bytes: int
    model: str
    metadata: dict[str, str]
    checks: Sequence[Check]
    speeds: Sequence[Speed]

    @property
    def difference(self) -> float:
        """The largest of all checks but those of OpenVINO, which has a limit of its own."""
        return max(check.difference for check in self.checks if check.runner != OPEN_VINO)


def export_model(
    model: str | None,
    output: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    key: str | None = None,
    mode: str = "normal",
    features_only: bool = False,
    labels: Labels | None = None,
    progress: Callable[[str], None] = lambda _: None,
    **request: Any,
) -> Exported:
    """Write a model as a file that needs PyTorch's or ONNX's own operators only.

    The file takes normalised images ``[batch, 3, height, width]`` of any batch, float32, named
    ``images``, and gives ``logits`` (or ``map1`` … of a backbone), float32, whatever it computes
    in. It is run beside the model before it gets its name, and is there whole or not at all.

    Parameters
    ----------
    model : str | None
        A classifier's or UPerNet's name; None is that of the weights.
    output : str | path
        The file; its suffix says the format unless `format` does.
    weights, key : str | path | None, str | None
        As of :func:`transnext_models.create_model`; None are the published ones.
    mode : str
        ``linear``, ``interpolate`` and ``no-length-scaling`` as of ``transnext evaluate``.
    features_only : bool
        The four maps instead of the logits.
    labels : sequence of str | path | None
        Names of the classes, or a file with them; None are those of the weights.
    progress : callable
        Told what is done.
    **request
        ``format``, ``size``, ``dtype``, ``quantize``, ``calibration`` and ``overwrite`` of
        :class:`Request`.

    Returns
    -------
    Exported

    Raises
    ------
    ValueError
        What is asked for cannot be had; names the argument, before any work.
    ExportError
        The file computes something else than the model.
    RuntimeError
        A package is missing, weights cannot be downloaded, or the disk is full.
    """
    wanted = Request(Path(output), **request)
    size = wanted.size if isinstance(wanted.size, tuple) else None
    side = size[0] if size is not None and size[0] == size[1] else None
    subject = load_subject(
        model, weights, key=key, mode=mode, features_only=features_only, side=side, labels=labels
    )
    return export_subject(subject, wanted, progress)


def export_subject(
    subject: Subject, wanted: Request, progress: Callable[[str], None] = lambda _: None
) -> Exported:
    """Write a model that is loaded already; see :func:`export_model`."""
    assert wanted.format is not None
    _check_packages(wanted.format)
    size = wanted.size if isinstance(wanted.size, tuple) else subject.size
    calibration = _calibration(wanted, subject, size)
    about = describe(subject, wanted)
    progress(
        "tracing, which takes a minute or more for free sizes" if wanted.is_dynamic else "tracing"
    )
    content = _content(subject, wanted, size, about)
    if wanted.quantize is not None:
        progress("quantising")
        content = graphs.with_metadata(quantise(content, calibration), about)
    progress("checking")
    runners = list(runners_of(content, wanted.format))
    checks = _checks(subject, runners, wanted, size, calibration)
    progress("timing")
    stuck = {check.runner for check in checks if math.isinf(check.difference)}
    speeds = _speeds(subject, [pair for pair in runners if pair[0] not in stuck], size)
    remove_unfinished(wanted.output)
    with written_durably(wanted.output) as file:
        file.write(content)
    return Exported(wanted.output, len(content), subject.name, about, checks, speeds)


def _check_packages(file_format: str) -> None:
    missing = [package for package in _PACKAGES[file_format] if find_spec(package) is None]
    if missing:
        raise RuntimeError(
            f"format {file_format!r} needs the package {missing[0]}: {install_hint('export')}"
        )


def _content(
    subject: Subject, wanted: Request, size: tuple[int, int], about: dict[str, str]
) -> bytes:
    model = subject.in_dtype(DTYPES[wanted.dtype])
    if wanted.format == "pt2":
        return graphs.pt2_bytes(model, wanted, size, about)
    if wanted.format == "torchscript":
        return graphs.torchscript_bytes(model, wanted, size, about)
    content = graphs.onnx_bytes(model, wanted, size, list(subject.outputs))
    return graphs.with_metadata(content, about)


def _calibration(wanted: Request, subject: Subject, size: tuple[int, int]) -> list[Tensor]:
    if wanted.calibration is None:
        return []
    if "crop_pct" not in subject.preprocess or size[0] != size[1]:
        raise ValueError(
            "calibration: got a folder, which needs a classifier and square images: their "
            "preprocessing is known"
        )
    about = {name: value for name, value in subject.preprocess.items() if name != "input_size"}
    return calibration_images(wanted.calibration, Preprocess(size[0], **about))


@torch.inference_mode()
def _checks(
    subject: Subject,
    runners: Sequence[tuple[str, Runner]],
    wanted: Request,
    size: tuple[int, int],
    calibration: Sequence[Tensor],
) -> list[Check]:
    """Run the file beside the model, on what it was calibrated with, or else on noise."""
    precision = wanted.quantize or wanted.dtype
    generator = torch.Generator().manual_seed(0)
    checks = []
    sizes = _SIZES if wanted.is_dynamic else (size,)
    for (height, width), batch in ((s, b) for s in sizes for b in _BATCHES):
        images = torch.randn(batch, 3, height, width, generator=generator)
        if calibration and not wanted.is_dynamic:
            images = torch.cat(list(calibration[:batch]))
        expected = as_tuple(subject.model(images))
        shape = (len(images), height, width)
        for runner, run in runners:
            try:
                actual = as_tuple(run(images))
            except Exception as error:
                if runner == OPEN_VINO:
                    checks.append(Check(runner, shape, float("inf")))
                    continue
                raise ExportError(
                    f"{runner} cannot run the exported graph on {shape}: {error}"
                ) from error
            difference = max(_difference(*pair) for pair in zip(actual, expected, strict=True))
            limit = LIMITS[precision]
            if runner == OPEN_VINO:
                limit = max(limit, OPEN_VINO_LIMIT)
            if not difference <= limit:
                raise ExportError(
                    f"{runner} is {difference:.1e} of the largest output away from PyTorch on "
                    f"images {shape}, needs {limit:.0e}: nothing was written"
                )
            checks.append(Check(runner, shape, difference))
    return checks


def _difference(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference, as a part of the largest value that is expected."""
    if actual.shape != expected.shape:
        return float("inf")
    largest = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    return float((actual - expected).abs().max() / largest)


def _speeds(
    subject: Subject, runners: Sequence[tuple[str, Runner]], size: tuple[int, int]
) -> list[Speed]:
    images = torch.zeros(1, 3, *size)
    names = ["PyTorch", *(name for name, _ in runners)]
    runs: list[Callable[[Tensor], Any]] = [subject.model, *(run for _, run in runners)]
    seconds = median_seconds(runs, images)
    return [Speed(name, size, value) for name, value in zip(names, seconds, strict=True)]
