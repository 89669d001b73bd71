"""Record what every attention of a model compares on one image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ..classification.preprocess import Preprocess
from ..transnext import TransNeXt
from .block import BlockInfo, RecordedBlock, record_block
from .geometry import token_at
from .query import QueryAttention

__all__ = ["AttentionRecord", "as_batch", "preprocess_of", "record_attention"]

MEMORY_LIMIT = 1 << 30  # bytes of all weights of a block


class AttentionRecord:
    """Queries and keys of every attention of a model on one image; see `record_attention`.

    Stages count from 1 and blocks from 0, as in the model's names ``block{stage}.{block}``; a
    negative block counts from the stage's last. Positions are rows and columns of a stage's tokens,
    pixels those of the image that the model got.
    """

    def __init__(
        self, recorded: list[RecordedBlock], image: Tensor, output: Any, preprocess: Preprocess
    ) -> None:
        self._recorded = {(block.info.stage, block.info.block): block for block in recorded}
        self.image = image
        """float ``[3, H, W]``, as the model got it."""
        self.output = output
        """What the model returned for it, without batch."""
        self.preprocess = preprocess

    @property
    def blocks(self) -> list[BlockInfo]:
        """The recorded blocks in the order of the network."""
        return [block.info for block in self._recorded.values()]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        return self.image.shape[-2], self.image.shape[-1]

    def picture(self) -> Image.Image:
        """Return the image that the model got as a picture, its normalisation taken back."""
        mean, std = (
            torch.tensor(values, dtype=torch.float64)[:, None, None]
            for values in (self.preprocess.mean, self.preprocess.std)
        )
        colours = (self.image.double().cpu() * std + mean).clamp(0, 1)
        if len(colours) == 1:
            colours = colours.expand(3, -1, -1)
        pixels = (255 * colours).round().to(torch.uint8).permute(1, 2, 0).numpy()
        return Image.fromarray(pixels)

    def recorded(self, stage: int, block: int = -1) -> RecordedBlock:
        """Return a block's tensors.

        Raises
        ------
        ValueError
            If there is no such stage or block.
        """
        blocks = [number for known, number in self._recorded if known == stage]
        if not blocks:
            stages = sorted({known for known, _ in self._recorded})
            raise ValueError(f"stage: got {stage!r}, needs one of {stages}")
        if not -len(blocks) <= block < len(blocks):
            raise ValueError(
                f"block: got {block!r}, needs {-len(blocks)} to {len(blocks) - 1}, of stage {stage}"
            )
        return self._recorded[stage, blocks[block]]

    def position(self, stage: int, pixel: tuple[float, float]) -> tuple[int, int]:
        """Return the token of a stage next to a pixel ``(y, x)``."""
        block = self.recorded(stage)
        return token_at(pixel, block.stride, block.info.grid)

    def query(
        self,
        stage: int,
        block: int = -1,
        position: tuple[int, int] | None = None,
        *,
        pixel: tuple[float, float] | None = None,
    ) -> QueryAttention:
        """Return the attention of one query.

        Parameters
        ----------
        stage, block : int
        position : (int, int), optional
            Row and column of the query; the grid's middle, ``(H // 2, W // 2)``, unless given.
        pixel : (float, float), optional
            Instead of `position`: ``(y, x)`` in the image.

        Raises
        ------
        ValueError
            If the stage, block or position does not exist, or both places are given.
        """
        recorded, position = self._at(stage, block, position, pixel)
        rows, columns = (torch.tensor([place], device=self.image.device) for place in position)
        attention, positional, inside = recorded.weights(rows, columns)
        info = recorded.info
        side, cells = info.window, info.window**2
        attention, positional = attention[:, 0].cpu(), positional[:, 0].cpu()
        return QueryAttention(
            stage,
            info.block,
            position,
            info.grid,
            info.pool_grid,
            recorded.stride,
            self.image_size,
            attention[:, :cells].reshape(info.heads, side, side),
            attention[:, cells:].unflatten(1, info.pool_grid),
            positional.reshape(info.heads, side, side),
            inside[0].cpu().reshape(side, side),
        )

    def weights(self, stage: int, block: int = -1, *, limit: int = MEMORY_LIMIT) -> Tensor:
        """Return the weights of all queries of a block, ``[h, N, L + P]``.

        Parameters
        ----------
        stage, block : int
        limit : int
            Bytes that the result may take.

        Raises
        ------
        ValueError
            If there is no such block, or the result would be larger than `limit`.
        """
        recorded = self.recorded(stage, block)
        info = recorded.info
        height, width = info.grid
        keys = info.window**2 + info.pool_grid[0] * info.pool_grid[1]
        size = info.heads * height * width * keys * recorded.queries.element_size()
        if size > limit:
            raise ValueError(
                f"limit: got {limit} bytes, needs {size} for {info.heads} heads, {height * width} "
                f"queries and {keys} keys of block {info.stage}.{info.block}; take single queries"
            )
        rows, columns = _all_positions(info.grid, self.image.device)
        parts = [
            recorded.weights(row, column).attention
            for row, column in zip(rows.split(width), columns.split(width), strict=True)
        ]
        return torch.cat(parts, 1)

    def foveal(
        self, stage: int = 3, block: int = -1, position: tuple[int, int] | None = None
    ) -> Tensor:
        """Return how alike a query is to the unpooled keys everywhere, ``[h, H, W]``.

        ``softmax over all tokens n' of q · k̂(n')``, without a bias: what its window would see if
        it were moved there (the upper rows of the paper's figure 7). Every map sums to 1.

        Raises
        ------
        ValueError
            If the stage, block or position does not exist.
        """
        recorded, _, query = self._query_of(stage, block, position)
        keys = recorded.pooled_keys if recorded.keys is None else recorded.keys
        logits = torch.einsum("hd,nhd->hn", query, keys)
        return logits.softmax(-1).unflatten(1, recorded.info.grid).cpu()

    def peripheral(
        self, stage: int = 3, block: int = -1, position: tuple[int, int] | None = None
    ) -> Tensor:
        """Return a query's attention to the pooled cells alone, ``[h, Hp, Wp]``.

        ``softmax over pooled cells m of q · k̂(m) + bias`` (the lower rows of the paper's figure 7).
        Every map sums to 1.

        Raises
        ------
        ValueError
            If the stage, block or position does not exist.
        """
        recorded, position, query = self._query_of(stage, block, position)
        rows, columns = (torch.tensor([place], device=query.device) for place in position)
        logits = torch.einsum("hd,phd->hp", query, recorded.pooled_keys)
        logits = logits + recorded.bias_of(rows, columns)[:, 0]
        return logits.softmax(-1).unflatten(1, recorded.info.pool_grid).cpu()

    def _query_of(
        self, stage: int, block: int, position: tuple[int, int] | None
    ) -> tuple[RecordedBlock, tuple[int, int], Tensor]:
        recorded, (row, column) = self._at(stage, block, position, None)
        return recorded, (row, column), recorded.queries[row * recorded.info.grid[1] + column]

    def _at(
        self,
        stage: int,
        block: int,
        position: tuple[int, int] | None,
        pixel: tuple[float, float] | None,
    ) -> tuple[RecordedBlock, tuple[int, int]]:
        recorded = self.recorded(stage, block)
        height, width = recorded.info.grid
        if position is not None and pixel is not None:
            raise ValueError("pixel: got it together with position, needs one of the two")
        if pixel is not None:
            return recorded, token_at(pixel, recorded.stride, recorded.info.grid)
        if position is None:
            return recorded, (height // 2, width // 2)
        row, column = position
        if not (0 <= row < height and 0 <= column < width):
            raise ValueError(
                f"position: got {position}, needs a row and a column of stage {stage}'s "
                f"{height} x {width} tokens"
            )
        return recorded, (int(row), int(column))


def record_attention(
    model: TransNeXt, image: Tensor | Image.Image, preprocess: Preprocess | None = None
) -> AttentionRecord:
    """Run a model once and record what each of its attentions compares.

    No weight is computed before it is asked for: for each block the record holds queries, keys and
    values, as large as the tokens, and no tensor of queries by keys.

    Parameters
    ----------
    model : TransNeXt
        In evaluation mode, on any device, in any dtype, of any position bias and image size.
    image : Tensor [3, H, W] or [1, 3, H, W], or PIL image
        A tensor is what the model gets; a PIL image goes through `preprocess`.
    preprocess : Preprocess, optional
        For PIL images; the model's own unless given.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or shape, or the model is in training mode.
    """
    if not isinstance(model, TransNeXt):
        raise TypeError(f"model: got {type(model).__name__}, needs a TransNeXt")
    if model.training:
        raise ValueError("model: got one in training mode, needs model.eval()")
    like = model.get_parameter("norm1.weight")
    preprocess = preprocess or preprocess_of(model)
    x = as_batch(image, preprocess).to(like.device, like.dtype)
    recorded: list[RecordedBlock] = []
    with torch.no_grad(), _hooks(model, recorded.append):
        output = model(x)
    output = [part[0] for part in output] if isinstance(output, list) else output[0]
    return AttentionRecord(recorded, x[0], output, preprocess)


def preprocess_of(model: nn.Module, size: int | None = None) -> Preprocess:
    """Return the preprocessing of a model's weights, at its image size or another."""
    config: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    own = getattr(model, "img_size", None) or config.get("input_size", (3, 224, 224))[-1]
    is_own = size is None or size == own
    return Preprocess(
        own if size is None else size,
        config.get("mean", (0.485, 0.456, 0.406)),
        config.get("std", (0.229, 0.224, 0.225)),
        config.get("crop_mode", "center") if is_own else "squash",
        config.get("crop_pct", 1.0) if is_own else 1.0,
    )


def as_batch(image: Tensor | Image.Image, preprocess: Preprocess) -> Tensor:
    """Return one image as the model gets it, ``[1, C, H, W]``; `preprocess` is for PIL images."""
    if isinstance(image, Image.Image):
        return preprocess(image.convert("RGB"))[None]
    if not isinstance(image, Tensor):
        raise TypeError(f"image: got {type(image).__name__}, needs a tensor or a PIL image")
    if image.dim() == 4 and len(image) == 1:
        image = image[0]
    if image.dim() != 3:
        raise ValueError(f"image: got {tuple(image.shape)}, needs [C, H, W] of one image")
    return image[None]


@contextmanager
def _hooks(model: TransNeXt, take: Callable[[RecordedBlock], None]) -> Iterator[None]:
    """Record every attention that is called inside; hooks go whatever happens."""
    with ExitStack() as stack:
        for number, stage in enumerate(model.stages(), start=1):
            for index, block in enumerate(stage.blocks):

                def hook(
                    module: Any,
                    inputs: tuple[Any, ...],
                    _: Any,
                    at: tuple[int, int] = (number, index),
                ) -> None:
                    x, grids = inputs
                    take(record_block(module, x, grids, stage=at[0], block=at[1]))

                stack.callback(block.attn.register_forward_hook(hook).remove)
        yield


def _all_positions(grid: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    rows, columns = torch.meshgrid(
        *(torch.arange(size, device=device) for size in grid), indexing="ij"
    )
    return rows.flatten(), columns.flatten()
