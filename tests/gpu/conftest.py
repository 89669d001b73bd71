"""Tests that need an NVIDIA GPU: all are skipped where PyTorch sees none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from strategies import numbers_on


@pytest.fixture(autouse=True)
def cuda() -> Iterator[torch.device]:
    """The current CUDA device, on which the test's numbers are made."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU that PyTorch sees")
    device = torch.device("cuda", torch.cuda.current_device())
    with numbers_on(device):
        yield device
