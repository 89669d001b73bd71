"""Augmentation of whole batches of handwritten digits, as a scanner or a telephone sees them.

A digit is kept in two forms: its ink (the 28×28 grey image) and the distance of every point to its
pen line (the skeleton of the ink). From the second a pen of any width can redraw it. A batch is
then made in five steps, each one function over the whole batch, so that the cost on two cores stays
a fraction of a training step:

    geometry    where each output pixel lies in the digit: scale, offset, rotation, shear,
                perspective, elastic bend
    draw        coverage of ink at each pixel, from the grey image or from a pen of random width
    paper       ground and ink colours, texture, ruled lines, the edge of the sheet, light ink on
                dark paper
    light       uneven lighting, vignette, the edge of a shadow
    camera      blur, contrast and gamma, noise, JPEG blocks

Four in ten images skip all but a small geometry: plain ink on a plain ground, as in a
clean scan.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from transnext_ops.distribution import install_hint

__all__ = ["DigitAugmentation", "pen_distances"]

_SOURCE = 28  # pixels of a digit
_FIELD = 56  # samples of the distance field over the same frame
_FAR = 6.0  # distances are cut here: beyond any pen's width, in source pixels

PLAIN_PROBABILITY = 0.4
PEN_PROBABILITY = 0.4
LIGHT_INK_PROBABILITY = 0.35
ZOOM_RANGE = (0.42, 1.4)  # a digit fills 20 of 28 source pixels, so 30 % to 100 % of the frame
ROTATION_DEGREES = 15.0


def pen_distances(images: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Return the distance of every point to the pen line of each digit.

    Parameters
    ----------
    images : NDArray[np.uint8]
        uint8 [n, 28, 28], light ink on a dark ground.

    Returns
    -------
    float16 [n, 56, 56] : distance to the skeleton of the ink, in pixels of the source, at most 6.

    Raises
    ------
    RuntimeError
        scikit-image or SciPy is not installed.
    """
    try:
        from scipy.ndimage import distance_transform_edt
        from skimage.morphology import skeletonize
    except ImportError as error:
        raise RuntimeError(
            f"augmenting digits needs SciPy and scikit-image: {install_hint('train')}"
        ) from error
    ink = torch.from_numpy(images.astype(np.float32) / 255)[:, None]
    smooth = F.interpolate(ink, size=(_FIELD, _FIELD), mode="bicubic", align_corners=False)[:, 0]
    distances = np.full((len(images), _FIELD, _FIELD), _FAR, dtype=np.float16)
    for distance, drawn in zip(distances, (smooth > 0.4).numpy(), strict=True):
        if drawn.any():
            pixels = distance_transform_edt(~skeletonize(drawn))
            distance[:] = np.minimum(pixels * (_SOURCE / _FIELD), _FAR)
    return distances


