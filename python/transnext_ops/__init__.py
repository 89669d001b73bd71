"""transnext_ops: the operators of TransNeXt, fused, forward and backward, on CPU and CUDA.

Foveal attention for PyTorch: one softmax over a sharp neighbourhood and a coarse whole image. Every
operator takes torch tensors, differentiates, and runs on the backend that :func:`set_backend` or
:func:`use_backend` names (by default the fastest that supports the call). Given CuPy arrays, they
return CuPy arrays (:mod:`transnext_ops.cupy_arrays`).
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

# Imported here, not at the first call: the compiled library prepares for forks when it is loaded,
# and a child forked while another thread imports a module would wait for that thread for ever.
import transnext_ops.backends.reference_backend
import transnext_ops.dispatch.custom_operators  # noqa: F401  registers torch.ops.transnext
from transnext_ops.backends import cpp_backend
from transnext_ops.backends.registry import (
    BackendError,
    available_backends,
    explain_backend,
    get_backend,
    set_backend,
    use_backend,
)
from transnext_ops.dispatch.decompositions import decompositions
from transnext_ops.dispatch.packed_gradients import unpack
from transnext_ops.distribution import NAME
from transnext_ops.operators.add_layer_norm import add_layer_norm
from transnext_ops.operators.aggregated_attention import (
    aggregated_attention,
    pixel_focused_attention,
)
from transnext_ops.operators.conv_glu import conv_glu
from transnext_ops.operators.deformable_attention import deformable_attention
from transnext_ops.operators.gelu_pool import gelu_pool
from transnext_ops.operators.global_attention import global_attention
from transnext_ops.operators.position_bias import bias_coordinates, bias_from_values, position_bias
from transnext_ops.operators.position_bias.table import PositionBias
from transnext_ops.operators.window import window_av, window_qk

try:
    __version__ = version(NAME)
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"

cpp_backend.warn_if_not_loadable()

__all__ = [
    "BackendError",
    "PositionBias",
    "add_layer_norm",
    "aggregated_attention",
    "available_backends",
    "bias_coordinates",
    "bias_from_values",
    "conv_glu",
    "decompositions",
    "deformable_attention",
    "explain_backend",
    "gelu_pool",
    "get_backend",
    "global_attention",
    "pixel_focused_attention",
    "position_bias",
    "set_backend",
    "unpack",
    "use_backend",
    "window_av",
    "window_qk",
]
