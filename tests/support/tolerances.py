"""The one table of tolerances: how close every backend must come to the float64 reference.

The error of a result is ‖out - ref‖ / ‖ref‖ over the whole tensor, the reference being fed the very
numbers the backend was fed. Allowed is the table's value, times two for gradients, plus what no
implementation could avoid: the change of the *reference* when its inputs, and a softmax's logits,
move by the rounding unit of the arithmetic (`condition`). The latter matters where the function
itself is ill-conditioned, such as a softmax over logits of 1e4.
"""

from __future__ import annotations

import math

import numpy as np
import torch

# Relative forward error: fixed part, and part that grows with the square root of the summed terms.
FORWARD = {
    torch.float64: (0.0, 2e-14),
    torch.float32: (0.0, 1e-6),
    torch.float16: (2e-3, 0.0),
    torch.bfloat16: (1.5e-2, 0.0),
}
GRADIENT_FACTOR = 2.0
CONDITION_FACTOR = 8.0

# Rounding unit of the arithmetic, which is float32 at least.
ARITHMETIC_UNIT = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-24,
    torch.bfloat16: 2.0**-24,
}
STORAGE_UNIT = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
}


def tolerance(dtype: torch.dtype, work: float, *, gradient: bool = False) -> float:
    """Return the allowed relative error of a result that sums about `work` terms."""
    fixed, per_root = FORWARD[dtype]
    allowed = fixed + per_root * math.sqrt(max(work, 1.0))
    return allowed * (GRADIENT_FACTOR if gradient else 1.0)


def assert_agrees(
    name: str,
    actual: torch.Tensor,
    reference: np.ndarray,
    *,
    dtype: torch.dtype,
    work: float,
    gradient: bool = False,
    condition: float = 0.0,
) -> None:
    """Fail, with the numbers, where `actual` is further from `reference` than the table allows.

    A NaN fails. Reference values that are beyond the storage type's range whatever the allowed
    error must come out as infinite or as its largest numbers, with their signs.
    """
    assert tuple(actual.shape) == reference.shape, (
        f"{name}: {tuple(actual.shape)} {reference.shape}"
    )
    values = actual.detach().double().cpu().numpy()
    assert not np.isnan(values).any(), f"{name}: NaN"
    largest = torch.finfo(actual.dtype).max
    overflow = np.abs(reference) > 0.98 * largest
    size = float(np.linalg.norm(np.where(overflow, 0.0, reference)))
    # What rounds to zero in storage is right as zero.
    underflow = torch.finfo(actual.dtype).tiny * math.sqrt(max(reference.size, 1))
    allowed = tolerance(dtype, work, gradient=gradient) * size + condition + underflow
    # A number's share of the allowed error says where range is left for sure, and where perhaps.
    share = allowed / math.sqrt(max(reference.size, 1))
    sure = np.abs(reference) > 0.98 * largest + share
    assert (np.abs(values[sure]) > 0.9 * largest).all(), f"{name}: should have overflowed"
    assert (np.sign(values[sure]) == np.sign(reference[sure])).all(), f"{name}: sign"
    perhaps = np.abs(reference) > 0.98 * largest - share
    values = np.where(perhaps, np.clip(values, -largest, largest), values)
    difference = np.where(overflow, 0.0, values - np.where(overflow, 0.0, reference))
    error = float(np.linalg.norm(difference))
    relative = error / max(size, 1e-300)
    assert error <= allowed, (
        f"{name}: error {error:.3e}, allowed {allowed:.3e} (relative {relative:.3e}, "
        f"condition {condition:.3e}, {dtype}, work {work:.0f})"
    )
