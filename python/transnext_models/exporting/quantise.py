"""An ONNX file in int8, by ONNX Runtime.

What is quantised are the linear layers that pixels go through. The network of the position bias,
which sees coordinates, and attention's products of two activations stay as they are: they are
small, and rounding them costs accuracy.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from .graphs import IMAGES, quiet

__all__ = ["layers_of_pixels", "quantise"]

_LAYERS = ("MatMul", "Gemm")
_SHAPE_ONLY = ("Shape", "Size")


def layers_of_pixels(model: Any) -> list[str]:
    """Return the names of linear layers that depend on what is in an image."""
    matrices = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    of_pixels = {IMAGES}
    layers = []
    for node in model.graph.node:  # in an order in which inputs come first
        if node.op_type in _SHAPE_ONLY or of_pixels.isdisjoint(node.input):
            continue
        of_pixels.update(node.output)
        if node.op_type in _LAYERS and node.input[1] in matrices:
            layers.append(node.name)
    return layers


def quantise(content: bytes) -> bytes:
    """Return an ONNX file whose linear layers compute in int8.

    Weights are rounded by the range of each output; activations, as a file runs, by their range of
    the moment.

    Parameters
    ----------
    content : bytes
        A float32 file of :func:`graphs.onnx_bytes`.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as name, quiet():
        source, prepared, target = (
            Path(name, f"{step}.onnx") for step in ("float32", "prepared", "int8")
        )
        source.write_bytes(content)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_dynamic(
            prepared,
            target,
            op_types_to_quantize=list(_LAYERS),
            per_channel=True,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=layers_of_pixels(onnx.load(prepared)),
        )
        return target.read_bytes()
