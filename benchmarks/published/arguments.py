"""The published models' arguments, for the published formulation."""

from __future__ import annotations

from typing import Any

from transnext_models.variants import VARIANTS


def published_arguments(name: str) -> dict[str, Any]:
    """Return what the published formulation needs to build a variant."""
    variant = VARIANTS[name]
    return {
        "embed_dims": variant.embed_dims,
        "num_heads": variant.num_heads,
        "depths": variant.depths,
        "mlp_ratios": variant.mlp_ratios,
        "sr_ratios": variant.sr_ratios,
        "window_size": variant.window_size,
        "drop_path_rate": variant.drop_path_rate,
        "pretrain_size": variant.pretrain_size,
    }
