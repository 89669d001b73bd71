"""A TransNeXt small enough for tests of every mode: four stages, five blocks, few weights."""

from __future__ import annotations

from typing import Any

import torch

from golden_data import fill_value
from transnext_models import TransNeXt

CLASSES = 5
ARCHITECTURE: dict[str, Any] = {
    "embed_dims": (8, 16, 24, 32),
    "num_heads": (1, 2, 2, 4),
    "depths": (1, 1, 2, 1),
    "mlp_ratios": (3, 2, 2, 2),
    "num_classes": CLASSES,
}


def small_model(**options: Any) -> TransNeXt:
    """The small model in evaluation mode, with weights of the golden fill rule, in float64.

    The fill rule gives every parameter, also those that start at zero, a say in the output.
    """
    model = TransNeXt(**{**ARCHITECTURE, **options}).double().eval()
    model.load_state_dict(
        {
            name: torch.from_numpy(fill_value(name, tuple(value.shape)))
            for name, value in model.state_dict().items()
        }
    )
    return model


def images(
    height: int = 64, width: int | None = None, batch: int = 2, seed: int = 0
) -> torch.Tensor:
    """Normal noise ``[batch, 3, height, width]``, float64."""
    generator = torch.Generator().manual_seed(seed)
    size = (batch, 3, height, height if width is None else width)
    return torch.randn(size, generator=generator, dtype=torch.float64)
