"""The cost of a forward pass, counted as the published numbers are.

One unit is a multiply-add of a matrix product or a convolution; normalisation, activations,
softmax and additions are not counted. The position-bias MLP runs once per batch, on the distinct
distances of its grids, and is counted for a batch of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..layers import AggregatedAttention, Block, GlobalAttention, PixelFocusedAttention, StageGrids
from ..transnext import TransNeXt
from ..variants import MIN_SIZE

__all__ = ["Cost", "count_multiply_adds"]


@dataclass(frozen=True)
class Cost:
    """Multiply-adds of one image, by where they are spent.

    Attributes
    ----------
    projections : int
        Linear layers, the 1x1 convolution before pooling and the classifier.
    convolutions : int
        Patch embeddings and the depthwise convolutions.
    attention : int
        Logits, learnable tokens and weighted sums.
    position_bias : int
        Position-bias MLPs, once per batch.
    """

    projections: int
    convolutions: int
    attention: int
    position_bias: int

    @property
    def total(self) -> int:
        """All of them, for a batch of one image."""
        return self.projections + self.convolutions + self.attention + self.position_bias


def count_multiply_adds(model: TransNeXt, image_size: int | Sequence[int] | None = None) -> Cost:
    """Count the multiply-adds of one image.

    Parameters
    ----------
    model : TransNeXt
        Any configuration, classifier or backbone.
    image_size : int | (int, int) | None
        Side of a square image or (height, width); None is the model's ``img_size``.

    Returns
    -------
    Cost

    Raises
    ------
    ValueError
        If the image is smaller than the model takes.
    """
    size = model.img_size if image_size is None else image_size
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < MIN_SIZE:
        raise ValueError(
            f"image_size: got {height} x {width}, needs at least {MIN_SIZE} x {MIN_SIZE}"
        )
    projections = convolutions = attention = position_bias = 0
    channels = model.in_chans
    for stage, (embed, blocks, _) in enumerate(model.stages()):
        conv = embed.proj
        stride, kernel = conv.stride[0], conv.kernel_size[0]
        height, width = -(-height // stride), -(-width // stride)
        tokens = height * width
        convolutions += tokens * conv.out_channels * channels * kernel * kernel
        channels = conv.out_channels
        grids = model.stage_grids(stage, (height, width))
        for block in blocks:
            hidden = block.mlp.fc2.in_features
            projections += tokens * 3 * hidden * channels  # fc1 and fc2
            convolutions += tokens * hidden * 9
            block_projections, block_attention = _attention(block.attn, grids, channels)
            projections += block_projections
            attention += block_attention
            position_bias += _position_bias(block, grids)
    if model.num_classes:
        projections += model.num_features * model.num_classes
    return Cost(projections, convolutions, attention, position_bias)


def _attention(
    attn: AggregatedAttention | PixelFocusedAttention | GlobalAttention,
    grids: StageGrids,
    channels: int,
) -> tuple[int, int]:
    """Projections, and products of queries, keys and values."""
    tokens, pooled = (height * width for height, width in (grids.grid, grids.pool_grid))
    if isinstance(attn, GlobalAttention):
        return 4 * tokens * channels**2, 2 * tokens * tokens * channels
    # q, kv, sr and proj on tokens, kv on pooled tokens
    projections = (5 * tokens + 2 * pooled) * channels**2
    window = attn.window_size**2
    products = 3 if isinstance(attn, AggregatedAttention) else 2  # logits, sum and learnable tokens
    return projections, tokens * channels * (products * window + 2 * pooled)


def _position_bias(block: Block, grids: StageGrids) -> int:
    """Count the two layers of the MLP on every distinct pair of axis distances."""
    query = grids.train_grid or grids.grid
    key = grids.train_pool_grid or grids.pool_grid
    distances = 1
    for axis in (0, 1):
        distances *= len(
            {
                2 * i - _bin_ends(a, query[axis], key[axis])
                for i in range(query[axis])
                for a in range(key[axis])
            }
        )
    fc1, fc2 = block.attn.cpb_fc1, block.attn.cpb_fc2
    return distances * (fc1.in_features + fc2.out_features) * fc1.out_features


def _bin_ends(index: int, size: int, bins: int) -> int:
    """First plus last position of an adaptive-pooling bin: twice its mean position."""
    return index * size // bins + -(-(index + 1) * size // bins) - 1
