"""The continuous position bias: its two axes, its table, and what users hold of it."""

from transnext_ops.operators.position_bias.bias import (
    bias_coordinates,
    bias_from_values,
    position_bias,
)
from transnext_ops.operators.position_bias.table import PositionBias, bias_arguments

__all__ = [
    "PositionBias",
    "bias_arguments",
    "bias_coordinates",
    "bias_from_values",
    "position_bias",
]
