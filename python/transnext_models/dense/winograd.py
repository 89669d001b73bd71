"""A 3 x 3 convolution by Winograd's algorithm: four times fewer multiplications, no gradient.

Sixteen outputs, 4 x 4, of a map are bilinear in 6 x 6 inputs and the kernel. Transformed by small
matrices, the inputs' and the kernel's 36 numbers are multiplied one by one, so that what sums over
channels are 36 matrix products for 16 outputs, where the definition has 9 for each.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, arXiv
1509.09308: F(4 x 4, 3 x 3), section 4.3.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .eager import is_plain_inference

__all__ = ["Convolution3x3", "convolve_3x3", "pays_off", "winograd_3x3", "winograd_kernel"]

_OUT, _IN, _NUMBERS = 4, 6, 36
_BLOCK = 256  # tiles at a time: their 36 numbers for all channels stay in a cache
_LEAST_CELLS, _LEAST_CHANNELS = 4096, 128  # less has little to gain

# The points are 0, 1, -1, 2, -2 and infinity.
_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OUTPUT = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)
_ONES = 7  # of the 36: the point (1, 1), whose share in all outputs is 1


class Convolution3x3(nn.Conv2d):
    """A 3 x 3 convolution of stride 1 that keeps the map's size: :func:`convolve_3x3`."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        """``[B, in_channels, H, W]`` to ``[B, out_channels, H, W]``."""
        return convolve_3x3(input, self.weight, self.bias)


def convolve_3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``conv2d(x, weight, bias, padding=1)``, in inference on a CPU perhaps faster.

    Parameters
    ----------
    x, weight, bias : Tensor
        ``[B, C, H, W]``, ``[O, C, 3, 3]`` and ``[O]``.

    Returns
    -------
    Tensor
        ``[B, O, H, W]``.
    """
    if pays_off(x, weight):
        return winograd_3x3(x, winograd_kernel(weight), bias)
    return F.conv2d(x, weight, bias, padding=1)


def pays_off(x: Tensor, weight: Tensor) -> bool:
    """Whether Winograd's algorithm may and should convolve ``x`` with a kernel like ``weight``."""
    return (
        is_plain_inference(x, weight)
        and not torch.is_autocast_enabled("cpu")
        and x.dtype == weight.dtype == torch.float32
        and len(x) * x.shape[2] * x.shape[3] >= _LEAST_CELLS
        and min(weight.shape[:2]) >= _LEAST_CHANNELS
    )


@torch.no_grad()
def winograd_kernel(weight: Tensor) -> Tensor:
    """Return the 36 numbers of each kernel of ``[O, C, 3, 3]``, as ``[36, O, C]``."""
    numbers = _both_axes(_KERNEL, weight) @ weight.permute(2, 3, 0, 1).reshape(9, -1)
    return numbers.view(_NUMBERS, *weight.shape[:2])


@torch.no_grad()
def winograd_3x3(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return what :func:`convolve_3x3` does, by Winograd's algorithm.

    ``kernel`` is that of :func:`winograd_kernel`. In float32 errors are about 1e-5 of the largest
    value.
    """
    batch, channels, height, width = x.shape
    outputs = kernel.shape[1]
    down, across = -(-height // _OUT), -(-width // _OUT)
    into, out_of = (_both_axes(m, x) for m in (_INPUT, _OUTPUT))
    result = x.new_empty(batch, outputs, _OUT * down, _OUT * across)
    rows = min(down, max(1, _BLOCK // across))
    images = min(batch, max(1, _BLOCK // (down * across)))
    room = _Room(x)
    for first in range(0, batch, images):
        for top in range(0, down, rows):
            count = min(rows, down - top)
            some = x[first : first + images]
            part = room("part", len(some), channels, _OUT * count + 2, _OUT * across + 2)
            _copy_padded(some, _OUT * top - 1, part)
            tiles = part.unfold(2, _IN, _OUT).unfold(3, _IN, _OUT).permute(4, 5, 1, 0, 2, 3)
            sides = tiles.shape[3:]
            inputs = room("inputs", _IN, _IN, channels, *sides).copy_(tiles)
            spread = room("spread", _NUMBERS, inputs[0, 0].numel())
            torch.mm(into, inputs.view(_NUMBERS, -1), out=spread)
            products = room("products", _NUMBERS, outputs, sides.numel())
            torch.bmm(kernel, spread.view(_NUMBERS, channels, -1), out=products)
            if bias is not None:
                products[_ONES].add_(bias[:, None])
            found = room("found", _OUT**2, products[0].numel())
            torch.mm(out_of, products.view(_NUMBERS, -1), out=found)
            target = result[first : first + images, :, _OUT * top : _OUT * (top + rows)]
            target = target.unflatten(3, (across, _OUT)).unflatten(2, (-1, _OUT))
            target.copy_(found.view(_OUT, _OUT, outputs, *sides).permute(3, 2, 4, 0, 5, 1))
    return result[:, :, :height, :width].contiguous()


def _copy_padded(x: Tensor, top: int, part: Tensor) -> None:
    """Copy rows of maps from row ``top`` on, and a column before them, with zeros around them."""
    height, width = x.shape[2:]
    first, last = max(0, top), min(height, top + part.shape[2])
    part[:, :, : first - top] = 0
    part[:, :, last - top :] = 0
    part[..., :1] = 0
    part[..., width + 1 :] = 0
    part[:, :, first - top : last - top, 1 : width + 1] = x[:, :, first:last]


class _Room:
    """Memory that every block uses again: new memory would cost as much as the products."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """Return a tensor of that shape; no later block's may be larger than the first's."""
        count = torch.Size(shape).numel()
        if name not in self._buffers:
            self._buffers[name] = self._like.new_empty(count)
        return self._buffers[name][:count].view(shape)


def _both_axes(matrix: tuple[tuple[float, ...], ...], like: Tensor) -> Tensor:
    """Return the matrix that applies `matrix` to rows and to columns of what is flattened."""
    one = torch.tensor(matrix, dtype=torch.float64)
    return torch.kron(one, one).to(like)
