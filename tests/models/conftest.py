"""Fixtures that several files share."""

from __future__ import annotations

import pytest
import torch

from small_model import small_model


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return {name: value.float() for name, value in small_model().state_dict().items()}
