"""Effective receptive fields: which pixels a feature depends on, averaged over images.

As RepLKNet (Ding et al., CVPR 2022, section 5) measures them and the TransNeXt paper (figure 8)
shows them, for any model that gives its feature maps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from ..classification.preprocess import Preprocess
from .record import as_batch, preprocess_of

__all__ = [
    "THRESHOLDS",
    "AreaRatio",
    "ReceptiveField",
    "effective_receptive_field",
    "effective_receptive_fields",
    "fields_of_positions",
]

THRESHOLDS = (0.2, 0.3, 0.5, 0.99)
_FAINTEST = 1e-4  # of the maximum: where `relative` ends
_SMALLEST = torch.finfo(torch.float64).tiny


class AreaRatio(NamedTuple):
    """The smallest squares that hold more than a share of a receptive field, over the image's area.

    Attributes
    ----------
    threshold : float
        The share.
    published : float
        As RepLKNet counts: of log10(E + 1), about the image's middle.
    linear : float
        Of E, about the query's own pixel.
    """

    threshold: float
    published: float
    linear: float


@dataclass(frozen=True, eq=False)
class ReceptiveField:
    """Mean effective receptive field E of one position of a feature map.

    Attributes
    ----------
    map : Tensor [H, W]
        E, float64: the positive gradient of the position's positive features by each pixel, summed
        over colours, averaged over images.
    images, skipped : int
        Images averaged, and those left out since their features or gradients are not finite.
    position, pixel : (int, int)
        Of the query: row and column in the feature map, and the pixel on which it is centred
        (of models with patches that do not overlap, the pixel before the middle of its cell).
    grid : (int, int)
        Of the feature map.
    """

    map: Tensor
    images: int
    skipped: int
    position: tuple[int, int]
    pixel: tuple[int, int]
    grid: tuple[int, int]

    @property
    def total(self) -> float:
        """Sum of E. log10(E + 1) is nearly linear where E is far below 1."""
        return float(self.map.sum())

    @property
    def largest(self) -> float:
        """Maximum of E."""
        return float(self.map.max())

    def scaled(self, scale: str = "log") -> Tensor:
        """Return E to be drawn, from 0 to 1.

        Parameters
        ----------
        scale : {"log", "linear", "relative"}
            log10(E + 1) as published, E, or the decades below the maximum, ``log(E / max + 1e-4)``,
            which does not depend on how large a model's gradients are.

        Raises
        ------
        ValueError
            If there is no such scale.
        """
        if scale == "log":
            values = torch.log10(self.map + 1)
        elif scale == "linear":
            values = self.map
        elif scale == "relative":
            values = torch.log(self.map / max(self.largest, _SMALLEST) + _FAINTEST)
            values = values - math.log(_FAINTEST)
        else:
            raise ValueError(f"scale: got {scale!r}, needs 'log', 'linear' or 'relative'")
        return values / max(float(values.max()), _SMALLEST)

    def area_ratios(self, thresholds: Iterable[float] = THRESHOLDS) -> list[AreaRatio]:
        """Return how large a square holds more than each share of E; see :class:`AreaRatio`.

        Raises
        ------
        ValueError
            If a threshold is not at least 0 and below 1.
        """
        height, width = self.map.shape
        middle = (height // 2, width // 2)
        logarithm = torch.log10(self.map + 1)
        return [
            AreaRatio(
                threshold,
                _area_ratio(logarithm, middle, threshold),
                _area_ratio(self.map, self.pixel, threshold),
            )
            for threshold in thresholds
        ]

    def radial_profile(self) -> Tensor:
        """Return the share of E within each whole radius from the query's pixel, float64 ``[R]``.

        Entry r counts the pixels whose centre is at most r away; the last is 1.
        """
        height, width = self.map.shape
        rows, columns = (
            torch.arange(size, dtype=torch.float64) - place
            for size, place in zip((height, width), self.pixel, strict=True)
        )
        radius = torch.hypot(rows[:, None], columns).ceil().long()
        mass = torch.zeros(int(radius.max()) + 1, dtype=torch.float64)
        mass.index_add_(0, radius.flatten(), self.map.flatten())
        return mass.cumsum(0) / max(self.total, _SMALLEST)

    def grid_energy(self, period: float) -> float:
        """Return how much of E is a grid of a period: blocky artefacts in one number.

        The share of the energy of E's Fourier transform, its mean left out, that lies on the
        multiples of ``1 / period`` of either axis, or on the frequencies next to them. Near 0 for a
        smooth field that is wider than the period, near 1 for a pattern of that grid alone; a
        field narrower than the period has all frequencies, so compare fields of like width.

        Parameters
        ----------
        period : float
            In pixels, such as a stride or the pixels of a window.

        Raises
        ------
        ValueError
            If it is not above 1.
        """
        if not period > 1:
            raise ValueError(f"period: got {period!r}, needs more than 1 pixel")
        energy = torch.fft.fft2(self.map).abs() ** 2
        energy[0, 0] = 0
        on_grid = [_on_grid(size, period) for size in self.map.shape]
        chosen = on_grid[0][:, None] | on_grid[1][None, :]
        return float(energy[chosen].sum() / max(float(energy.sum()), _SMALLEST))


def effective_receptive_field(
    model: nn.Module,
    images: Iterable[Tensor | Image.Image],
    stage: int = 4,
    position: tuple[int, int] | None = None,
    progress: Callable[[int], None] | None = None,
    *,
    preprocess: Preprocess | None = None,
) -> ReceptiveField:
    """Return the effective receptive field of one position of a stage's feature map.

    For every image: ``z = sum over c of relu(F[c, i, j])`` of the normalised map F, ``G = relu(dz /
    d image)``, summed over colours; the mean over images, in float64.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode. A `TransNeXt`, or any model of timm with ``forward_intermediates`` of
        maps.
    images : iterable
        Tensors ``[3, H, W]`` as the model gets them, all of one size, or PIL images.
    stage : int
        From 1; a model of timm's own count of its maps.
    position : (int, int), optional
        Row and column in the map, ``(H // 2, W // 2)`` unless given.
    progress : callable, optional
        Called with the number of images done.
    preprocess : Preprocess, optional
        For PIL images; the model's own unless given.

    Raises
    ------
    TypeError, ValueError
        The model has no maps or is in training mode, there is no such stage or position, an image
        has another size than the first, or there is none that can be used.
    """
    (field,) = effective_receptive_fields(
        model, images, (stage,), position, progress, preprocess=preprocess
    )
    return field


def effective_receptive_fields(
    model: nn.Module,
    images: Iterable[Tensor | Image.Image],
    stages: Sequence[int] = (1, 2, 3, 4),
    position: tuple[int, int] | None = None,
    progress: Callable[[int], None] | None = None,
    *,
    preprocess: Preprocess | None = None,
) -> list[ReceptiveField]:
    """Return the receptive fields of several stages, of one forward pass for each image.

    Arguments, results and errors are those of :func:`effective_receptive_field`, for each of
    `stages` in their order. `images` is gone through once.
    """
    return _fields(
        model, images, [(stage, position) for stage in stages], progress, preprocess=preprocess
    )


def fields_of_positions(
    model: nn.Module, image: Tensor, stage: int, positions: Sequence[tuple[int, int]]
) -> list[ReceptiveField]:
    """Return the receptive fields of several positions on one image, of one forward pass.

    Arguments, results and errors are those of :func:`effective_receptive_field`.
    """
    return _fields(model, [image], [(stage, position) for position in positions])


def _fields(
    model: nn.Module,
    images: Iterable[Tensor | Image.Image],
    places: Sequence[tuple[int, tuple[int, int] | None]],
    progress: Callable[[int], None] | None = None,
    *,
    preprocess: Preprocess | None = None,
) -> list[ReceptiveField]:
    """Return the receptive fields of places: of a stage, and of a position in its map."""
    if not hasattr(model, "forward_intermediates"):
        raise TypeError(f"model: got {type(model).__name__}, needs one with forward_intermediates")
    if model.training:
        raise ValueError("model: got one in training mode, needs model.eval()")
    for stage, _ in places:
        _check_stage(model, stage)
    like = next(model.parameters())
    preprocess = preprocess or preprocess_of(model)
    sums = [_Sum() for _ in places]
    size: torch.Size | None = None
    for done, image in enumerate(images, start=1):
        x = as_batch(image, preprocess).to(like.device, like.dtype)
        if size is not None and x.shape[2:] != size:
            raise ValueError(f"images: got {tuple(x.shape[2:])}, needs {tuple(size)} as the first")
        size = x.shape[2:]
        _add_gradients(model, x, places, sums)
        if progress is not None:
            progress(done)
    fields = []
    for (stage, _), total in zip(places, sums, strict=True):
        if not isinstance(total.map, Tensor):
            raise ValueError(
                f"images: got {total.skipped} that can be used for nothing, needs one or more"
            )
        stride = _stride_of(model, stage, max(total.map.shape) / max(total.grid))
        pixel = _pixel_of(model, total.position, stride)
        mean = total.map / total.used
        fields.append(
            ReceptiveField(mean, total.used, total.skipped, total.position, pixel, total.grid)
        )
    return fields


@dataclass
class _Sum:
    """E of a place, summed over the images so far."""

    map: Tensor | int = 0
    used: int = 0
    skipped: int = 0
    grid: tuple[int, int] = (0, 0)
    position: tuple[int, int] = (0, 0)


def _add_gradients(
    model: Any,
    x: Tensor,
    places: Sequence[tuple[int, tuple[int, int] | None]],
    sums: Sequence[_Sum],
) -> None:
    """Add one image's E to those of the places, unless it is not finite."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        maps = _maps_of(model, x, [stage for stage, _ in places])
        numbered = enumerate(zip(places, sums, strict=True), 1 - len(places))
        for left, ((stage, position), total) in numbered:
            features = maps[stage]
            height, width = total.grid = features.shape[2], features.shape[3]
            total.position = (height // 2, width // 2) if position is None else position
            row, column = total.position
            if not (0 <= row < height and 0 <= column < width):
                raise ValueError(
                    f"position: got {position}, needs a row and a column of {height} x {width}"
                )
            z = features[0, :, row, column].relu().sum()
            # The graph goes with the last of the places.
            (gradient,) = torch.autograd.grad(z, x, retain_graph=left < 0)
            gradient = gradient[0].double().relu().sum(0)
            if z.isfinite() and gradient.isfinite().all():
                total.map = total.map + gradient.cpu()
                total.used += 1
            else:
                total.skipped += 1


def _check_stage(model: Any, stage: int) -> None:
    stages = len(model.feature_info) if hasattr(model, "feature_info") else 4
    if isinstance(stage, bool) or not isinstance(stage, int) or not 1 <= stage <= stages:
        raise ValueError(f"stage: got {stage!r}, needs 1 to {stages}")


def _maps_of(model: Any, x: Tensor, stages: Sequence[int]) -> dict[int, Tensor]:
    """Return the maps ``[1, C, H, W]`` of stages, each once and in the network's order."""
    taken = sorted(set(stages))
    maps = model.forward_intermediates(
        x,
        indices=[stage - 1 for stage in taken],
        norm=True,
        stop_early=True,
        output_fmt="NCHW",
        intermediates_only=True,
    )
    for features in maps:
        if features.dim() != 4:
            raise ValueError(
                f"model: got features {tuple(features.shape)}, needs maps [1, C, H, W]"
            )
    return dict(zip(taken, maps, strict=True))


def _stride_of(model: Any, stage: int, ratio: float) -> int:
    """Return the pixels between two tokens; `ratio` is that of the image's side to the map's."""
    if hasattr(model, "feature_info"):
        return int(model.feature_info[stage - 1]["reduction"])
    return int(2 ** round(math.log2(ratio)))  # strides of backbones are powers of two


def _pixel_of(model: nn.Module, position: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return the pixel on which a token is centred.

    Centred convolutions put token i on pixel ``stride * i``; patches that do not overlap (ConvNeXt,
    Swin) on the middle of its cell.
    """
    first = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d)), None)
    patches = first is not None and first.stride[0] > 1 and first.kernel_size == first.stride
    offset = (stride - 1) // 2 if patches else 0
    return position[0] * stride + offset, position[1] * stride + offset


def _area_ratio(values: Tensor, centre: tuple[int, int], threshold: float) -> float:
    """Return the area of the smallest odd square about a pixel that holds more than a share."""
    if not 0 <= threshold < 1:
        raise ValueError(f"thresholds: got {threshold!r}, needs 0 or more and below 1")
    height, width = values.shape
    row, column = centre
    farthest = max(row, column, height - 1 - row, width - 1 - column)
    limit = threshold * float(values.sum())
    low, high = 0, farthest
    while low < high:  # the sum grows with the square
        half = (low + high) // 2
        inside = values[
            max(row - half, 0) : row + half + 1, max(column - half, 0) : column + half + 1
        ]
        if float(inside.sum()) > limit:
            high = half
        else:
            low = half + 1
    return min(1.0, (2 * low + 1) ** 2 / (height * width))


def _on_grid(size: int, period: float) -> Tensor:
    """Return which frequencies of an axis are multiples of ``1 / period``, or next to one."""
    frequency = torch.fft.fftfreq(size, dtype=torch.float64).abs()
    multiple = torch.round(frequency * period)
    near = (frequency - multiple / period).abs() * size < 1.0
    return near & (multiple > 0)
