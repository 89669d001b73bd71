"""See what a model looks at: attention of single queries, and effective receptive fields."""

from .block import BlockInfo, RecordedBlock, Weights
from .query import QueryAttention
from .record import AttentionRecord, preprocess_of, record_attention

__all__ = [
    "AttentionRecord",
    "BlockInfo",
    "QueryAttention",
    "RecordedBlock",
    "Weights",
    "preprocess_of",
    "record_attention",
]
