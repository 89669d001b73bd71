"""The reference TransNeXt: NumPy float64, written for reading. The oracle of every test.

Every operator of `transnext_ops` with its gradients derived by hand, and the whole model forward
from a state dict. Source: Shi, "TransNeXt: Robust Foveal Visual Perception for Vision
Transformers", CVPR 2024, arXiv 2311.17132.

Arrays of any real dtype come in; everything inside and everything that comes out is float64. A
wrong shape raises `ValueError` naming the argument. Only NumPy is imported, so that this folder on
``PYTHONPATH`` is all it takes.
"""

from transnext_reference.attention import (
    aggregated_attention,
    aggregated_attention_backward,
)
from transnext_reference.bias_table import (
    expand_position_bias,
    expand_position_bias_backward,
    position_bias_table,
    position_bias_table_backward,
    tabulated_position_bias,
)
from transnext_reference.conv_glu import conv_glu, conv_glu_backward
from transnext_reference.deformable import (
    deformable_attention,
    deformable_attention_backward,
)
from transnext_reference.model import forward, forward_features
from transnext_reference.pooling import gelu_pool, gelu_pool_backward
from transnext_reference.position_bias import (
    axis_coordinates,
    bilinear_matrix,
    position_bias,
    position_bias_backward,
)
from transnext_reference.residual_norm import add_layer_norm, add_layer_norm_backward
from transnext_reference.special_attention import (
    global_attention,
    global_attention_backward,
    pixel_focused_attention,
    pixel_focused_attention_backward,
)
from transnext_reference.window import (
    window_av,
    window_av_backward,
    window_qk,
    window_qk_backward,
)

__all__ = [
    "add_layer_norm",
    "add_layer_norm_backward",
    "aggregated_attention",
    "aggregated_attention_backward",
    "axis_coordinates",
    "bilinear_matrix",
    "conv_glu",
    "conv_glu_backward",
    "deformable_attention",
    "deformable_attention_backward",
    "expand_position_bias",
    "expand_position_bias_backward",
    "forward",
    "forward_features",
    "gelu_pool",
    "gelu_pool_backward",
    "global_attention",
    "global_attention_backward",
    "pixel_focused_attention",
    "pixel_focused_attention_backward",
    "position_bias",
    "position_bias_backward",
    "position_bias_table",
    "position_bias_table_backward",
    "tabulated_position_bias",
    "window_av",
    "window_av_backward",
    "window_qk",
    "window_qk_backward",
]