class DigitAugmentation:
    """Renders digits of one data set as photographs of handwriting.

    Parameters
    ----------
    images : NDArray[np.uint8]
        uint8 [n, 28, 28], light ink on a dark ground.
    size : int
        Height and width of the results.
    """

    def __init__(self, images: NDArray[np.uint8], size: int = 64) -> None:
        self.size = size
        self.ink = torch.from_numpy(images)[:, None]  # uint8 [n, 1, 28, 28]
        self.distance = torch.from_numpy(pen_distances(images))[:, None]  # float16 [n, 1, 56, 56]
        self.extent = _ink_extent(images)  # float32 [n, 4]

    def __call__(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """Render the digits `indices` (int64 [B]), differently at every call.

        Returns
        -------
        float32 [B, 3, size, size] in [0, 1].
        """
        indices = indices.cpu()
        draws = _Draws(len(indices), generator)
        plain = draws.chance(PLAIN_PROBABILITY)
        ink = self.ink[indices].float() / 255
        grid, zoom = _geometry(self.extent[indices], plain, self.size, draws)
        coverage = _draw(ink, self.distance[indices].float(), grid, zoom, plain, draws)
        images = torch.where(draws.chance(0.5), coverage, 1 - coverage).repeat(1, 3, 1, 1)

        photographed = (~plain).flatten().nonzero().flatten()
        draws = _Draws(len(photographed), generator)
        sheet = _paper(coverage[photographed], draws)
        sheet = torch.where(draws.chance(LIGHT_INK_PROBABILITY), 1 - sheet, sheet)
        images[photographed] = _camera(_light(sheet, draws), zoom[photographed], draws)
        return images


class _Draws:
    """Random numbers for one batch, one per image unless a shape is given: [B, 1, 1, 1]."""

    def __init__(self, batch: int, generator: torch.Generator) -> None:
        self.batch = batch
        self.generator = generator

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        size = (self.batch, *(shape or (1, 1, 1)))
        return torch.rand(size, generator=self.generator) * (high - low) + low

    def normal(self, *shape: int) -> Tensor:
        return torch.randn((self.batch, *shape), generator=self.generator)

    def chance(self, probability: float) -> Tensor:
        return self.uniform(0, 1) < probability

    def sometimes(self, probability: float, low: float, high: float) -> Tensor:
        """In [low, high], nearer to `low`, with `probability`, else 0."""
        return (self.uniform(0, 1).square() * (high - low) + low) * self.chance(probability)


def _ink_extent(images: NDArray[np.uint8]) -> Tensor:
    """Left, right, top, bottom of the ink in frame coordinates (-1 to 1), float32 [n, 4]."""
    drawn: NDArray[np.bool_] = np.greater(images, 60)
    extents = []
    for axis in (1, 2):  # columns, then rows
        hit = np.asarray(drawn.any(axis=axis))
        first = hit.argmax(axis=1)
        last = _SOURCE - hit[:, ::-1].argmax(axis=1)
        extents += [first, last]
    return torch.from_numpy(np.stack(extents, axis=1).astype(np.float32) * (2 / _SOURCE) - 1)


def _frame(size: int) -> tuple[Tensor, Tensor]:
    """Return x [1, 1, 1, size] and y [1, 1, size, 1] of pixel centres, -1 to 1 over the frame."""
    axis = (torch.arange(size) + 0.5) * (2 / size) - 1
    return axis.view(1, 1, 1, size), axis.view(1, 1, size, 1)


def _geometry(extent: Tensor, plain: Tensor, size: int, draws: _Draws) -> tuple[Tensor, Tensor]:
    """Return where output pixels lie in the digit's frame, [B, size, size, 2], and the zoom.

    The zoom is [B, 1, 1, 1].
    """
    small, large = (math.log(zoom) for zoom in ZOOM_RANGE)
    zoom = draws.uniform(small, large).exp()
    zoom = torch.where(plain, draws.uniform(0.88, 1.12), zoom)
    # Any place at which the inked part stays inside the frame; plain digits move by two source
    # pixels at most.
    left, right, top, bottom = extent.view(-1, 4, 1, 1, 1).unbind(1)
    centre = []
    for low, high in ((left, right), (top, bottom)):
        lowest, highest = -1 - zoom * low, 1 - zoom * high
        place = lowest + (highest - lowest) * draws.uniform(0, 1)
        centre.append(torch.where(plain, draws.uniform(-0.14, 0.14), place))

    degrees = ROTATION_DEGREES * math.pi / 180
    angle = draws.uniform(-degrees, degrees)
    shear = draws.uniform(-0.25, 0.25)
    elongation = draws.uniform(-0.18, 0.18).exp()
    x, y = _frame(size)
    x, y = x - centre[0], y - centre[1]
    # Perspective: the divisor grows across the frame as it does when a sheet is seen at a slant.
    tilt = 1 + torch.where(
        plain, 0.0, draws.uniform(-0.15, 0.15) * x + draws.uniform(-0.15, 0.15) * y
    )
    x, y = x / tilt, y / tilt
    cosine, sine = angle.cos() / zoom, angle.sin() / zoom
    u, v = cosine * x + sine * y, cosine * y - sine * x
    grid = torch.cat([(u + shear * v) * elongation, v / elongation], dim=1).permute(0, 2, 3, 1)

    # Elastic bend: a smooth random displacement that travels with the digit.
    bend = F.grid_sample(
        draws.normal(2, 5, 5), grid, mode="bilinear", padding_mode="border", align_corners=True
    )
    amount = draws.uniform(0, 0.07) * torch.where(plain, 0.6, 1.0)
    return grid + (bend * amount).permute(0, 2, 3, 1), zoom


def _draw(
    ink: Tensor, distance: Tensor, grid: Tensor, zoom: Tensor, plain: Tensor, draws: _Draws
) -> Tensor:
    """Coverage of ink at each output pixel, [B, 1, size, size] in [0, 1]."""
    size = grid.shape[1]
    scanned = F.grid_sample(ink, grid, mode="bicubic", padding_mode="zeros", align_corners=False)
    # Harder edges, and a stroke made thicker or thinner by moving the threshold.
    hard = (scanned - draws.uniform(0.3, 0.65)) * draws.uniform(1.5, 6.0) + 0.5
    scanned = torch.where(plain | draws.chance(0.4), scanned, hard)

    pen = F.grid_sample(distance, grid, mode="bilinear", padding_mode="border", align_corners=False)
    width = draws.uniform(math.log(0.35), math.log(2.2)).exp()  # half the stroke, in source pixels
    pixel = _SOURCE / (size * zoom)  # one output pixel, in source pixels
    width = torch.maximum(width, 0.4 * pixel)  # a line that no camera resolves teaches nothing
    drawn = (width - pen) / (pixel * draws.uniform(0.8, 1.8)) + 0.5
    coverage = torch.where(draws.chance(PEN_PROBABILITY) & ~plain, drawn, scanned)
    return coverage.clamp(0, 1)


def _texture(size: int, draws: _Draws) -> Tensor:
    """Noise of several grain sizes, [B, 1, size, size], about one standard deviation strong."""
    total = torch.zeros(())
    for cells in (4, 12, 32, size):
        grain = draws.normal(1, cells, cells)
        if cells != size:
            grain = F.interpolate(grain, size=(size, size), mode="bilinear", align_corners=False)
        total = total + grain * draws.uniform(0, 1)
    return total


def _ruling(size: int, draws: _Draws) -> Tensor:
    """Return the coverage of printed lines (ruled or squared paper), [B, 1, size, size].

    Most sheets have none.
    """
    x, y = (coordinate * (size / 2) for coordinate in _frame(size))
    angle = draws.uniform(-0.12, 0.12)
    spacing = draws.uniform(7, 28)
    width = draws.uniform(0.3, 1.2)
    ruled = draws.chance(0.25)
    squared = draws.chance(0.4)
    lines = []
    for along in (y + angle * x, x - angle * y):
        phase = along / spacing + draws.uniform(0, 1)
        away = (phase - phase.round()).abs() * spacing
        lines.append((0.5 * width - away + 0.5).clamp(0, 1))
    lines[1] = lines[1] * squared
    return torch.maximum(*lines) * ruled * draws.uniform(0.08, 0.45)


def _colours(draws: _Draws) -> tuple[Tensor, Tensor]:
    """Colours of paper and ink, [B, 3, 1, 1] each; the paper is lighter by 0.25 at least."""
    paper = draws.uniform(0.5, 1.0)
    darkness = torch.minimum(draws.uniform(0, 0.45), paper - 0.25)
    hue = draws.uniform(0, 1, 3, 1, 1) + 0.05
    hue = hue / hue.mean(dim=1, keepdim=True)
    ink = darkness * torch.where(draws.chance(0.4), hue, 1.0)
    tint = draws.uniform(0.85, 1.0, 3, 1, 1)
    return paper * tint, ink.clamp(0, 1)


def _paper(coverage: Tensor, draws: _Draws) -> Tensor:
    """Put the ink on a sheet: [B, 3, size, size]."""
    size = coverage.shape[-1]
    paper, ink = _colours(draws)
    sheet = paper + _texture(size, draws) * draws.sometimes(0.7, 0, 0.08)
    line_colour = paper * draws.uniform(0.2, 0.95, 3, 1, 1)
    sheet = torch.lerp(sheet, line_colour.expand_as(sheet), _ruling(size, draws))
    # Beyond the edge of the sheet lies something else, of any brightness.
    x, y = _frame(size)
    direction = draws.uniform(0, 2 * math.pi)
    edge = (x * direction.cos() + y * direction.sin() - draws.uniform(0.8, 1.2)) * (size / 2)
    beyond = edge.clamp(0, 1) * draws.chance(0.15)
    sheet = torch.lerp(sheet, draws.uniform(0, 1, 3, 1, 1).expand_as(sheet), beyond)
    # A pen does not cover evenly.
    pressure = F.interpolate(
        draws.uniform(0, 1, 1, 4, 4), size=(size, size), mode="bilinear", align_corners=False
    )
    opacity = draws.uniform(0.75, 1.0) - draws.sometimes(0.5, 0, 0.4) * pressure
    return torch.lerp(sheet, ink.expand_as(sheet), coverage * opacity)


def _light(image: Tensor, draws: _Draws) -> Tensor:
    """Uneven light, a vignette, the edge of a shadow."""
    size = image.shape[-1]
    x, y = _frame(size)
    direction = draws.uniform(0, 2 * math.pi)
    slope = draws.sometimes(0.6, 0, 0.4)
    lighting = 1 + slope * (x * direction.cos() + y * direction.sin())
    lighting = lighting - draws.sometimes(0.3, 0, 0.25) * (x.square() + y.square())
    direction = draws.uniform(0, 2 * math.pi)
    across = x * direction.cos() + y * direction.sin() - draws.uniform(-0.8, 0.8)
    shade = torch.sigmoid(across * draws.uniform(3, 60)) * draws.sometimes(0.3, 0.1, 0.5)
    warmth = 1 + draws.sometimes(0.4, 0, 1) * draws.uniform(-0.12, 0.12, 3, 1, 1)
    return image * (lighting * (1 - shade)) * warmth


def _blur(image: Tensor) -> Tensor:
    """Binomial blur with [1, 4, 6, 4, 1] / 16 on both axes: standard deviation one pixel."""
    for _ in range(2):
        image = F.pad(image, (1, 1, 1, 1), mode="replicate")
        image = (image[..., :-2, :] + image[..., 2:, :]).add_(image[..., 1:-1, :], alpha=2)
        image = (image[..., :-2] + image[..., 2:]).add_(image[..., 1:-1], alpha=2).mul_(1 / 16)
    return image


def _camera(image: Tensor, zoom: Tensor, draws: _Draws) -> Tensor:
    """Blur, contrast and gamma, noise, JPEG blocks."""
    once = _blur(image)
    twice = _blur(once)
    # Sharp, blurred once or twice, and all between; small digits are spared the strongest blur.
    amount = draws.sometimes(0.5, 0, 2.0).minimum(1.6 * zoom)
    image = torch.lerp(torch.lerp(image, once, amount.clamp(0, 1)), twice, (amount - 1).clamp(0, 1))
    level = image.mean(dim=(1, 2, 3), keepdim=True)
    image = (level + (image - level) * draws.uniform(0.7, 1.3) + draws.uniform(-0.12, 0.12)).clamp(
        1e-3, 1
    )
    image = image ** draws.uniform(-0.4, 0.4).exp()
    size = image.shape[-1]
    noise = draws.normal(3, size, size)
    grey = noise[:, :1].expand_as(noise)
    noise = torch.lerp(grey, noise, draws.uniform(0, 1))
    image = (image + noise * draws.sometimes(0.6, 0, 0.09)).clamp_(0, 1)
    coded = draws.chance(0.3).flatten().nonzero().flatten()
    image[coded] = _jpeg(image[coded], draws.uniform(0.5, 4.0)[coded])
    return image


# Luminance quantisation of ITU-T T.81, annex K, table K.1.
_QUANTISATION = torch.tensor(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_LUMINANCE = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)


def _cosines() -> Tensor:
    """Return the orthonormal 8×8 cosine transform, rows are frequencies."""
    frequency = torch.arange(8.0).view(8, 1)
    basis = torch.cos((2 * torch.arange(8.0) + 1) * frequency * (math.pi / 16)) / 2
    basis[0] /= math.sqrt(2)
    return basis


_COSINES = _cosines()


def _jpeg(image: Tensor, coarseness: Tensor) -> Tensor:
    """Quantise the luminance of 8×8 blocks as JPEG does.

    `coarseness` [B, 1, 1, 1] scales the table.
    """
    luminance = (image * _LUMINANCE).sum(dim=1, keepdim=True)
    batch, _, height, width = luminance.shape
    rows, columns = -(-height // 8), -(-width // 8)
    padded = F.pad(luminance, (0, columns * 8 - width, 0, rows * 8 - height), mode="replicate")
    blocks = padded.view(batch, rows, 8, columns, 8).transpose(2, 3) * 255
    step = _QUANTISATION * coarseness.unsqueeze(-1)
    coefficients = _COSINES @ blocks @ _COSINES.T
    blocks = _COSINES.T @ ((coefficients / step).round() * step) @ _COSINES
    coded = (
        blocks.transpose(2, 3).reshape(batch, 1, rows * 8, columns * 8)[..., :height, :width] / 255
    )
    return (image + (coded - luminance)).clamp(0, 1)
