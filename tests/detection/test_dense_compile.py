"""Heads under torch.compile in one graph, cut to the fewest layers.

Backbones are compiled in ``tests/models/test_model_compile.py``; here the heads are given maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import pytest
import torch
from torch import Tensor

from detection_models import small_dino, small_mask_rcnn
from given_maps import give_maps
from segmentation_models import small_segmentor

Outputs: TypeAlias = Callable[[Tensor], Sequence[Tensor]]


def mask_rcnn(image: Tensor) -> Outputs:
    """All that does not depend on how many boxes are found."""
    model = small_mask_rcnn()
    give_maps(model, image)

    def maps_and_logits(x: Tensor) -> Sequence[Tensor]:
        maps = model.pyramid(x)
        logits, moves = model.rpn_head(maps)
        return [*maps, *logits, *moves]

    return maps_and_logits


def dino(image: Tensor) -> Outputs:
    model = small_dino()
    give_maps(model, image)
    del model.encoder.layers[1:], model.decoder.layers[1:]
    return lambda x: [y for layer in model.predict(x).layers for y in layer]


def upernet(image: Tensor) -> Outputs:
    model = small_segmentor("upernet").float()
    give_maps(model, image)
    return lambda x: [model(x)]


def mask2former(image: Tensor) -> Outputs:
    model = small_segmentor("mask2former").float()
    give_maps(model, image)
    head = model.decode_head
    del head.pixel_decoder.encoder.layers[1:], head.transformer_decoder.layers[1:]
    return lambda x: list(model.forward_queries(x))


@torch.no_grad()
@pytest.mark.parametrize("method", [mask_rcnn, dino, upernet, mask2former])
def test_one_graph_computes_the_same(method: Callable[[Tensor], Outputs], one_thread: None) -> None:
    """Nothing in them breaks the graph."""
    torch.manual_seed(1)
    image = torch.randn(1, 3, 64, 96)
    run = method(image)
    expected = run(image)
    torch.compiler.reset()
    try:
        found = torch.compile(run, fullgraph=True, backend="aot_eager")(image)
    finally:
        torch.compiler.reset()
    for x, y in zip(found, expected, strict=True):
        assert (x - y).abs().max() <= 1e-4 * y.abs().max()
