"""TransNeXt models for classification and dense prediction.

    import transnext_models

    model = transnext_models.create_model("transnext_tiny", pretrained=True).eval()
    logits = model(images)  # [B, 3, H, W] to [B, 1000]

Importing this package also makes the models known to timm, if timm is installed.
"""

from __future__ import annotations

from transnext_ops import __version__

from .registry import create_model, list_models
from .timm.hook import register_when_imported
from .transnext import TransNeXt
from .variants import VARIANTS, Checkpoint, Metrics, Variant

__all__ = [
    "VARIANTS",
    "Checkpoint",
    "Metrics",
    "TransNeXt",
    "Variant",
    "__version__",
    "create_model",
    "list_models",
]

register_when_imported()
del register_when_imported
