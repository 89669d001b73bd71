"""An ONNX file in int8, by ONNX Runtime.

What is quantised are the layers that pixels go through: convolutions and linear layers with
constant weights. The network of the position bias, which sees coordinates, and attention's products
of two activations stay as they are: they are small, and rounding them costs accuracy.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..classification.preprocess import Preprocess
from ..images import DecodedBatches, MemoryBudget, find_images, images_of
from ..images.memory import DECODING_BYTES
from .graphs import IMAGES, quiet

__all__ = ["MOST_IMAGES", "calibration_images", "layers_of_pixels", "quantise"]

MOST_IMAGES = 200
"""Of a folder, that ranges are found with: the first ones in the order of names, evenly spread."""

_WEIGHT_AXES = {"Conv": 4, "MatMul": 2, "Gemm": 2}
_SHAPE_ONLY = ("Shape", "Size")


def calibration_images(folder: Path, prepared: Preprocess) -> list[Tensor]:
    """Return images of a folder as a model takes them, ``[1, 3, H, W]`` each.

    Raises
    ------
    ValueError
        The folder has no image that can be read.
    """
    if not folder.is_dir():
        raise ValueError(f"calibration: got {str(folder)!r}, needs a folder of images")
    paths = find_images([str(folder)]).paths
    step = max(1, len(paths) // MOST_IMAGES)
    batches = DecodedBatches(
        images_of("calibration", paths[::step][:MOST_IMAGES]),
        prepared,
        prepared.working_bytes,
        batch_size=1,
        budget=MemoryBudget(DECODING_BYTES),
    )
    read = [item[None] for batch in batches for _, item in batch if isinstance(item, Tensor)]
    if not read:
        raise ValueError(f"calibration: got {str(folder)!r}, needs a folder with images in it")
    return read


def layers_of_pixels(model: Any) -> list[str]:
    """Return the names of nodes with constant weights that depend on what is in an image."""
    shapes = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    of_pixels = {IMAGES}
    layers = []
    for node in model.graph.node:  # in an order in which inputs come first
        if node.op_type in _SHAPE_ONLY or of_pixels.isdisjoint(node.input):
            continue
        of_pixels.update(node.output)
        if shapes.get(node.input[1] if len(node.input) > 1 else "") == _WEIGHT_AXES.get(
            node.op_type
        ):
            layers.append(node.name)
    return layers


def quantise(content: bytes, images: Sequence[Tensor]) -> bytes:
    """Return an ONNX file whose layers compute in int8.

    Parameters
    ----------
    content : bytes
        A float32 file of :func:`graphs.onnx_bytes`.
    images : sequence of Tensor
        ``[1, 3, H, W]`` each, to find the ranges of activations with. Without any, weights are in
        8 bits and activations are rounded by the range of the moment, in linear layers alone.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._left: Iterator[Tensor] = iter(images)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            image = next(self._left, None)
            return None if image is None else {IMAGES: image.numpy()}

    with tempfile.TemporaryDirectory() as name, quiet(), torch.no_grad():
        source, prepared, target = (
            Path(name, f"{step}.onnx") for step in ("float32", "prepared", "int8")
        )
        source.write_bytes(content)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        layers = layers_of_pixels(onnx.load(prepared))
        if images:
            quantize_static(
                prepared,
                target,
                Reader(),
                # Of the other types it would round tensors beside the nodes that are named, such as
                # the attention's masked logits, whose range is infinite.
                op_types_to_quantize=list(_WEIGHT_AXES),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=layers,
            )
        else:
            quantize_dynamic(
                prepared,
                target,
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=layers,
            )
        return target.read_bytes()
