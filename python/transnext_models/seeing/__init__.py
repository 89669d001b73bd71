"""See what a model looks at: attention of single queries, and effective receptive fields."""

from .block import BlockInfo, RecordedBlock, Weights
from .query import QueryAttention
from .receptive_field import AreaRatio, ReceptiveField, effective_receptive_field
from .record import AttentionRecord, preprocess_of, record_attention

__all__ = [
    "AreaRatio",
    "AttentionRecord",
    "BlockInfo",
    "QueryAttention",
    "ReceptiveField",
    "RecordedBlock",
    "Weights",
    "effective_receptive_field",
    "preprocess_of",
    "record_attention",
]
