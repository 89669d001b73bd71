"""See what a model looks at: attention of single queries, and effective receptive fields."""

from .block import BlockInfo, RecordedBlock, Weights
from .figures import (
    draw_erf,
    draw_foveal,
    draw_query,
    figure_erf,
    figure_foveal,
    figure_query,
    figure_sizes,
)
from .query import QueryAttention
from .receptive_field import (
    AreaRatio,
    ReceptiveField,
    effective_receptive_field,
    effective_receptive_fields,
)
from .record import AttentionRecord, preprocess_of, record_attention
from .vision import foveal_picture

__all__ = [
    "AreaRatio",
    "AttentionRecord",
    "BlockInfo",
    "QueryAttention",
    "ReceptiveField",
    "RecordedBlock",
    "Weights",
    "draw_erf",
    "draw_foveal",
    "draw_query",
    "effective_receptive_field",
    "effective_receptive_fields",
    "figure_erf",
    "figure_foveal",
    "figure_query",
    "figure_sizes",
    "foveal_picture",
    "preprocess_of",
    "record_attention",
]
