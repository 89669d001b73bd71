"""One axis of the continuous position bias: its coordinates, and where each pair finds its own.

Source: TransNeXt paper (arXiv 2311.17132), section 3.1.3; the log-spaced coordinates after Liu et
al., "Swin Transformer V2", CVPR 2022.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from transnext_ops.grid_constants import bin_edges, shared_constant
from transnext_ops.tracing import known_true, traced


class BiasAxis(NamedTuple):
    """One axis of the continuous position bias.

    Attributes
    ----------
    coords : Tensor
        float64 [R], log-spaced relative coordinates: the table's axis.
    positions : Tensor
        int32 [length, pool_length, taps], positions in `coords` for query i and pooled cell a.
    weights : Tensor or None
        float64 [length, pool_length, taps]; None where taps is 1 and the weight 1.
    float32_coords : Tensor
        The coordinates rounded.
    """

    coords: Tensor
    positions: Tensor
    weights: Tensor | None
    float32_coords: Tensor

    def coords_in(self, dtype: torch.dtype) -> Tensor:
        """Return the coordinates in a type; those in float32 are kept, like the others."""
        return self.float32_coords if dtype == torch.float32 else self.coords.to(dtype)


def _extrapolated_axis(
    length: int, pool_length: int, pretrain_length: int, device: torch.device
) -> BiasAxis:
    start, end = bin_edges(length, pool_length, device)
    centres = start + end - 1  # twice the mean coordinate of each bin
    # Twice the relative positions, 2i - centre, are integers of a range: no unique() is needed.
    # With bins of one length they are 2 apart.
    if known_true(length % pool_length == 0):
        step, bin_length = 2, length // pool_length
        least, largest = bin_length - 1, 2 * length - bin_length - 1
    elif traced():  # bounds that hold for every pooled grid keep a graph of open sizes simple
        step, least, largest = 1, 0, 2 * (length - 1)
    else:
        step, least = 1, -(-length // pool_length) - 1
        largest = (pool_length - 1) * length // pool_length + length - 1
    count = (2 * (length - 1) - least + largest) // step + 1
    twice_relative = torch.arange(count, device=device) * step - largest
    relative = twice_relative.to(torch.float64) * (0.5 * 8.0 / max(pretrain_length - 1, 1))
    coords = relative.sign() * torch.log2(relative.abs() + 1.0) / math.log2(8.0)
    query = 2 * torch.arange(length, device=device)
    positions = (query[:, None] - centres + largest) // step
    return BiasAxis(coords, positions[:, :, None].to(torch.int32), None, coords.to(torch.float32))


def _bilinear_taps(source: int, target: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return index and weight [target, 2] of a bilinear resize of an axis, align_corners=False."""
    position = (torch.arange(target, device=device, dtype=torch.float64) + 0.5) * source / target
    position = (position - 0.5).clamp(min=0.0)
    low = position.floor().long().clamp(max=source - 1)
    high = (low + 1).clamp(max=source - 1)
    fraction = position - low
    return torch.stack((low, high), 1), torch.stack((1.0 - fraction, fraction), 1)


@shared_constant
def bias_axis(
    length: int,
    pool_length: int,
    pretrain_length: int,
    train_length: int | None,
    train_pool_length: int | None,
    device: torch.device,
) -> BiasAxis:
    """Return one axis of the position bias (:mod:`transnext_ops.operators.position_bias.bias`).

    Without a training length the coordinates of the axis in use are taken (extrapolation). With
    one, the bias lives on the training axis and is resized bilinearly over keys, then over
    queries: up to 2 × 2 weighted positions per (query, key).
    """
    if train_length is None or train_pool_length is None:
        return _extrapolated_axis(length, pool_length, pretrain_length, device)
    trained = _extrapolated_axis(train_length, train_pool_length, pretrain_length, device)
    if not traced() and (train_length, train_pool_length) == (length, pool_length):
        return trained  # which the resize gives too, with weights of 1 and 0
    query_index, query_weight = _bilinear_taps(train_length, length, device)
    key_index, key_weight = _bilinear_taps(train_pool_length, pool_length, device)
    positions = trained.positions[query_index[:, None, :, None], key_index[None, :, None, :], 0]
    weights = query_weight[:, None, :, None] * key_weight[None, :, None, :]
    return BiasAxis(
        trained.coords, positions.flatten(2), weights.flatten(2), trained.float32_coords
    )
